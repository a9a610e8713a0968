"""Estimates with their intervals, and how retain samples are drawn and weighed.

Seeds are arguments, and no result depends on the order of the edits.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kebench.errors import BadSetting
from kebench.scoring.protocols import STRATA

CONFIDENCE = 0.95
RESAMPLES = 2000
_DETECTABLE = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2) + NormalDist().inv_cdf(0.8)
_DECIMALS = 12  # values are rounded to these before equal ones are counted, however each was computed
_NO_WIDTH = 1e-9  # rounding moves a mean by less than this, and one answer moves it by more
_CELLS_AT_ONCE = 1 << 21  # the numbers in memory at once while resampling take 16 MiB


class Measure(NamedTuple):
    """What one edit scored.

    Attributes:
        value: in [0, 1], or a difference of two such; NaN when nothing was measured.
        hits: how many answers were right; None where answers are weighted, so that `value` is not
            `hits / total`.
        total: how many answers were compared; each counts once, whatever its weight.
    """

    value: float
    hits: int | None
    total: int


NOTHING = Measure(math.nan, 0, 0)


@dataclass(frozen=True)
class Estimate:
    """A number over edits, with its interval and the counts it came from. `docs/scores.md` defines them.

    Attributes:
        value: NaN when nothing was measured.
        low: the lower end of the 95 % interval, from a percentile bootstrap that resamples facts, each with
            all its edits. `_interval` says what it is where that would have no width, as with one fact or
            equal scores. (The score that stops a run has a confidence sequence: `kebench.scoring.stopping`.)
        high: the upper end.
        hits: right answers over all edits; None where `value` is not `hits / total`, because it averages
            over edits or weighs answers. Records of scoring version 1 have it everywhere.
        total: how many answers were compared, over all edits, each counted once.
        edits: how many edits were measured.
        standard_error: of the bootstrap; NaN where the bootstrap has no width, and for the score that stops a
            run. None in records of scoring version 1.
    """

    value: float
    low: float
    high: float
    hits: int | None
    total: int
    edits: int
    standard_error: float | None = None

    @property
    def smallest_detectable(self) -> float:
        """The smallest true value that such a run tells from 0 with 80 % power, two-sided at 95 %.

            (z_0.975 + z_0.8) · standard error

        NaN without a standard error.
        """
        return math.nan if self.standard_error is None else _DETECTABLE * self.standard_error

    def to_json(self) -> dict[str, float | int | None]:
        """The fields, with None for NaN, and without those that are None."""
        return {
            name: None if isinstance(number, float) and math.isnan(number) else number
            for name, number in asdict(self).items()
            if number is not None
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, float | int | None]) -> Estimate:
        """Reads what `to_json` wrote."""
        value, low, high = (_number(fields[name]) for name in ("value", "low", "high"))
        hits = int(_number(fields["hits"])) if "hits" in fields else None
        total, edits = (int(_number(fields[name])) for name in ("total", "edits"))
        error = _number(fields["standard_error"]) if "standard_error" in fields else None
        return cls(value, low, high, hits, total, edits, error)


NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan, None, 0, 0, math.nan)


def mean_estimate(
    measures: Sequence[Measure],
    facts: Sequence[str] | None = None,
    *,
    counted: bool = False,
    least: float = 0.0,
    most: float = 1.0,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean over edits of what each edit scored: every edit weighs the same, however much it was asked.

    Edits that measured nothing (NaN) are left out, and `edits` says how many are left. To compare two editors
    in pairs, give the difference of each edit's two measures.

    Args:
        measures: one an edit.
        facts: the fact that each edit is about; edits of one fact are resampled together. Without it, all
            edits count as independent.
        counted: whether each edit has one answer, so that the value is `hits / total`; then `hits` is given.
        least: the lowest value that an edit can score.
        most: the highest.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    kept = [index for index, measure in enumerate(measures) if not math.isnan(measure.value)]
    hits = sum(measures[index].hits or 0 for index in kept) if counted else None
    if not kept:
        return replace(NO_ESTIMATE, hits=hits)
    values = [measures[index].value for index in kept]
    about = None if facts is None else [facts[index] for index in kept]
    value = mean(values)
    means = bootstrap_means([values], about, seed=seed, resamples=resamples)[:, 0]
    low, high, error = _interval(means, value, len(set(about or kept)), least, most)
    total = sum(measures[index].total for index in kept)
    return Estimate(value, low, high, hits, total, len(kept), error)


def relative_loss_estimate(
    lost: Sequence[Measure],
    before: Sequence[Measure],
    facts: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """What share of the accuracy before was lost.

        (mean over edits of what was lost) / (mean over edits of the accuracy before)

    A ratio of means, not a mean of ratios, so that an edit whose questions have few right answers does not
    weigh more. Negative when accuracy rose. NaN when the mean before is 0.

    Args:
        lost: accuracy before the edit minus accuracy after it, one measure for each edit.
        before: the accuracy before, of the same edits in the same order; both are resampled in pairs.
        facts: as `mean_estimate` takes them.
        seed: of the bootstrap.
        resamples: of the bootstrap. Those in which the mean before is 0 have no ratio and are left out.

    Returns:
        An estimate whose `total` counts the answers that were compared after the edits.
    """
    kept = [
        index
        for index, (first, second) in enumerate(zip(lost, before, strict=True))
        if not (math.isnan(first.value) or math.isnan(second.value))
    ]
    if not kept:
        return NO_ESTIMATE
    values = [[measures[index].value for index in kept] for measures in (lost, before)]
    about = None if facts is None else [facts[index] for index in kept]
    total = sum(lost[index].total for index in kept)
    mean_lost, mean_before = mean(values[0]), mean(values[1])
    if mean_before == 0:
        return replace(NO_ESTIMATE, total=total, edits=len(kept))
    value = mean_lost / mean_before
    means = bootstrap_means(values, about, seed=seed, resamples=resamples)
    means = means[means[:, 1] > 0]
    low, high, error = _interval(
        means[:, 0] / means[:, 1], value, len(set(about or kept)), 1 - 1 / mean_before, 1.0
    )
    return Estimate(value, low, high, None, total, len(kept), error)


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once, so that it does not depend on the order of the values; NaN without values."""
    return math.fsum(values) / len(values) if values else math.nan


def bootstrap_means(
    columns: Sequence[Sequence[float]],
    facts: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """Means over edits, with facts drawn with replacement: a cluster bootstrap whose clusters are facts.

    A fact is drawn with all its edits, so all resamples have the same number of facts, but not the same
    number of edits. Facts with the same number of edits and the same sums are interchangeable. Therefore the
    function draws how often each *distinct* row of sums occurs: the distribution is the same, it takes less
    work, and the order of edits cannot matter.

    Args:
        columns: (quantities, edits). The quantities of one edit stay together in every resample.
        facts: the fact of each edit; by default each edit has its own fact.
        seed: of numpy's default generator.
        resamples: the number of resamples.

    Returns:
        (resamples, quantities)
    """
    rows = np.round(_by_fact(columns, facts), _DECIMALS)  # (facts, 1 + quantities): edits, and their sums
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(columns)))
    at_once = max(1, _CELLS_AT_ONCE // len(distinct))
    for start in range(0, resamples, at_once):
        stop = min(start + at_once, resamples)
        drawn = generator.multinomial(len(rows), counts / len(rows), size=stop - start)
        n_edits = (drawn * distinct[:, 0]).sum(axis=1)
        for quantity in range(len(columns)):
            # Not `@`: BLAS may sum in another order on another machine.
            means[start:stop, quantity] = (drawn * distinct[:, 1 + quantity]).sum(axis=1) / n_edits
    return means


def _by_fact(columns: Sequence[Sequence[float]], facts: Sequence[str] | None) -> NDArray[np.float64]:
    """For each fact: the number of its edits, and the sum of each quantity over them, rounded once.

    Returns:
        (facts, 1 + quantities)
    """
    values = np.array(columns, dtype=np.float64) + 0.0  # no −0
    if facts is None:
        return np.vstack([np.ones(values.shape[1]), values]).T
    numbers: dict[str, int] = {}
    fact_of = np.array([numbers.setdefault(fact, len(numbers)) for fact in facts], dtype=np.int64)
    rows = np.zeros((len(numbers), 1 + len(columns)))
    rows[:, 0] = n_edits = np.bincount(fact_of, minlength=len(numbers))
    alone = n_edits[fact_of] == 1
    rows[fact_of[alone], 1:] = values[:, alone].T
    clusters: defaultdict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(~alone).tolist():
        clusters[int(fact_of[place])].append(place)
    for fact, places in clusters.items():
        rows[fact, 1:] = [math.fsum(column) for column in values[:, places]]
    return rows


def strata(margins: Sequence[float], n: int = STRATA) -> tuple[int, ...]:
    """Each test question's stratum: the quantile of its margin, 0 for the answers nearest to changing.

    Args:
        margins: how far the base model's answer is from becoming another answer; smaller is nearer.
        n: the number of strata; 4 are quartiles.

    Returns:
        A number in [0, n) for each question. The sizes of strata differ by at most one. Equal margins are
        ordered by position, so that the same margins always give the same strata. NaN counts as farthest.
    """
    order = np.argsort(np.asarray(margins, dtype=np.float64), kind="stable")
    assigned = [0] * len(margins)
    for rank, index in enumerate(order.tolist()):
        assigned[index] = rank * n // len(margins)
    return tuple(assigned)


def draw_sample(strata: Sequence[int], size: int, *, seed: int, edit_id: str) -> tuple[int, ...]:
    """The test questions that one edit is asked: its own draw, the same for every editor.

    Within a stratum every question is equally likely. More questions come from strata near the decision
    boundary, where answers change: in proportion to n − h, so 40, 30, 20 and 10 % for four strata. What a
    stratum is too small for is drawn from the others in the same proportion. Each stratum that is not empty
    gives at least two questions if `size` allows it, and never fewer than one. `stratified_mean` corrects for
    the unequal shares.

    Args:
        strata: the stratum of every test question. Pass the same tuple each time: it is indexed once.
        size: how many questions to draw; all of them if the test set has no more.
        seed: of the draw.
        edit_id: the edit's id. The draw depends on nothing else of the edit, and on nothing of the editor.

    Returns:
        Positions in `strata`, ascending.

    Raises:
        BadSetting: `size` is less than the number of strata, so that some stratum would never be asked.
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

    Where a protocol leaves questions out (those about the edited fact), give only the values of the others,
    and populations without the questions left out. The questions left out are fixed before the draw. Given
    how many of them were drawn, the rest of the draw is a simple random sample of the rest of the stratum, so
    the estimate stays unbiased. If nothing of a stratum remains in the draw, its weight is spread over the
    other strata in proportion to theirs. This is a small bias, and rare where two or more are drawn from each
    stratum.

    Args:
        values: one for each question drawn.
        strata: the stratum of each of these questions.
        populations: stratum → N_h, the number of its questions, drawn or not.

    Returns:
        The mean. If all values are the same integer, it is exactly that integer. NaN without values.

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
    """Stratum → the positions of its questions; both in ascending order."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for position, stratum in enumerate(strata):
        members[stratum].append(position)
    return dict(sorted(members.items()))


@lru_cache(maxsize=64)
def _allocation(sizes: tuple[tuple[int, int], ...], size: int) -> tuple[tuple[int, int], ...]:
    """(stratum, how many to draw), from (stratum, its number of questions); `size` is less than all."""
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
    """`k` numbers of range(n), every subset equally likely (Floyd's algorithm).

    It calls only `random()`, the one method whose results Python promises not to change between versions.
    """
    chosen: set[int] = set()
    for last in range(n - k, n):
        pick = int(generator.random() * (last + 1))
        chosen.add(last if pick in chosen else pick)
    yield from chosen


def least_rate(n: int) -> float:
    """The lowest rate that is consistent with `n` successes in `n` trials at 95 % confidence.

        p^n = 0.05

    Clopper and Pearson's one-sided limit for n of n, about 1 − 3 / n; one minus it is the highest possible
    rate after 0 of n. It supposes that the trials are independent.
    """
    tail: float = 1 - CONFIDENCE
    return math.exp(math.log(tail) / n)


def _interval(
    resampled: NDArray[np.float64], value: float, n_facts: int, least: float, most: float
) -> tuple[float, float, float]:
    """Both ends of the 95 % interval, and the standard error.

    The interval is the middle 95 % of the resampled values, widened to contain the value if rounding put it
    outside. It has no width if there is one fact, or if all facts scored the same. Resampling then says
    nothing about facts that were not drawn, and the interval is made otherwise: with 95 % confidence, a share
    p of all facts scores what these did, where p^n = 0.05 (`least_rate`); the other facts may score anything
    from `least` to `most`. There is no standard error then.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) if len(resampled) else (value, value)
    if high - low > _NO_WIDTH:
        return min(float(low), value), max(float(high), value), float(resampled.std(ddof=1))
    others = 1 - least_rate(n_facts)
    return value - others * max(value - least, 0), value + others * max(most - value, 0), math.nan


def _number(value: float | int | None) -> float:
    return math.nan if value is None else value
