"""`kebench tune`: runs one editor with many settings on a pack's dev split, and says which is best."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kebench.edits.editor import AbstractEditor, editor_path, load_editor, settings_of
from kebench.edits.editor_files import EditorRow, find_editor
from kebench.errors import BadFile, BadSetting, BrokenEditor, KebenchError
from kebench.files.json import write_json
from kebench.files.yaml import as_yaml, read_yaml
from kebench.leaderboard.printed import percent
from kebench.running.plan import Plan
from kebench.running.progress import Progress
from kebench.running.run import inputs_of, run_editor, writing
from kebench.running.settings import RunSettings
from kebench.scoring.record import editor_folder
from kebench.scoring.tuning import FILE, GRID, Trial, Tuning

logger = logging.getLogger(__name__)

_FAILURE = "failure.json"
"""Why a trial failed, in its folder."""


@dataclass(frozen=True)
class _Candidate:
    """An editor that is to be tried."""

    name: str
    changes: Mapping[str, Any]
    editor: AbstractEditor


def read_grid(path: Path) -> list[dict[str, Any]]:
    """The settings to try, each as the fields that change.

    Args:
        path: a YAML file: a list of mappings of fields to values, or one mapping of fields to lists of
            values, which stands for all combinations (the last field changes fastest).

    Raises:
        BadFile: it is neither, or holds nothing to try.
    """
    found = read_yaml(path)
    if isinstance(found, dict) and found and all(isinstance(v, list) and v for v in found.values()):
        return [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    if isinstance(found, list) and found and all(isinstance(each, dict) for each in found):
        return found
    raise BadFile(
        path, "wanted a list of mappings of settings to values, or a mapping of settings to lists of values"
    )


def tune(
    settings: RunSettings, grid: Sequence[Mapping[str, Any]], *, progress: Progress | None = None
) -> tuple[Path, Tuning]:
    """Tries every choice of settings, and returns the folder and what was found.

    Each trial is a run of the editor on the dev split; its settings are those of the editor's file (without
    `tuned:`), changed first as `settings.settings` says, then as the grid says. The folder holds a run of
    each, and `tuning.json`.

    Args:
        settings: which editor (one), on what. `split` is taken as `dev`.
        grid: what changes, for each trial.
        progress: where to tell how far it is.

    Raises:
        KebenchError: a setting, a file or an editor is wrong. An interrupted tuning may simply be run again:
            trials that are done are kept.
    """
    settings = replace(settings, split="dev")
    settings.check()
    (given,) = settings.editors
    load_editor(given, changes=settings.settings)  # tells a mistake in them before one in the grid
    name, candidates = _candidates(given, [{**settings.settings, **changes} for changes in grid])
    progress = progress or Progress()
    try:
        plan = Plan.of(inputs_of(settings, progress), settings)
        folder = Path(settings.output) if settings.output else _default_folder(name, plan)
        with writing(folder, plan):
            _refuse_others(folder, candidates)
            (folder / FILE).unlink(missing_ok=True)
            write_json([dict(each.changes) for each in candidates], folder / GRID)
            trials = [_try(each, plan, folder, progress) for each in candidates]
            tuning = Tuning(name, editor_path(candidates[0].editor), plan.setting, trials)
            write_json(tuning.to_json(), folder / FILE)
    finally:
        progress.close()
    return folder, tuning


def _default_folder(name: str, plan: Plan) -> Path:
    return editor_folder(Path("runs"), f"tune-{plan.setting.task}-{name}-{plan.setting.key}")


def _candidates(given: str, grid: Sequence[Mapping[str, Any]]) -> tuple[str, list[_Candidate]]:
    """The editor's name, and every one that is to be tried; all of them are checked before the first runs."""
    shown = find_editor(given).name
    found: dict[Path, _Candidate] = {}
    for number, changes in enumerate(grid, 1):
        _, editor = load_editor(given, changes=changes, changed_by=f"grid: trial {number}:")
        resolved = json.loads(json.dumps(settings_of(editor)))
        changed = {field: resolved[field] for field in changes}
        candidate = _Candidate(f"{shown} ({_in_words(changed) or 'unchanged'})", changed, editor)
        for place, other in found.items():
            if other.editor == editor or place == editor_folder(Path(), candidate.name):
                raise BadSetting(f"grid: trial {number} is '{other.name}' again, wanted different settings")
        found[editor_folder(Path(), candidate.name)] = candidate
    return shown, list(found.values())


def _in_words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{field}={as_yaml(value)}" for field, value in changes.items())


def chosen_as_yaml(tuning: Tuning, row: EditorRow) -> str:
    """The lines to paste into the editor's file, which say what was chosen; empty if every trial failed.

    Args:
        tuning: the trials.
        row: the editor that was tuned, which says where in its file the lines belong.
    """
    if tuning.chosen is None:
        return ""
    place = as_yaml(f"{tuning.setting.task}/{tuning.setting.pack}")
    lines = ["tuned:", f"  {place}: {as_yaml(dict(tuning.chosen.changes))}"]
    if row.row is not None:
        recipe = [] if row.has_row else [f"recipe: {as_yaml(row.recipe)}"]
        inner = [f"    {line}" for line in (*recipe, *lines)]
        lines = ["rows:", f"  {as_yaml(row.row)}:", *inner]
    return "\n".join(lines)


def _refuse_others(folder: Path, candidates: Sequence[_Candidate]) -> None:
    """Refuses to leave out a trial that was made, or that failed: all of them count."""
    wanted = {editor_folder(folder, each.name) for each in candidates}
    made = [*folder.glob("*/record.json"), *folder.glob(f"*/{_FAILURE}")]
    for place in sorted(file.parent for file in made):
        if place not in wanted:
            raise BadSetting(
                f"{place}: a trial that is not in the grid; add it there, or choose another --output"
            )


def _try(candidate: _Candidate, plan: Plan, folder: Path, progress: Progress) -> Trial:
    """Runs one trial, or takes it from the folder. One that failed is tried again."""
    failed = editor_folder(folder, candidate.name) / _FAILURE
    resolved = json.loads(json.dumps(settings_of(candidate.editor)))
    try:
        record = run_editor(candidate.name, candidate.editor, plan, folder, progress)
    except (BrokenEditor, BadFile):
        raise  # no choice of settings, but a fault
    except KebenchError as error:
        logger.info("%s: failed: %s", candidate.name, error)
        write_json(str(error), failed)
        return Trial(candidate.name, candidate.changes, resolved, None, str(error))
    failed.unlink(missing_ok=True)
    trial = Trial(candidate.name, candidate.changes, resolved, record)
    logger.info("%s: criterion %s", trial.name, percent(trial.criterion))
    return trial
