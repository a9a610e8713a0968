"""Base and edited answers in, scores out. Never a model, never an editor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kebench.scoring.answers import BaseAnswer, EditAnswers
from kebench.scoring.metrics import measure
from kebench.scoring.protocols import Protocol
from kebench.scoring.questions import Asked, BaseAnswers, asked
from kebench.scoring.regimes import FINAL
from kebench.scoring.scores import ALWAYS, IN_ROW, INTERVAL, STOPPED_INTERVAL, EditScores, Scores, name_of
from kebench.scoring.statistics import (
    NOTHING,
    RESAMPLES,
    Estimate,
    Measure,
    mean_estimate,
    relative_loss_estimate,
)
from kebench.scoring.stopping import Stopping
from kebench.scoring.table import ALL, TABLE, Difference, Key, LostShare, Row, Score, Slice
from kebench.scoring.table import row as row_of

__all__ = ["INTERVAL", "STOPPED_INTERVAL", "EditScores", "Scores", "difference", "per_edit", "score"]

_STOPS = "retain_accuracy"
"""The score whose precision stops a run."""


def score(
    edits: Sequence[EditAnswers],
    base: Sequence[BaseAnswer],
    protocol: Protocol,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    stopping: Stopping | None = None,
    time: str = FINAL,
    table: Sequence[Row] = TABLE,
) -> Scores:
    """The scores of a set of edits.

    Args:
        edits: what each edited model was asked and said, failed ones among them; where edits were stopped,
            in the order in which they were made. An edit that a later edit of the same stream replaced is not
            among them.
        base: the whole test set, of which each edit's `sample` is a part.
        protocol: what is compared with what.
        seed: of the bootstrap intervals.
        resamples: of the bootstrap intervals.
        stopping: the rule that stopped the run; None where the number of edits was fixed. The interval of
            retain accuracy then allows for the stopping. The other intervals do not, and need not where the
            score has no part in when a run stops.
        time: when the questions were asked: `final`, `immediate` or `after k`.
        table: the rows to compute.

    Returns:
        The same scores, to the byte, whatever the order of `edits`, if their number was fixed.

    Raises:
        ValueError: two edits or two test questions share an id, or an edit answers an unknown question.
    """
    averages = _Averages(per_edit(edits, base, protocol, table), protocol, seed, resamples)
    rows = averages.rows
    before = BaseAnswers(base).accuracy(protocol)
    found: dict[Key, Estimate] = {}
    for each in table:
        if isinstance(each, Score):
            found |= {Key(each.name, time, part.name): averages.mean(each, part) for part in each.slices}
        elif isinstance(each, Difference):
            found[Key(each.name, time)] = averages.difference(each)
        else:
            found[Key(each.name, time)] = averages.lost_share(each)
    if stopping is not None:
        retained = {row.id: row.retain for row in rows}
        found[Key(_STOPS, time)] = stopping.estimate([retained[edit.id] for edit in edits])
    before_and_after = _accuracies(before, averages.loss(before))
    found |= {Key(name, time): estimate for name, estimate in before_and_after.items()}
    return Scores(
        protocol=protocol,
        edits=len(rows),
        failures=dict(sorted(Counter(row.failure for row in rows if row.failure is not None).items())),
        no_ops=sum(row.no_op for row in rows),
        edits_with_paraphrases=sum(row.equivalence_target.total > 0 for row in rows),
        held_out_edits=sum(row.held_out for row in rows),
        values={key: each for key, each in found.items() if each.edits or name_of(key) in ALWAYS},
        seed=seed,
        resamples=resamples,
        interval=INTERVAL if stopping is None else STOPPED_INTERVAL,
        time=time,
    )


def per_edit(
    edits: Sequence[EditAnswers],
    base: Sequence[BaseAnswer],
    protocol: Protocol,
    table: Sequence[Row] = TABLE,
) -> list[EditScores]:
    """What each edit scored, by id: one row an edit, failed ones and no-ops included.

    Raises:
        ValueError: two edits or two test questions share an id, or an edit answers an unknown question.
    """
    test_set = BaseAnswers(base)
    in_order = sorted(edits, key=lambda edit: edit.id)
    if len({edit.id for edit in in_order}) < len(in_order):
        raise ValueError("two edits have the same id")
    rows = [_scored(asked(edit, test_set, protocol), test_set, protocol, table) for edit in in_order]
    nothing = _not_measured(rows, table, forced=any(edit.forced is not None for edit in in_order))
    found = [{**row.measures, **nothing} for row in rows]
    kept = {key for measures in found for key, measured in measures.items() if measured.total}
    return [
        replace(row, measures={key: measures[key] for key in measures if key in kept or key in IN_ROW})
        for row, measures in zip(rows, found, strict=True)
    ]


def _scored(about: Asked, base: BaseAnswers, protocol: Protocol, table: Sequence[Row]) -> EditScores:
    measures = {
        (each.name, part.name): measure(each, about, base, protocol, part)
        for each in table
        if isinstance(each, Score)
        for part in (ALL, *(part for part in each.slices if part.of_questions))
    }
    return EditScores(about.id, about.fact, about.failure, about.tags, measures)


def _not_measured(
    rows: Sequence[EditScores], table: Sequence[Row], *, forced: bool
) -> dict[tuple[str, str], Measure]:
    """What no edit measures, because of what is missing in all of them.

    If no edit was teacher-forced, a failed edit does not count as teacher-forced either. A slice with
    `only_with` needs some edit that has a question in that other slice.
    """
    found = [each for each in table if isinstance(each, Score)]
    keys = [(each.name, ALL.name) for each in found if each.decoding == "teacher forcing" and not forced]
    for each in found:
        for part in each.slices:
            other = part.only_with
            if other is not None and not any(row.measures[each.name, other].total for row in rows):
                keys.append((each.name, part.name))
    return dict.fromkeys(keys, NOTHING)


class _Averages:
    """Averages over edits, each with its interval."""

    def __init__(self, rows: Sequence[EditScores], protocol: Protocol, seed: int, resamples: int) -> None:
        self.rows = rows
        self._protocol = protocol
        self._seed = seed
        self._resamples = resamples

    def mean(self, each: Score, part: Slice) -> Estimate:
        """The mean of a score over the edits of a slice."""
        key = (each.name, part.name if part.of_questions else ALL.name)
        rows = [row for row in self._counting(each.edits) if part.has_edit(row.tags)]
        return self._estimate(rows, [row.measures.get(key, NOTHING) for row in rows], counted=each.counted)

    def difference(self, each: Difference) -> Estimate:
        """The mean of a difference over the edits that have both scores."""
        first = row_of(each.first)
        rows = self._counting(first.edits)
        measures = [difference(_whole(row, each.first), _whole(row, each.second)) for row in rows]
        return self._estimate(rows, measures, counted=first.counted, least=-1)

    def loss(self, before: Measure) -> Estimate:
        """The mean of the accuracy lost on the whole test set."""
        lost = [row.accuracy_loss for row in self.rows]
        return self._estimate(self.rows, lost, least=before.value - 1, most=before.value)

    def lost_share(self, each: LostShare) -> Estimate:
        """The share of the base model's accuracy that was lost."""
        return relative_loss_estimate(
            [_whole(row, each.lost) for row in self.rows],
            [_whole(row, each.before) for row in self.rows],
            [row.fact for row in self.rows],
            seed=self._seed,
            resamples=self._resamples,
        )

    def _counting(self, which: str) -> Sequence[EditScores]:
        if which == "all" or self._protocol.left_out_of_success == "nothing":
            return self.rows
        return [row for row in self.rows if not row.no_op]

    def _estimate(
        self,
        rows: Iterable[EditScores],
        measures: Sequence[Measure],
        *,
        counted: bool = False,
        least: float = 0.0,
        most: float = 1.0,
    ) -> Estimate:
        return mean_estimate(
            measures,
            [row.fact for row in rows],
            counted=counted, least=least, most=most, seed=self._seed, resamples=self._resamples,
        )  # fmt: skip


def _whole(row: EditScores, name: str) -> Measure:
    """What an edit scores over all its questions."""
    return row.measures.get((name, ALL.name), NOTHING)


def _accuracies(before: Measure, loss: Estimate) -> dict[str, Estimate]:
    """Accuracy before the edits, which is exact, and after them, with the interval of what was lost."""
    known = replace(
        loss,
        value=before.value,
        low=before.value,
        high=before.value,
        hits=before.hits,
        total=before.total,
        standard_error=0.0,
    )
    value, low, high = before.value - loss.value, before.value - loss.high, before.value - loss.low
    return {"accuracy_before": known, "accuracy_after": replace(loss, value=value, low=low, high=high)}


def difference(first: Measure, second: Measure) -> Measure:
    """One edit's first measure less its second, for paired estimates; nothing where either is missing."""
    if math.isnan(first.value) or math.isnan(second.value):
        return NOTHING
    hits = None if first.hits is None or second.hits is None else first.hits - second.hits
    return Measure(first.value - second.value, hits, first.total)
