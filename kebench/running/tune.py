"""Runs one editor with many settings on a pack's dev split and finds the best ones, for `kebench tune`."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kebench.edits.editor import AbstractEditor, editor_path, load_editor, settings_of
from kebench.edits.editor_files import EditorRow, Width, find_editor
from kebench.errors import BadFile, BadSetting, BrokenEditor, DependentEdits, KebenchError
from kebench.files.json import write_json
from kebench.files.yaml import as_yaml, read_yaml
from kebench.leaderboard.printed import percent
from kebench.running.plan import Plan
from kebench.running.progress import Progress
from kebench.running.run import inputs_of, run_editor, width_for, writing
from kebench.running.settings import RunSettings
from kebench.scoring.record import editor_folder
from kebench.scoring.tuning import FILE, GRID, Trial, Tuning

logger = logging.getLogger(__name__)

_FAILURE = "failure.json"
"""The file in a trial's folder that says why the trial failed."""


@dataclass(frozen=True)
class _Candidate:
    """An editor with the settings of one trial."""

    name: str
    changes: Mapping[str, Any]
    editor: AbstractEditor


def read_grid(path: Path) -> list[dict[str, Any]]:
    """Reads the settings to try. Each trial is a mapping of the fields that change to their values.

    Args:
        path: a YAML file. It holds a list of mappings of fields to values; or a mapping of fields to lists of
            values, which means all combinations. The last field changes fastest.

    Raises:
        BadFile: the file holds something else, or nothing to try.
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
    """Tries all settings of a grid, and returns the folder and the trials.

    Each trial is a run of the editor on the dev split. Its settings are those of the editor's file without
    `tuned:`, then `settings.settings`, then those of the grid; later ones replace earlier ones. The folder
    holds a run for each trial, and `tuning.json`. After an interruption, the same call continues: complete
    trials are kept.

    Args:
        settings: the settings of the runs, with one editor. `split` is set to `dev`.
        grid: the fields that change, for each trial.
        progress: shows the progress.

    Raises:
        KebenchError: a setting, a file or an editor is wrong.
    """
    settings = replace(settings, split="dev")
    settings.check()
    (given,) = settings.editors
    width = width_for(settings)
    load_editor(given, model_width=width, changes=settings.settings)  # its mistakes are reported first
    name, candidates = _candidates(given, width, [{**settings.settings, **changes} for changes in grid])
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


def _candidates(given: str, width: Width, grid: Sequence[Mapping[str, Any]]) -> tuple[str, list[_Candidate]]:
    """Returns the editor's name and the editor of each trial. All settings are checked first."""
    shown = find_editor(given, width).name
    found: dict[Path, _Candidate] = {}
    for number, changes in enumerate(grid, 1):
        _, editor = load_editor(
            given, model_width=width, changes=changes, changed_by=f"grid: trial {number}:"
        )
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
    """Returns the lines with the chosen settings for the editor's file; nothing if all trials failed.

    Args:
        tuning: the trials.
        row: the row of the editor, which decides where in its file the lines belong.
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
    """Refuses a grid without a trial that is in the folder, because all trials count."""
    wanted = {editor_folder(folder, each.name) for each in candidates}
    made = [*folder.glob("*/record.json"), *folder.glob(f"*/{_FAILURE}")]
    for place in sorted(file.parent for file in made):
        if place not in wanted:
            raise BadSetting(
                f"{place}: a trial that is not in the grid; add it there, or choose another --output"
            )


def _try(candidate: _Candidate, plan: Plan, folder: Path, progress: Progress) -> Trial:
    """Runs one trial, or takes it from the folder. A trial that failed is run again."""
    failed = editor_folder(folder, candidate.name) / _FAILURE
    resolved = json.loads(json.dumps(settings_of(candidate.editor)))
    try:
        record = run_editor(candidate.name, candidate.editor, plan, folder, progress)
    except KebenchError as error:
        if isinstance(error, BrokenEditor | BadFile) and not isinstance(error, DependentEdits):
            raise  # the settings are not the reason
        logger.info("%s: failed: %s", candidate.name, error)
        write_json(str(error), failed)
        return Trial(candidate.name, candidate.changes, resolved, None, str(error))
    failed.unlink(missing_ok=True)
    trial = Trial(candidate.name, candidate.changes, resolved, record)
    logger.info("%s: criterion %s", trial.name, percent(trial.criterion))
    return trial
