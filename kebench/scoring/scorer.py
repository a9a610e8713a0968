"""Base and edited answers in, scores out. Never a model, never an editor."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from typing import Any

from kebench.scoring.answers import ALREADY_KNOWN, HELD_OUT_RELATION, BaseAnswer, EditAnswers
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

__all__ = ["INTERVAL", "STOPPED_INTERVAL", "EditScores", "Scores", "Tally", "difference", "per_edit", "score"]

_STOPS = "retain_accuracy"
"""The score whose precision stops a run."""


def score(
    edits: Iterable[EditAnswers],
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
            among them. They are read once, and none is kept.
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
    tally = Tally(BaseAnswers(base), protocol, table)
    for edit in edits:
        tally.add(edit)
    return tally.scores(seed=seed, resamples=resamples, stopping=stopping, time=time)


class Tally:
    """What edits scored, of which each is added once and then forgotten.

    Of an edit it keeps its id, its fact, its tags and one reference for each measure. Equal measures are
    shared, so that the memory for an edit does not depend on how much it was asked.

    Attributes:
        facts, tags, failures: of the edits, in the order in which they were added.
    """

    def __init__(self, base: BaseAnswers, protocol: Protocol, table: Sequence[Row] = TABLE) -> None:
        self.facts: list[str] = []
        self.tags: list[frozenset[str]] = []
        self.failures: list[str | None] = []
        self._base, self._protocol, self._table = base, protocol, table
        self._ids: set[str] = set()
        self._forced = False
        self._columns: defaultdict[tuple[str, str], list[Measure]] = defaultdict(list)
        self._measured: set[tuple[str, str]] = set()
        self._shared: dict[Any, Any] = {}

    def add(self, edit: EditAnswers) -> None:
        """Scores one edit.

        Raises:
            ValueError: an edit of that id was added before, or it answers an unknown question.
        """
        if edit.id in self._ids:
            raise ValueError("two edits have the same id")
        self._ids.add(edit.id)
        self._forced = self._forced or edit.forced is not None
        self.append(_scored(asked(edit, self._base, self._protocol), self._base, self._protocol, self._table))

    def append(self, row: EditScores) -> None:
        """Takes in what one edit scored."""
        self.facts.append(row.fact)
        self.tags.append(self._once(row.tags))
        self.failures.append(self._once(row.failure))
        for key, measured in row.measures.items():
            self._columns[key].append(self._once(measured))
            if measured.total:
                self._measured.add(key)

    def _once(self, value: Any) -> Any:
        """An equal value that is kept already, or else this one."""
        return self._shared.setdefault(value, value)

    def __len__(self) -> int:
        return len(self.facts)

    def column(self, score: str, part: str = ALL.name) -> Sequence[Measure]:
        """What each edit scored in one row of the table and one slice; nothing where that is not there."""
        return self._columns.get((score, part)) or [NOTHING] * len(self)

    def scores(
        self,
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
        stopping: Stopping | None = None,
        time: str = FINAL,
    ) -> Scores:
        """The scores of the edits that were added. The arguments are those of `score`."""
        for key in _not_measured(self._measured, self._table, forced=self._forced):
            self._columns.pop(key, None)
        averages = _Averages(self, self._protocol, seed, resamples)
        before = self._base.accuracy(self._protocol)
        found: dict[Key, Estimate] = {}
        for each in self._table:
            if isinstance(each, Score):
                found |= {Key(each.name, time, part.name): averages.mean(each, part) for part in each.slices}
            elif isinstance(each, Difference):
                found[Key(each.name, time)] = averages.difference(each)
            else:
                found[Key(each.name, time)] = averages.lost_share(each)
        if stopping is not None:
            found[Key(_STOPS, time)] = stopping.estimate(self.column(_STOPS))
        before_and_after = _accuracies(before, averages.loss(before))
        found |= {Key(name, time): estimate for name, estimate in before_and_after.items()}
        reasons = Counter(reason for reason in self.failures if reason is not None)
        return Scores(
            protocol=self._protocol,
            edits=len(self),
            failures=dict(sorted(reasons.items())),
            no_ops=sum(ALREADY_KNOWN in tags for tags in self.tags),
            edits_with_paraphrases=sum(measured.total > 0 for measured in self.column("equivalence_target")),
            held_out_edits=sum(HELD_OUT_RELATION in tags for tags in self.tags),
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
    measured = {key for row in rows for key, measure in row.measures.items() if measure.total}
    forced = any(edit.forced is not None for edit in in_order)
    nothing = dict.fromkeys(_not_measured(measured, table, forced=forced), NOTHING)
    kept = measured - nothing.keys()
    found = [{**row.measures, **nothing} for row in rows]
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
    measured: Set[tuple[str, str]], table: Sequence[Row], *, forced: bool
) -> list[tuple[str, str]]:
    """What no edit measures, because of what is missing in all of them.

    If no edit was teacher-forced, a failed edit does not count as teacher-forced either. A slice with
    `only_with` needs some edit that has a question in that other slice.

    Args:
        measured: the row and slice of what some edit has answers to.
        table: the rows.
        forced: whether some edit was teacher-forced.
    """
    found = [each for each in table if isinstance(each, Score)]
    keys = [(each.name, ALL.name) for each in found if each.decoding == "teacher forcing" and not forced]
    return keys + [
        (each.name, part.name)
        for each in found
        for part in each.slices
        if part.only_with is not None and (each.name, part.only_with) not in measured
    ]


class _Averages:
    """Averages over edits, each with its interval."""

    def __init__(self, tally: Tally, protocol: Protocol, seed: int, resamples: int) -> None:
        self._tally = tally
        self._seed = seed
        self._resamples = resamples
        self._all = range(len(tally))
        every_one = protocol.left_out_of_success == "nothing"
        self._effective = [p for p in self._all if every_one or ALREADY_KNOWN not in tally.tags[p]]

    def mean(self, each: Score, part: Slice) -> Estimate:
        """The mean of a score over the edits of a slice."""
        column = self._tally.column(each.name, part.name if part.of_questions else ALL.name)
        places = [place for place in self._counting(each.edits) if part.has_edit(self._tally.tags[place])]
        return self._estimate(places, [column[place] for place in places], counted=each.counted)

    def difference(self, each: Difference) -> Estimate:
        """The mean of a difference over the edits that have both scores."""
        first = row_of(each.first)
        places = self._counting(first.edits)
        of_first, of_second = self._tally.column(each.first), self._tally.column(each.second)
        measures = [difference(of_first[place], of_second[place]) for place in places]
        return self._estimate(places, measures, counted=first.counted, least=-1)

    def loss(self, before: Measure) -> Estimate:
        """The mean of the accuracy lost on the whole test set."""
        lost = self._tally.column("accuracy_loss")
        return self._estimate(self._all, lost, least=before.value - 1, most=before.value)

    def lost_share(self, each: LostShare) -> Estimate:
        """The share of the base model's accuracy that was lost."""
        return relative_loss_estimate(
            self._tally.column(each.lost),
            self._tally.column(each.before),
            self._tally.facts,
            seed=self._seed,
            resamples=self._resamples,
        )

    def _counting(self, which: str) -> Sequence[int]:
        return self._all if which == "all" else self._effective

    def _estimate(
        self,
        places: Sequence[int],
        measures: Sequence[Measure],
        *,
        counted: bool = False,
        least: float = 0.0,
        most: float = 1.0,
    ) -> Estimate:
        facts = self._tally.facts
        return mean_estimate(
            measures,
            [facts[place] for place in places],
            counted=counted, least=least, most=most, seed=self._seed, resamples=self._resamples,
        )  # fmt: skip


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
