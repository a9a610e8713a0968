"""What a run keeps on file, and how an interrupted one is found again.

run.json            what was resolved        base.json      the test set, as the base model answers it
<editor>/editor.json, edits.jsonl (one line an edit, appended), scores.json, record.json
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from kebench.edits.editor import AbstractEditor, editor_path, settings_of
from kebench.errors import BadFile, BadSetting
from kebench.files.json import write_json
from kebench.running.environment import execution, versions
from kebench.running.plan import Plan
from kebench.running.shard import EDITS_AT_ONCE
from kebench.running.streams import Position
from kebench.running.trial import Trial
from kebench.scoring.answers import BaseAnswer, EditAnswers
from kebench.scoring.record import FORMAT, RunRecord, Setting
from kebench.scoring.regimes import FINAL
from kebench.scoring.scorer import Scores

ROWS = "edits.jsonl"
"""Where an editor's folder keeps what was answered."""


def make_folder(folder: Path, flag: str) -> None:
    """Makes a folder that a flag names, unless it is there.

    Raises:
        BadSetting: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{flag}: {folder} cannot be made ({type(error).__name__})") from None


def open_run(folder: Path, plan: Plan) -> None:
    """Starts the run's folder, or makes sure that the one there is this run's.

    One that differs in the version of the scoring rules alone is: its answers are kept, and scored anew.
    """
    file = folder / "run.json"
    setting = _as_read(plan.setting)
    if file.is_file():
        try:
            saved = dict(json.loads(file.read_text(encoding="utf-8")))
            there = dict(saved["setting"])
            _unversioned(there)
        except (ValueError, KeyError, TypeError):
            raise BadFile(
                file, "not a run's settings; remove the folder or choose another --output"
            ) from None
        different = [name for name in setting if setting[name] != there.get(name)]
        if _unversioned(there) == _unversioned(setting):
            write_json({**saved, "setting": setting}, file)
        elif different:
            raise BadSetting(
                f"{folder}: holds a run with another {', '.join(different)}; choose another --output"
            )
        return
    inputs = plan.inputs
    write_json([row.to_json() for row in plan.base], folder / "base.json")
    write_json(
        {
            "setting": setting,
            "base": plan.base_facts(),
            "pack_licence": inputs.pack.lock.licence,
            "edits_at_once": EDITS_AT_ONCE,
            "versions": versions(),
            "hardware": execution(inputs.model),
        },
        file,
    )


def _as_read(setting: Setting) -> dict[str, Any]:
    """A setting as it is read back from a run's folder: every field, but for what only streams have."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(setting)))
    return fields if setting.ask_after else {name: fields[name] for name in fields if name != "ask_after"}


def _unversioned(setting: dict[str, Any]) -> dict[str, Any]:
    """What decides the answers of a run: its setting without the version of the scoring rules.

    Samples were drawn with `seed` before there was a `retain_seed`.
    """
    rules = {name: rule for name, rule in setting["protocol"].items() if name != "scoring"}
    retain_seed = setting.get("retain_seed")
    return {
        **setting,
        "protocol": rules,
        "retain_seed": setting["seed"] if retain_seed is None else retain_seed,
    }


def open_editor(file: Path, editor: AbstractEditor) -> dict[str, Any]:
    """The editor's settings as a record holds them, where a tuple is a list.

    Raises:
        BadSetting: they cannot be recorded, or the rows that are there are another editor's.
        BadFile: what is there are no settings.
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
def open_rows(rows: Path, *, keep: int) -> Iterator[TextIO]:
    """An editor's rows, to be added to; what stands after the first `keep` of them is cut off.

    Raises:
        BadFile: there are fewer.
    """
    lines = rows.read_bytes().splitlines(keepends=True) if rows.is_file() else []
    if len(lines) < keep:
        raise BadFile(rows, f"found {len(lines)} rows, wanted the {keep} that were written; remove the file")
    with rows.open("ab") as file:
        file.truncate(sum(map(len, lines[:keep])))
    with rows.open("a", encoding="utf-8") as text:
        yield text


def recover(rows: Path, total: int) -> Position:
    """How far a run of the regime `single` is: by whole groups, so that a group is always the same."""
    if not rows.is_file():
        return Position()
    lines = rows.read_bytes().splitlines(keepends=True)
    whole = len(lines) if not lines or lines[-1].endswith(b"\n") else len(lines) - 1
    kept = whole if whole == total else whole - whole % EDITS_AT_ONCE
    return Position(batches=kept, rows=kept)


def finished(place: Path, setting: Setting, scores: Scores) -> RunRecord | None:
    """The record of an editor that was done before, if there is one.

    Where the scoring rules are new since, it gets these scores; what it says of the run's cost, versions and
    hardware stays.
    """
    file = place / "record.json"
    if not file.is_file():
        return None
    there = RunRecord.read(file)
    if there.scores.protocol.scoring != scores.protocol.scoring:
        there = replace(there, format=FORMAT, setting=setting, scores=scores)
        write_json(scores.to_json(), place / "scores.json")
        there.write(file)
    return there if there.scores.to_json() == scores.to_json() else None


def read_edits(rows: Path) -> list[EditAnswers]:
    """The answers of one editor's finished run.

    Raises:
        BadFile: a line is not what a run writes.
    """
    return [trial.answers for trial in read_trials(rows)]


def read_base(folder: Path) -> list[BaseAnswer]:
    """The test set of a run's folder, as the base model answers it.

    Raises:
        BadFile: the file is not what a run writes.
    """
    file = folder / "base.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [BaseAnswer(**{**row, "gold": tuple(row["gold"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        raise BadFile(file, "not a run's base answers") from None


def read_trials(rows: Path) -> list[Trial]:
    """The trials on file.

    Raises:
        BadFile: a line is not what a run writes.
    """
    found = []
    for number, line in enumerate(rows.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            seconds = fields.pop("edit_seconds"), fields.pop("answer_seconds")
            moment = fields.pop("time", FINAL)
            found.append(Trial(EditAnswers.from_json(fields), *seconds, moment))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BadFile(
                rows, "not an edit's answers; remove the file to start over", place=number
            ) from None
    return found


def to_line(trial: Trial) -> str:
    """A trial as one line of `edits.jsonl`. The time is left out when it is the final one."""
    seconds = {"edit_seconds": trial.edit_seconds, "answer_seconds": trial.answer_seconds}
    moment = {} if trial.time == FINAL else {"time": trial.time}
    return json.dumps({**trial.answers.to_json(), **seconds, **moment}, ensure_ascii=True) + "\n"
