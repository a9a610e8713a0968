from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kebench.scoring import stopping
from kebench.scoring.statistics import (
    NO_ESTIMATE,
    NOTHING,
    Estimate,
    Measure,
    draw_sample,
    mean_estimate,
    strata,
    stratified_mean,
)
from kebench.scoring.stopping import Stopping, betting_interval, half_width

fractions = st.integers(0, 40).map(lambda n: n / 40)
samples = st.lists(fractions, min_size=1, max_size=60)


def measures(values: Sequence[float]) -> list[Measure]:
    return [Measure(value, round(10 * value), 10) for value in values]


# --- the interval


def test_all_ones_by_hand() -> None:
    # d = 1/2: λ_1 = 0.5 / (0.25 + 0.25) = 1; later ones are larger. Where m is 0.75 or more, c / m is smaller
    # still, so the capital is (1 + 0.75 (1 − m) / m)^100 = 40 at m = 0.75 / (40^(1/100) − 0.25).
    low, high = betting_interval([1.0] * 100, half_width=0.5, most=10**6)
    assert low == pytest.approx(0.75 / (40**0.01 - 0.25), abs=1e-11)
    assert low == pytest.approx(0.9523, abs=1e-4)
    assert high == 1


def test_few_values_tell_nothing_by_hand() -> None:
    # After (1, 0) with d = 1/2: λ_1 = 1, λ_2 = 0.5 / (0.125 + 0.25) = 4/3; the capital nowhere comes near 40.
    assert betting_interval([1.0, 0.0], half_width=0.5, most=100) == (0, 1)


def capital(x: Sequence[float], m: float, wanted: float, most: int) -> float:
    """The most that the bettor on means above m ever had, by the formulas of the docstring, one by one."""
    had = most_had = 1.0
    for i in range(len(x)):
        centre = sum(x[:i]) / i if i else 0.0
        variance = (0.25 + sum((value - centre) ** 2 for value in x[:i])) / (i + 1)
        d = max(wanted, math.sqrt(2 * math.log(40) * variance / most))
        had *= 1 + min(d / (variance + d * d), 0.75 / m) * (x[i] - m)
        most_had = max(most_had, had)
    return most_had


@pytest.mark.parametrize(("wanted", "most"), [(0.002, 10**4), (0.05, 300), (0.2, 10**6)])
@pytest.mark.parametrize("start", [0.0, 0.6])
def test_the_ends_are_where_the_capital_says(wanted: float, most: int, start: float) -> None:
    x = (start + (1 - start) * np.random.default_rng(0).random(250)).tolist()
    low, high = betting_interval(x, half_width=wanted, most=most)
    mirrored = [1 - value for value in x]
    assert 0 < low < high < 1
    assert capital(x, low - 1e-9, wanted, most) >= 40 > capital(x, low + 1e-9, wanted, most)
    assert (
        capital(mirrored, 1 - high - 1e-9, wanted, most)
        >= 40
        > capital(mirrored, 1 - high + 1e-9, wanted, most)
    )


@given(samples, st.sampled_from([0.001, 0.01, 0.1, 0.4]))
def test_the_interval_holds_the_mean_and_mirrors(values: list[float], wanted: float) -> None:
    low, high = betting_interval(values, half_width=wanted, most=100)
    assert 0 <= low <= math.fsum(values) / len(values) <= high <= 1
    mirrored = betting_interval([1 - value for value in values], half_width=wanted, most=100)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(samples, st.lists(fractions, max_size=20))
def test_a_later_interval_is_no_wider_unless_to_hold_the_mean(first: list[float], more: list[float]) -> None:
    low, high = betting_interval(first, half_width=0.05, most=100)
    later_low, later_high = betting_interval(first + more, half_width=0.05, most=100)
    mean = math.fsum(first + more) / len(first + more)
    assert later_low >= min(low, mean)
    assert later_high <= max(high, mean)


@pytest.mark.parametrize("precision", [0.1, 1.0, 10.0, 40.0])
def test_edits_that_all_agree_do_not_stop_at_once(precision: float) -> None:
    # Clopper and Pearson's one-sided 97.5 % limit for n of n is 0.025^(1/n): nothing valid is narrower.
    rule = Stopping(precision, 5000)
    for n in (1, 2, 8, 40, 200, 1000):
        for value in (0.0, 1.0):
            estimate = rule.estimate(measures([value] * n))
            assert 2 * half_width(estimate) >= 1 - 0.025 ** (1 / n)
            assert estimate.value == value
    assert not rule.reached(rule.estimate(measures([1.0])))


# --- the rule


def test_a_precision_is_in_points() -> None:
    rule = Stopping(0.5, 1000)
    assert rule.reached(Estimate(0.9, 0.896, 0.905, 9, 10, 10))
    assert not rule.reached(Estimate(0.9, 0.894, 0.905, 9, 10, 10))
    assert not rule.reached(NO_ESTIMATE)


def test_the_estimate_is_the_mean_with_its_counts() -> None:
    rule = Stopping(5, 100)
    estimate = rule.estimate([Measure(1.0, 4, 4), NOTHING, Measure(0.5, 3, 8)])
    assert (estimate.value, estimate.hits, estimate.total, estimate.edits) == (0.75, None, 12, 2)
    assert (estimate.low, estimate.high) == betting_interval([1.0, 0.5], half_width=0.05, most=100)
    assert rule.estimate([NOTHING]) is NO_ESTIMATE


# --- the promise, by simulation: edits that differ, each asked a stratified sample of its own

QUESTIONS, ASKED, CASES = 400, 40, 2000
PLACES = strata([float(i) for i in range(QUESTIONS)])
SIZES = Counter(PLACES)


@dataclass(frozen=True)
class Population:
    """Edits with what each does to every question, and what samples of these say.

    Attributes:
        rates: (edits,) the true share of answers each keeps.
        estimates: (edits, draws) the same as estimated from each of some samples.
    """

    rates: NDArray[np.float64]
    estimates: NDArray[np.float64]

    def one_run(self, generator: np.random.Generator, *, endless: bool = False) -> NDArray[np.float64]:
        """(edits,) in a random order, as seeds give it, each asked a sample of its own.

        Each edit comes once; with `endless` they are drawn as from edits without number, which tells less.
        """
        n = len(self.rates)
        order = generator.integers(n, size=n) if endless else generator.permutation(n)
        return self.estimates[order, generator.integers(self.estimates.shape[1], size=n)]


def population(rates: Callable[[np.random.Generator], NDArray[np.float64]]) -> Population:
    """Answers flip where the base model is least sure, each edit's own ones."""
    generator = np.random.default_rng(0)
    unsure = generator.random((CASES, QUESTIONS)) + np.linspace(0, 1, QUESTIONS)
    n_kept = np.round(rates(generator) * QUESTIONS).astype(int)
    kept = np.argsort(np.argsort(unsure, axis=1), axis=1) >= (QUESTIONS - n_kept)[:, None]
    drawn = np.array([draw_sample(PLACES, ASKED, seed=0, edit_id=str(i)) for i in range(200)])
    # What `stratified_mean` makes of each question drawn; the allocation is the same in every draw.
    weight = [
        stratified_mean(row, np.take(PLACES, drawn[0]).tolist(), SIZES) for row in np.eye(ASKED).tolist()
    ]
    estimates = np.zeros((CASES, len(drawn)))
    for j in range(ASKED):
        estimates += weight[j] * kept[:, drawn[:, j]]
    assert estimates[5, 7] == pytest.approx(
        stratified_mean(kept[5, drawn[7]].tolist(), np.take(PLACES, drawn[7]).tolist(), SIZES)
    )
    return Population(kept.mean(axis=1), np.clip(estimates, 0, 1))


def most_keep_everything(generator: np.random.Generator) -> NDArray[np.float64]:
    return np.where(generator.random(CASES) < 0.03, generator.uniform(0.2, 0.6, CASES), 1.0)


def one_in_two_hundred_fails(generator: np.random.Generator) -> NDArray[np.float64]:
    return np.where(np.arange(CASES) < CASES // 200, 0.0, 1.0)


def all_lose_some(generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.beta(45, 5, CASES)


POPULATIONS = {
    rates.__name__: rates for rates in (most_keep_everything, one_in_two_hundred_fails, all_lose_some)
}
WANTED = 0.01
LOOKS = (*range(8, CASES, 8), CASES)


def normal_interval(x: NDArray[np.float64]) -> tuple[float, float]:
    reach = 1.96 * x.std() / math.sqrt(len(x))
    return x.mean() - reach, x.mean() + reach


def valid_interval(x: NDArray[np.float64]) -> tuple[float, float]:
    return betting_interval(x.tolist(), half_width=WANTED, most=CASES)


@pytest.mark.parametrize("endless", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", POPULATIONS)
def test_the_interval_covers_where_a_run_stops(
    name: str, endless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_HALVINGS", 16)  # for speed; 2^-16 is little beside 1 point
    edits, generator = population(POPULATIONS[name]), np.random.default_rng(1)
    truth = edits.rates.mean()
    values, covered, n_edits = stops(edits, 150, generator, endless=endless)
    assert np.mean(covered) >= 0.93
    assert np.mean(np.array(n_edits) < CASES) > 0.9  # it is the stopping that is tried
    # Rare bad edits, once they come, put the stop off: a bias by stopping, upwards.
    least, most = (-0.05, 0.25) if name != "all_lose_some" else (-0.08, 0.08)
    assert least * WANTED < np.mean(values) - truth < most * WANTED


def stops(
    edits: Population, runs: int, generator: np.random.Generator, *, endless: bool
) -> tuple[list[float], list[bool], list[int]]:
    """Where runs stop: the mean, whether its interval covers the true one, and how many edits it took."""
    values, covered, n_edits = [], [], []
    for _ in range(runs):
        run = edits.one_run(generator, endless=endless)

        def enough(n: int, run: NDArray[np.float64] = run) -> bool:
            low, high = valid_interval(run[:n])
            return (high - low) / 2 <= WANTED

        # Intervals only become narrower, so the first look at which it is enough is found by halving.
        n = LOOKS[bisect_left(LOOKS[:-1], True, key=enough)]
        low, high = valid_interval(run[:n])
        values.append(float(run[:n].mean()))
        covered.append(bool(low <= edits.rates.mean() <= high))
        n_edits.append(n)
    return values, covered, n_edits


def test_an_interval_for_a_fixed_number_does_not_cover_there() -> None:
    edits, generator = population(one_in_two_hundred_fails), np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        run = edits.one_run(generator)
        ends = (normal_interval(run[:n]) for n in LOOKS if n >= 40)
        low, high = next((low, high) for low, high in ends if (high - low) / 2 <= WANTED)
        covered += low <= edits.rates.mean() <= high
    assert covered / 150 < 0.5


@pytest.mark.parametrize("name", ["most_keep_everything", "all_lose_some"])
def test_a_fixed_number_of_edits_is_unbiased_and_its_bootstrap_covers(name: str) -> None:
    edits, generator = population(POPULATIONS[name]), np.random.default_rng(2)
    truth = float(edits.rates.mean())
    found = [
        mean_estimate(measures(edits.one_run(generator)[:200].tolist()), seed=run, resamples=300)
        for run in range(200)
    ]
    values = [estimate.value for estimate in found]
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / math.sqrt(len(values))
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in found])
    assert covered >= 0.9
