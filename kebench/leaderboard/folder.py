"""The folder of leaderboards: stores records, makes tables from them, and checks tables against records."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kebench.errors import BadFile, BadSetting
from kebench.files.json import as_text
from kebench.files.writing import write_all
from kebench.files.yaml import validated
from kebench.leaderboard.contradictions import contradictions
from kebench.leaderboard.curves import MADE_BY, can_draw, curve_name, curves, has_curve
from kebench.leaderboard.escape import distinct_slug
from kebench.leaderboard.settings import Neighbours, base_name, by_setting, differences, table_name
from kebench.leaderboard.spreadsheet import csv_table
from kebench.leaderboard.tables import MARK, markdown_page, markdown_table
from kebench.leaderboard.tuning import TUNING, tuning_path
from kebench.scoring.record import RunRecord
from kebench.scoring.tuning import Tuning

logger = logging.getLogger(__name__)

RECORDS = "records"


def record_path(folder: Path, record: RunRecord) -> Path:
    """The path of a record. One editor in one setting has one path, whatever the editor's own settings."""
    setting = record.setting
    name = f"{base_name(setting)}--{setting.key}--{distinct_slug(record.editor)}.json"
    return folder / distinct_slug(setting.task) / RECORDS / name


def read_record(path: Path) -> RunRecord:
    """Reads a record that may come from a stranger.

    Raises:
        BadFile: it is not a record, a field has the wrong type, or its numbers contradict each other.
    """
    try:
        record = RunRecord.read(path)
    except (OverflowError, RecursionError) as error:  # an infinite count; brackets without end
        raise BadFile(path, f"not a run record ({error.__class__.__name__})") from None
    return _sound(record, path)


def add_records(folder: Path, records: Sequence[Path | RunRecord], *, replace: bool = False) -> list[Path]:
    """Stores all records, or none of them. Tables are not changed.

    A record of the same setting, editor and editor settings as one on file (a rerun) replaces it.

    Args:
        folder: of the leaderboards; made if it is missing.
        records: the records, or the files that hold them.
        replace: whether a record with other editor settings may replace the one on file too.

    Returns:
        Where each was stored, in the order given.

    Raises:
        BadFile: one of them is not a record, or contradicts itself. Nothing was stored.
        BadSetting: a record on file, or one of those given, has the same name and other editor settings, and
            `replace` is not set. Nothing was stored.
    """
    sound = [
        _sound(record, f"record of {record.editor}") if isinstance(record, RunRecord) else read_record(record)
        for record in records
    ]
    paths = [record_path(folder, record) for record in sound]
    if not replace:
        _refuse_others(paths, sound)
    for path in paths:
        if path.is_file():
            logger.info("%s: replaced", path)
    write_all({path: as_text(record.to_json()) for path, record in zip(paths, sound, strict=True)})
    return paths


def _refuse_others(paths: Sequence[Path], records: Sequence[RunRecord]) -> None:
    """Refuses records that would replace one of the same name whose editor had other settings."""
    there: dict[Path, dict[str, Any]] = {}
    for path, record in zip(paths, records, strict=True):
        if path not in there and path.is_file():
            there[path] = _editor_on_file(path)
        comes = {"class": record.editor_path, **record.editor_settings}
        found = there.setdefault(path, comes)
        different = [
            name for name in sorted(found.keys() | comes.keys()) if found.get(name) != comes.get(name)
        ]
        if different:
            old, new = (
                ", ".join(f"{name} {fields.get(name, 'missing')}" for name in different)
                for fields in (found, comes)
            )
            raise BadSetting(
                f"{path}: {record.editor} is there with {old}, and comes with {new}; replace it with "
                "--replace, or give the editor another name"
            )


def _editor_on_file(path: Path) -> dict[str, Any]:
    """The class and settings of the editor of a record, whatever its format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"class": found["editor_path"], **found["editor_settings"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadFile(path, f"not a run record ({error.__class__.__name__}); remove it first") from None


def read_tuning(path: Path) -> Tuning:
    """Reads a tuning that may come from a stranger.

    Raises:
        BadFile: it is not a tuning, its choice does not follow from its trials, or a record is wrong.
    """
    tuning = Tuning.read(path)
    for trial in tuning.trials:
        if trial.record is not None:
            _sound(trial.record, f"{path}: trial {trial.name}")
    return tuning


def add_tunings(folder: Path, files: Sequence[Path], *, replace: bool = False) -> list[Path]:
    """Stores all tunings, or none of them. Tables are not changed.

    Args:
        folder: of the leaderboards.
        files: each a `tuning.json`.
        replace: whether a tuning may replace one that has trials which the new one lacks.

    Returns:
        Where each was stored, in the order given.

    Raises:
        BadFile: one of them is not a tuning. Nothing was stored.
        BadSetting: a trial that is on file would be lost, and `replace` is not set. Nothing was stored.
    """
    tunings = [read_tuning(file) for file in files]
    paths = [tuning_path(folder, tuning) for tuning in tunings]
    there = {} if replace else {path: read_tuning(path) for path in paths if path.is_file()}
    for path, tuning in zip(paths, tunings, strict=True):
        if path in there:
            _refuse_loss(path, there[path], tuning)
    write_all({path: as_text(tuning.to_json()) for path, tuning in zip(paths, tunings, strict=True)})
    return paths


def _refuse_loss(path: Path, there: Tuning, comes: Tuning) -> None:
    """Refuses to replace a tuning by one that lacks some of its trials, or made them in another setting."""
    kept = [trial.settings for trial in comes.trials]
    lost = [trial.name for trial in there.trials if trial.settings not in kept]
    if there.setting != comes.setting:
        different = ", ".join(differences(there.setting, comes.setting))
        problem = f"holds {len(there.trials)} trials of a setting with another {different}"
    elif lost:
        problem = f"holds trials that are not among the new ones: {', '.join(lost)}"
    else:
        return
    raise BadSetting(f"{path}: {problem}; with --replace they are lost")


def rebuild(folder: Path) -> list[Path]:
    """Makes every table and drawing from the records, and removes those that belong to no record.

    Returns:
        The files written, sorted by path.

    Raises:
        BadFile: there is no such folder, or `check` finds a fault in a record. Nothing was written.
    """
    found = _survey(folder)
    if found.faults:
        raise found.faults[0]
    write_all(found.tables)
    for path in found.extra:
        if _was_made(path):
            path.unlink()
            logger.info("%s: removed, no record stands behind it", path)
    return sorted(found.tables)


def check(folder: Path) -> list[str]:
    """What is wrong with the folder, one line for each file; empty if `rebuild` would change nothing.

    Raises:
        BadFile: there is no such folder.
    """
    found = _survey(folder)
    lines = [str(fault) for fault in found.faults]
    for path, text in found.tables.items():
        if not path.is_file():
            lines.append(f"{path}: missing; `kebench leaderboard` makes it")
        elif (on_disk := path.read_bytes()) != text.encode():
            line = _first_difference(on_disk, text.encode())
            lines.append(f"{path}:{line}: not what its records give; `kebench leaderboard` makes it anew")
    for path in found.extra:
        remedy = "`kebench leaderboard` removes it" if _was_made(path) else "remove it"
        lines.append(f"{path}: no record stands behind it; {remedy}")
    return lines


@dataclass(frozen=True)
class _Survey:
    """What a folder holds, and what it should hold.

    Attributes:
        faults: of its records and tunings.
        tables: path → text, of every file that is made from the records without a fault.
        extra: the tables and drawings in the folder that are made from none of the records.
    """

    faults: Sequence[BadFile]
    tables: Mapping[Path, str]
    extra: Sequence[Path]


def _survey(folder: Path) -> _Survey:
    if not folder.is_dir():
        raise BadFile(folder, "no such folder of leaderboards")
    faults: list[BadFile] = []
    tables: dict[Path, str] = {}
    extra: list[Path] = []
    for task in sorted(path for path in folder.iterdir() if path.is_dir()):
        records: list[RunRecord] = []
        for path in sorted((task / RECORDS).glob("*.json")):
            try:
                record = read_record(path)
                _in_place(folder, record, path)
            except BadFile as fault:
                faults.append(fault)
            else:
                records.append(record)
        tunings: list[Tuning] = []
        for path in sorted((task / TUNING).glob("*.json")):
            try:
                tuning = read_tuning(path)
                if path != (wanted := tuning_path(folder, tuning)):
                    raise BadFile(path, f"by its content it should be {wanted.relative_to(folder)}")
            except BadFile as fault:
                faults.append(fault)
            else:
                tunings.append(tuning)
        tables |= _tables(task, records, tunings)
        plots = _plots(task, records)
        tables |= {path: drawing for path, drawing in plots.items() if drawing is not None}
        extra += (
            path
            for path in sorted(task.iterdir())
            if path.suffix in (".md", ".csv") or (path.suffix == ".svg" and _was_made(path))
            if path not in tables and path not in plots
        )
    return _Survey(faults, tables, extra)


def _tables(task: Path, records: Sequence[RunRecord], tunings: Sequence[Tuning]) -> dict[Path, str]:
    """Path → text of all files of one task."""
    if not records:
        return {}
    others = Neighbours(records)
    texts = {task / "README.md": markdown_page(records, tunings)}
    for rows in by_setting(records):
        name = table_name(others.names[rows[0].setting.key], rows[0].scores.time)
        texts[task / f"{name}.md"] = markdown_table(rows, others, tunings)
        texts[task / f"{name}.csv"] = csv_table(rows, tunings)
    return texts


def _plots(task: Path, records: Sequence[RunRecord]) -> dict[Path, str | None]:
    """Path → the drawing, of all drawings of one task; None where matplotlib is missing and it is skipped."""
    found: dict[Path, str | None] = {}
    others = Neighbours(records)
    for key, name in others.names.items():
        rows = others.by_key[key]
        if has_curve(rows):
            path = task / curve_name(name)
            found[path] = curves(rows) if can_draw() else None
            if found[path] is None:
                logger.warning("%s: skipped, a drawing needs matplotlib: pip install 'kebench[plots]'", path)
    return found


def _sound(record: RunRecord, where: Path | str) -> RunRecord:
    checked = validated(RunRecord, asdict(record), where)
    problems = contradictions(checked)
    if problems:
        raise BadFile(where, "; ".join(problems))
    try:
        json.dumps(checked.to_json(), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # NaN outside the scores, half of a character
        raise BadFile(where, f"cannot be written as JSON ({error})") from None
    return checked


def _in_place(folder: Path, record: RunRecord, path: Path) -> None:
    """Refuses a file that `add_records` would write to another path, or with another content."""
    wanted = record_path(folder, record)
    if path != wanted:
        raise BadFile(path, f"by its content it should be {wanted.relative_to(folder)}")
    # A count of 3.5 is read as 3, and an unknown field of a score is ignored: neither may go unnoticed.
    if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(record.to_json())):
        raise BadFile(path, "holds something that a record does not")


def _was_made(path: Path) -> bool:
    """Whether a file says that it was made here, so that it may be removed."""
    if path.suffix == ".svg":
        return path.is_file() and MADE_BY.encode() in path.read_bytes()
    start = "setting,task,task_version," if path.suffix == ".csv" else MARK
    return path.is_file() and path.read_bytes().startswith(start.encode())


def _first_difference(found: bytes, wanted: bytes) -> int:
    """The first line, from 1, in which two different texts differ."""
    pairs = zip(found.split(b"\n"), wanted.split(b"\n"), strict=False)
    same = 0
    for one, other in pairs:
        if one != other:
            break
        same += 1
    return same + 1
