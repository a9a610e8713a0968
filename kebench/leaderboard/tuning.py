"""Tunings in the folder of leaderboards: their files, the rows whose settings they chose, and their tables.

leaderboards/<task>/tuning/<model>--<pack>--<key>--<editor>.json    kept, as `kebench tune` wrote it
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from kebench.leaderboard import printed
from kebench.leaderboard.escape import distinct_slug, markdown, plain, slug
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.tuning import CRITERION, Trial, Tuning

TUNING = "tuning"
_WIDTH = 100


def tuning_path(folder: Path, tuning: Tuning) -> Path:
    """The path of a tuning. One editor, tuned on one pack with one model, has one path."""
    setting = tuning.setting
    key = hashlib.sha256(json.dumps(_ground(setting)).encode()).hexdigest()[:12]
    parts = (slug(setting.model), slug(setting.pack), key, distinct_slug(tuning.editor))
    return folder / distinct_slug(setting.task) / TUNING / f"{'--'.join(parts)}.json"


def tuned_by(record: RunRecord, tunings: Sequence[Tuning]) -> Tuning | None:
    """The tuning on the record's task, pack and model that chose its settings, or None.

    If several did, the one with the most trials.
    """
    found = [
        tuning
        for tuning in tunings_of(record.setting, tunings)
        if (chosen := tuning.chosen) is not None
        and tuning.editor_path == record.editor_path
        and chosen.settings == record.editor_settings
    ]
    return max(found, key=lambda tuning: len(tuning.trials), default=None)


def tunings_of(setting: Setting, tunings: Sequence[Tuning]) -> list[Tuning]:
    """The tunings on a setting's task, pack and model, by editor."""
    found = [tuning for tuning in tunings if _ground(tuning.setting) == _ground(setting)]
    return sorted(found, key=lambda tuning: tuning.editor)


def _ground(setting: Setting) -> tuple[str, int, str, str]:
    """What a tuning is made on: it says nothing of rows of another task, pack or model."""
    return setting.task, setting.task_version, setting.pack_sha256, setting.model_fingerprint


def in_words(record: RunRecord, tunings: Sequence[Tuning]) -> str:
    """The text of a cell in the column Tuned."""
    if record.is_control:
        return printed.NOTHING
    tuning = tuned_by(record, tunings)
    return "no" if tuning is None else _n_trials(tuning)


def how_tuned(records: Sequence[RunRecord], tunings: Sequence[Tuning]) -> str:
    """What the column Tuned of a table means, and which trials are on file, as Markdown.

    Args:
        records: the table's rows.
        tunings: those on its task, pack and model.
    """
    if not tunings:
        return (
            "Tuned: no row's settings were chosen by `kebench tune` on this pack with this model. The rows "
            "may have been tuned unequally, so this table ranks no editor.\n"
        )
    chosen_by = [found for row in records if (found := tuned_by(row, tunings)) is not None]
    same = len({(len(tuning.trials), _on(tuning.setting)) for tuning in chosen_by}) <= 1
    parts = [
        "Tuned: over how many trials on the dev split of this pack, with this model, the row's settings were "
        f'chosen; "no": they are from elsewhere. Criterion: {CRITERION}.',
        *([] if same else ["**The tuned rows did not all have the same budget.**"]),
        "Trials on file:",
    ]
    files = [
        f"- [{markdown(tuning.editor)}]({TUNING}/{tuning_path(Path(), tuning).name}): {_n_trials(tuning)} on "
        f"{_on(tuning.setting)}; chosen: "
        f"{'none' if tuning.chosen is None else markdown(tuning.chosen.name)}\n"
        for tuning in tunings
    ]
    return f"{' '.join(parts)}\n\n{''.join(files)}"


def _on(setting: Setting) -> str:
    """How many edits and retain questions each trial had."""
    return f"{setting.edits} dev edits, retain: {markdown(setting.retain)}, seed {setting.seed}"


def _n_trials(tuning: Tuning) -> str:
    return f"{len(tuning.trials)} trial{'' if len(tuning.trials) == 1 else 's'}"


def trials_text(tuning: Tuning) -> str:
    """Plain text for a terminal: the trials, best first, in percent; each interval is below its number."""
    setting = tuning.setting
    told = (
        f"{setting.task} version {setting.task_version}: {setting.model} on {setting.pack}, "
        f"{setting.split} split; {len(tuning.trials)} trials of {tuning.editor}; {setting.edits} edits, "
        f"retain: {setting.retain}, seed {setting.seed}. In percent, 95 % intervals below. "
        f"Criterion: {CRITERION}."
    )
    headings = ["trial", "criterion", "success", "equivalence", "retain", "s/edit"]
    lines = [line for trial in tuning.best_first for line in _lines(trial)]
    table = tabulate(lines, headers=headings, colalign=("left", *["right"] * 5), disable_numparse=True)
    failed = [f"{plain(each.name)}: {plain(each.failure)}" for each in tuning.trials if each.failure]
    return "\n".join(
        [*textwrap.wrap(plain(told), _WIDTH), "", table, *(["", "Failed:", *failed] if failed else []), ""]
    )


def _lines(trial: Trial) -> Iterator[list[str]]:
    """A trial's two lines: its numbers, and their intervals."""
    value = printed.percent(trial.criterion)
    if trial.record is None:
        yield [plain(trial.name), value, *[printed.NOTHING] * 4]
        return
    scores, cost = trial.record.scores, trial.record.cost
    rates = (scores.success_rate, scores.equivalence_accuracy, scores.retain_accuracy)
    yield [
        plain(trial.name), value, *(printed.percent(rate.value) for rate in rates),
        printed.seconds(cost.edit_seconds_p50),
    ]  # fmt: skip
    yield ["", "", *(printed.interval(rate).replace(", ", ",") for rate in rates), ""]
