"""Estimates with their intervals, and the drawing and weighting of retain samples.

Seeds are arguments, and nothing here depends on the order in which edits arrive.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kebench.errors import BadSetting
from kebench.protocols import STRATA

CONFIDENCE = 0.95
RESAMPLES = 2000
_CELLS_AT_ONCE = 1 << 21  # numbers held at once while resampling: 16 MiB


class Measure(NamedTuple):
    """What one edit scored.

    Attributes:
        value: in [0, 1], or a difference of two such; NaN when nothing was measured.
        hits: how many answers were right, each counted once whatever its weight.
        total: out of how many.
    """

    value: float
    hits: int
    total: int


NOTHING = Measure(math.nan, 0, 0)


@dataclass(frozen=True)
class Estimate:
    """A number over edits, with its interval and the counts it came from.

    `value` is a mean over edits of weighted means, so it need not be `hits / total`.

    Attributes:
        value: NaN when nothing was measured.
        low: lower end of the 95 % interval, a percentile bootstrap that resamples whole edits. Where every
            edit scored the same it has no width, however few they are: read `edits` beside it. (Of what
            stops a run, it is a confidence sequence: see `kebench.stopping`.)
        high: its upper end.
        hits: right answers over all edits, unweighted.
        total: answers over all edits.
        edits: edits that were measured.
    """

    value: float
    low: float
    high: float
    hits: int
    total: int
    edits: int

    def to_json(self) -> dict[str, float | int | None]:
        """The fields, with None for NaN."""
        return {
            name: None if isinstance(number, float) and math.isnan(number) else number
            for name, number in asdict(self).items()
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, float | int | None]) -> Estimate:
        """Reads what `to_json` wrote."""
        value, low, high = (_number(fields[name]) for name in ("value", "low", "high"))
        hits, total, edits = (int(_number(fields[name])) for name in ("hits", "total", "edits"))
        return cls(value, low, high, hits, total, edits)


NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan, 0, 0, 0)


def mean_estimate(measures: Sequence[Measure], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean over edits of what each edit scored: every edit weighs the same, however much it was asked.

    Edits that measured nothing (NaN) are left out, and `edits` says how many were not. Differences within
    an edit, such as those of two editors, may be given as measures too: that is the paired comparison.
    """
    measured = [measure for measure in measures if not math.isnan(measure.value)]
    if not measured:
        return NO_ESTIMATE
    values = [measure.value for measure in measured]
    value = mean(values)
    low, high = _interval(bootstrap_means([values], seed=seed, resamples=resamples)[:, 0], value)
    return Estimate(value, low, high, *_counts(measured), len(measured))


def relative_loss_estimate(
    before: Sequence[Measure],
    after: Sequence[Measure],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """One minus the ratio of two means over the same edits.

        1 − (mean over edits of after) / (mean over edits of before)

    A ratio of means, not a mean of ratios, so that an edit whose sample holds few right answers does not
    weigh more. Negative when `after` is higher. NaN when the mean before is 0.

    Args:
        before: one measure an edit.
        after: the same edits' in the same order; they are resampled in pairs.
        seed: of the bootstrap.
        resamples: of the bootstrap. Those in which the mean before is 0 have no ratio and are left out.

    Returns:
        An estimate with the right answers after as `hits` and those before as `total`.
    """
    pairs = [
        (first, second)
        for first, second in zip(before, after, strict=True)
        if not (math.isnan(first.value) or math.isnan(second.value))
    ]
    if not pairs:
        return NO_ESTIMATE
    values = [[first.value for first, _ in pairs], [second.value for _, second in pairs]]
    hits_before, hits_after = sum(first.hits for first, _ in pairs), sum(second.hits for _, second in pairs)
    mean_before, mean_after = mean(values[0]), mean(values[1])
    if mean_before == 0:
        return Estimate(math.nan, math.nan, math.nan, hits_after, hits_before, len(pairs))
    value = 1 - mean_after / mean_before
    means = bootstrap_means(values, seed=seed, resamples=resamples)
    means = means[means[:, 0] > 0]
    low, high = _interval(1 - means[:, 1] / means[:, 0], value)
    return Estimate(value, low, high, hits_after, hits_before, len(pairs))


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once, so that the order of the values does not show; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def bootstrap_means(
    columns: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Means of edits drawn with replacement: the cluster bootstrap, an edit being a cluster.

    Edits with the same values are interchangeable, so what is drawn is how often each *distinct* row of
    values comes up. That is the same distribution for less work, and the order of edits cannot matter.

    Args:
        columns: (quantities, edits). Quantities of one edit stay together in every resample.
        seed: of numpy's default generator.
        resamples: how many.

    Returns:
        (resamples, quantities)
    """
    rows = np.asarray(columns, dtype=np.float64).T  # (edits, quantities)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, rows.shape[1]))
    at_once = max(1, _CELLS_AT_ONCE // len(distinct))
    for start in range(0, resamples, at_once):
        stop = min(start + at_once, resamples)
        drawn = generator.multinomial(len(rows), counts / len(rows), size=stop - start)
        for quantity in range(rows.shape[1]):
            # Not `@`: BLAS may sum in another order on another machine.
            means[start:stop, quantity] = (drawn * distinct[:, quantity]).sum(axis=1) / len(rows)
    return means


def strata(margins: Sequence[float], n: int = STRATA) -> tuple[int, ...]:
    """Each test question's stratum: the quantile its margin falls in, 0 nearest to flipping.

    Args:
        margins: how far the base model's answer is from becoming another; smaller is nearer.
        n: how many strata; 4 are quartiles.

    Returns:
        One number in [0, n) a question. Sizes differ by at most one; equal margins go by position, so the
        same margins always give the same strata. NaN counts as farthest.
    """
    order = np.argsort(np.asarray(margins, dtype=np.float64), kind="stable")
    assigned = [0] * len(margins)
    for rank, index in enumerate(order.tolist()):
        assigned[index] = rank * n // len(margins)
    return tuple(assigned)


def draw_sample(strata: Sequence[int], size: int, *, seed: int, edit_id: str) -> tuple[int, ...]:
    """The test questions one edit is asked: its own draw, the same for every editor.

    Within a stratum every question is as likely as any other. More come from strata near the decision
    boundary, where answers flip: in proportion to n − h, so 40, 30, 20 and 10 % of four strata; what a
    stratum is too small for goes to the others in the same proportion. Each stratum that is not empty
    gives at least two where `size` allows it, and never less than one. `stratified_mean` takes this back.

    Args:
        strata: the stratum of every test question; pass the same tuple each time, it is indexed once.
        size: how many to draw; the whole test set when it has no more.
        seed: the run's.
        edit_id: nothing else about the edit, and nothing about the editor, enters.

    Returns:
        Positions in `strata`, ascending.

    Raises:
        BadSetting: `size` is below the number of strata, so that some would never be asked.
    """
    if size >= len(strata):
        return tuple(range(len(strata)))
    members = _members(tuple(strata))
    generator = random.Random(f"{seed}:{edit_id}")
    taken: list[int] = []
    for stratum, n_taken in _allocation(tuple((h, len(rows)) for h, rows in members.items()), size):
        rows = members[stratum]
        taken += (rows[position] for position in _subset(len(rows), n_taken, generator))
    return tuple(sorted(taken))


def stratified_mean(values: Sequence[float], strata: Sequence[int], populations: Mapping[int, int]) -> float:
    """The mean over the whole population, estimated from a stratified sample without bias.

        sum_h (N_h / N) · mean of the values drawn from stratum h

    Where a protocol leaves questions out (those about the edited fact), give only the others' values, and
    populations less what is left out of each stratum. The questions left out are fixed before the draw;
    given how many of them it took, the rest of the draw is a simple random sample of the rest of the
    stratum, so the estimate stays unbiased. Only where nothing of a stratum remains in the draw is its
    weight spread over the others in proportion to theirs, a small bias (draws of two a stratum and more
    make it rare).

    Args:
        values: one a question drawn.
        strata: the stratum of each.
        populations: stratum → N_h, the questions it holds, drawn or not.

    Returns:
        The mean; exactly the value where all values are one integer; NaN without values.

    Raises:
        ValueError: a stratum has more values than questions.
    """
    drawn: defaultdict[int, list[float]] = defaultdict(list)
    for value, stratum in zip(values, strata, strict=True):
        drawn[stratum].append(value)
    for stratum, its_values in drawn.items():
        if len(its_values) > populations.get(stratum, 0):
            raise ValueError(
                f"stratum {stratum}: {len(its_values)} values of {populations.get(stratum, 0)} questions"
            )
    if not drawn:
        return math.nan
    # Multiplied before divided: exact for sums of zeros and ones, so a perfect score is 1 and not 1 − 1e-16.
    totals = [math.fsum(its_values) * populations[h] / len(its_values) for h, its_values in drawn.items()]
    return math.fsum(totals) / sum(populations[h] for h in drawn)


@lru_cache(maxsize=8)
def _members(strata: tuple[int, ...]) -> dict[int, list[int]]:
    """Stratum → the positions of its questions, ascending in both."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for position, stratum in enumerate(strata):
        members[stratum].append(position)
    return dict(sorted(members.items()))


@lru_cache(maxsize=64)
def _allocation(sizes: tuple[tuple[int, int], ...], size: int) -> tuple[tuple[int, int], ...]:
    """How many to draw from each (stratum, number of questions); `size` is less than there are questions."""
    if size < len(sizes):
        raise BadSetting(f"retain size {size}: the test set has {len(sizes)} strata, each needs a question")
    capacity = dict(sizes)
    n_strata = max(max(capacity) + 1, STRATA)
    pairs = {h: min(2, n_questions) for h, n_questions in capacity.items()}
    taken = pairs if sum(pairs.values()) <= size else dict.fromkeys(capacity, 1)
    while sum(taken.values()) < size:  # highest averages: exact where the shares come out whole
        open_strata = [h for h in capacity if taken[h] < capacity[h]]
        taken[min(open_strata, key=lambda h: ((taken[h] + 1) / (n_strata - h), h))] += 1
    return tuple(taken.items())


def _subset(n: int, k: int, generator: random.Random) -> Iterator[int]:
    """`k` of range(n), every subset equally likely (Floyd's algorithm).

    By `random()` alone, the one method Python promises not to change; `sample` is not promised.
    """
    chosen: set[int] = set()
    for last in range(n - k, n):
        pick = int(generator.random() * (last + 1))
        chosen.add(last if pick in chosen else pick)
    yield from chosen


def _interval(resampled: NDArray[np.float64], value: float) -> tuple[float, float]:
    """The middle 95 % of the resampled values, widened to hold the value where rounding put it outside."""
    tail = (1 - CONFIDENCE) / 2
    if not len(resampled):
        return math.nan, math.nan
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def _counts(measures: Sequence[Measure]) -> tuple[int, int]:
    return sum(measure.hits for measure in measures), sum(measure.total for measure in measures)


def _number(value: float | int | None) -> float:
    return math.nan if value is None else value
