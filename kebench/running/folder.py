"""Reads and writes the files of a run, and finds out where an interrupted run continues.

run.json            the setting              base.json      the test set with the base model's answers
<editor>/editor.json, edits.jsonl (a line for each edit, appended), scores.json, record.json
<editor>/failures.jsonl (why edits failed, with tracebacks; only if an edit failed)
"""

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kebench.edits.editor import AbstractEditor, editor_path, settings_of
from kebench.errors import BadFile, BadSetting
from kebench.files.checked import SHA256, Damaged, is_sealed, read_object, sealed, write_sealed
from kebench.files.json import write_json
from kebench.files.writing import naming
from kebench.running.cases import Case
from kebench.running.environment import execution, versions
from kebench.running.plan import Plan
from kebench.running.shard import EDITS_AT_ONCE
from kebench.running.streams import Position, asked_after, steps_of
from kebench.running.trial import unanswered
from kebench.scoring.answers import EditAnswers
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.regimes import FINAL
from kebench.scoring.rows import BASE, REMEDY, Trial, read_trials, rows_key, unversioned

logger = logging.getLogger(__name__)
RUN = "run.json"
"""The file in a run's folder with its setting."""
FAILURES = "failures.jsonl"
"""The file in an editor's folder that says why edits failed: the id, the reason and the traceback."""


def make_folder(folder: Path, flag: str) -> None:
    """Makes the folder that an option names, if it does not exist.

    Raises:
        BadSetting: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{flag}: {folder} cannot be made ({error.strerror})") from None


def open_run(folder: Path, plan: Plan) -> None:
    """Starts the run's folder, or checks that an existing one holds this run.

    It may differ in the version of the scoring rules. Then its answers are kept and scored again.

    Raises:
        BadFile: the run's file was altered.
        BadSetting: the folder holds another run.
    """
    file = folder / RUN
    setting = _as_read(plan.setting)
    if file.is_file():
        try:
            saved = dict(json.loads(file.read_text(encoding="utf-8")))
            there = dict(saved["setting"])
            unversioned(there)
        except (ValueError, KeyError, TypeError):
            raise BadFile(
                file, "not a run's settings; remove the folder or choose another --output"
            ) from None
        different = [name for name in setting if setting[name] != there.get(name)]
        if SHA256 in saved and not is_sealed(saved):
            raise BadFile(file, "was altered: its checksum is not right; remove it, and run again")
        if unversioned(there) == unversioned(setting):
            if different:
                saved = {**saved, "setting": setting}
                write_json(sealed(saved) if SHA256 in saved else saved, file)
        elif different:
            raise BadSetting(
                f"{folder}: holds a run with another {', '.join(different)}; choose another --output"
            )
        _write_base(folder / BASE, plan)
        return
    _write_base(folder / BASE, plan)
    inputs = plan.inputs
    write_sealed(
        {
            "setting": setting,
            "base": plan.base_facts(),
            "pack_licence": inputs.pack.lock.licence,
            "edits_at_once": EDITS_AT_ONCE,
            "versions": versions(),
            "hardware": execution(inputs.model, plan.prompts()),
        },
        file,
    )


def is_older(folder: Path) -> bool:
    """Returns True if a run was started before its files had checksums.

    Raises:
        BadFile: its `run.json` cannot be read.
    """
    try:
        return SHA256 not in read_object(folder / RUN)
    except (Damaged, OSError):
        raise BadFile(folder / RUN, "not a run's settings") from None


def _write_base(file: Path, plan: Plan) -> None:
    """Writes the test set with the base model's answers, if the file does not hold it."""
    rows = [row.to_json() for row in plan.base]
    try:
        if (there := json.loads(file.read_bytes())) == json.loads(json.dumps(rows)):
            return
    except FileNotFoundError:
        there = None
    except (OSError, ValueError, RecursionError):
        there = {}
    if there is not None:
        logger.warning("%s: not the base answers of this run; it is written again", file)
    write_json(rows, file)


def _as_read(setting: Setting) -> dict[str, Any]:
    """Returns a setting as JSON. Two fields that few runs have are left out if they are empty."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(setting)))
    return {
        name: fields[name] for name in fields if fields[name] or name not in ("ask_after", "edit_timeout")
    }


def open_editor(file: Path, editor: AbstractEditor) -> dict[str, Any]:
    """Returns the editor's settings as JSON, after writing them or comparing them with the file.

    Raises:
        BadSetting: they cannot be recorded, or the folder has rows of other settings.
        BadFile: the file does not hold settings.
    """
    found = {"editor": editor_path(editor), "settings": settings_of(editor)}
    try:
        as_read = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadSetting(f"{found['editor']}: its settings cannot be recorded ({error})") from None
    if not file.is_file():
        write_json(found, file)
        return dict(as_read["settings"])
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise BadFile(
            file, "not an editor's settings; remove the folder or choose another --output"
        ) from None
    if there != as_read:
        raise BadSetting(f"{file.parent}: holds rows of other settings; remove it or choose another --output")
    return dict(as_read["settings"])


@contextmanager
def open_rows(rows: Path, *, keep: int) -> Iterator[Callable[[Iterable[str]], None]]:
    """Opens an editor's rows, removes all but the first `keep`, and gives a function that adds lines.

    Lines are on the disk when the function returns. If they cannot be written, none of them is on file.

    Raises:
        BadFile: there are fewer than `keep` rows.
    """
    n_rows = n_bytes = 0
    for size in islice(_sizes(rows), keep):
        n_rows, n_bytes = n_rows + 1, n_bytes + size
    if n_rows < keep:
        raise BadFile(rows, f"found {n_rows} rows, wanted the {keep} that were written; {REMEDY}")
    with naming(rows), rows.open("ab", buffering=0) as file:
        file.truncate(n_bytes)

        def add(more: Iterable[str]) -> None:
            before = file.seek(0, os.SEEK_END)
            content = memoryview("".join(more).encode())
            try:
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(before)
                raise

        yield add


def _sizes(rows: Path) -> Iterator[int]:
    """Yields the number of bytes of each complete line of a file; nothing if there is no file."""
    if rows.is_file():
        with rows.open("rb") as lines:
            yield from (len(line) for line in lines if line.endswith(b"\n"))


def recover(rows: Path, total: int) -> Position:
    """Returns the position of a run of the regime `single`, in whole groups, so that groups stay the same."""
    whole = sum(1 for _ in _sizes(rows))
    kept = whole if whole == total else whole - whole % EDITS_AT_ONCE
    return Position(batches=kept, rows=kept)


def rows_on_file(
    rows: Path, plan: Plan, editor: AbstractEditor, position: Position, *, older: bool
) -> Iterator[Trial]:
    """Yields the first rows on file, each after it was compared with the plan.

    Args:
        rows: the file.
        plan: the plan of the run.
        editor: the editor of the rows.
        position: the position of the run.
        older: True if the run is older than checksums.

    Raises:
        BadFile: a line was altered, or is of another run or editor.
    """
    number = 0
    trials = read_trials(rows, key_of(plan, editor), first=position.rows, older=older)
    for number, (trial, (moment, case)) in enumerate(zip(trials, _wanted(plan), strict=False), 1):
        found, wanted = _asked(trial.answers), _asked(unanswered(case, plan))
        different = [name for name in wanted if found[name] != wanted[name]]
        if trial.time != moment:
            different.append("time")
        if different:
            raise BadFile(
                rows, f"{', '.join(different)}: not what this run asks there; {REMEDY}", place=number
            )
        yield trial
    if number < position.rows:
        raise BadFile(rows, f"found {number} rows, wanted {position.rows}; {REMEDY}")
    if older and number:
        logger.warning("%s: is older than checksums, and its answers are believed as they are", rows)


def key_of(plan: Plan, editor: AbstractEditor) -> str:
    """Returns the key of an editor's rows in a run (`kebench.scoring.rows`)."""
    settings = json.loads(json.dumps(settings_of(editor)))
    return rows_key(plan.setting, editor_path(editor), settings)


def _wanted(plan: Plan) -> Iterator[tuple[str, Case]]:
    """Yields the time and the case of every row of a run, in order."""
    if plan.regime.name == "single":
        yield from ((FINAL, case) for case in plan.cases)
        return
    for stream in plan.regime.streams(plan.cases):
        cases = [case for batch in stream for case in batch]
        for step in steps_of(plan, cases):
            for moment, asked in asked_after(plan, step).items():
                yield from ((moment, case) for case in asked)


def _asked(answers: EditAnswers) -> dict[str, Any]:
    """Returns the edit and the questions of a row, without the answers."""
    return {
        "id": answers.id,
        "fact": answers.fact,
        "prompt": answers.prompt,
        "prediction": answers.prediction,
        "target": answers.target,
        "held_out": answers.held_out,
        "paraphrases": [(each.text, each.held_out) for each in answers.paraphrases],
        "sample": list(answers.sample),
        "further": [each.question for each in answers.further],
    }


def settle(place: Path, fresh: RunRecord) -> RunRecord:
    """Makes the files of an editor that was complete before agree with its rows, and returns its record.

    The record keeps what the rows do not have: versions, hardware, seconds of preparation and peak memory.

    Args:
        place: the editor's folder.
        fresh: the record that this process made from the rows.
    """
    file = place / "record.json"
    try:
        there = RunRecord.read(file)
    except BadFile as error:
        if file.exists():
            logger.warning("%s; it is written again, with the versions and hardware of now", error)
        record = fresh
    else:
        cost = replace(
            fresh.cost,
            prepare_seconds=there.cost.prepare_seconds,
            peak_memory_bytes=there.cost.peak_memory_bytes,
        )
        record = replace(fresh, cost=cost, versions=there.versions, hardware=there.hardware).sealed()
        wrong = [name for name, value in vars(record).items() if value != getattr(there, name)]
        rescored = there.scores.protocol.scoring != record.scores.protocol.scoring
        if there != record and not rescored:
            names = ", ".join(name for name in wrong if name != "sha256")
            logger.warning("%s: %s: not what the rows give; it is written again", file, names)
    _write_if_other(record.scores.to_json(), place / "scores.json")
    _write_if_other(record.to_json(), file)
    return record


def _write_if_other(value: Any, file: Path) -> None:
    """Writes a JSON file, unless it holds the value already."""
    try:
        if json.loads(file.read_bytes()) == json.loads(json.dumps(value)):
            return
    except (OSError, ValueError, RecursionError):
        pass
    write_json(value, file)


def append_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to a JSONL file. Without lines, no file is made."""
    if lines:
        with file.open("a", encoding="utf-8") as text:
            text.writelines(json.dumps(line) + "\n" for line in lines)


def keep_failures(place: Path, ids: Collection[str]) -> None:
    """Removes edits with other ids from an editor's file of failures, because they are made again."""
    file = place / FAILURES
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):  # part of a line, after an interruption
            told = json.loads(line)
            if isinstance(told, dict) and told.get("id") in ids:
                kept.append(told)
    file.unlink()
    append_lines(file, kept)
