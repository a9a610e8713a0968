"""Tunings as tables show them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tabulate import tabulate

from kebench.leaderboard import printed
from kebench.leaderboard.escape import plain
from kebench.tuning import CRITERION, Trial, Tuning

_WIDTH = 100


def trials_text(tuning: Tuning) -> str:
    """Plain text for a terminal: the trials, best first, in percent; intervals below their numbers."""
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
