from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kebench.errors import BadSetting
from kebench.scoring.statistics import (
    NOTHING,
    Estimate,
    Measure,
    bootstrap_means,
    draw_sample,
    least_rate,
    mean_estimate,
    relative_loss_estimate,
    strata,
    stratified_mean,
)

# --- estimates


def test_every_edit_weighs_the_same() -> None:
    # (1/1 + 0/9) / 2, not 1/10
    estimate = mean_estimate([Measure(1.0, 1, 1), Measure(0.0, 0, 9)])
    assert (estimate.value, estimate.hits, estimate.total, estimate.edits) == (0.5, None, 10, 2)


def test_hits_are_told_where_they_make_the_value() -> None:
    estimate = mean_estimate([Measure(1.0, 1, 1), Measure(0.0, 0, 1), Measure(0.0, 0, 1)], counted=True)
    assert (estimate.value, estimate.hits, estimate.total) == (1 / 3, 1, 3)
    assert "hits" not in mean_estimate([Measure(1.0, 1, 1)]).to_json()


def test_edits_that_measured_nothing_are_left_out() -> None:
    estimate = mean_estimate([Measure(1.0, 2, 2), NOTHING])
    assert (estimate.value, estimate.edits) == (1.0, 1)


def test_nothing_measured_is_nan() -> None:
    estimate = mean_estimate([NOTHING])
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert (estimate.hits, estimate.total, estimate.edits) == (None, 0, 0)


def test_an_estimate_is_read_back_as_written() -> None:
    estimate = mean_estimate([Measure(1.0, 1, 1), Measure(0.3, 3, 10)])
    assert Estimate.from_json(estimate.to_json()) == estimate


def test_nan_is_written_as_none() -> None:
    saved = mean_estimate([]).to_json()
    nothing = {"value": None, "low": None, "high": None, "standard_error": None}
    assert saved == {**nothing, "total": 0, "edits": 0}
    assert math.isnan(Estimate.from_json(saved).value)


def test_relative_loss_is_a_ratio_of_means() -> None:
    # means: before (1 + 0.5) / 2 = 0.75, after (0.5 + 0.5) / 2 = 0.5; 1 − 0.5 / 0.75 = 1/3.
    # The mean of the ratios, 1 − (0.5 + 1) / 2 = 1/4, is something else; so is the difference, 1/4.
    before = [Measure(1.0, 4, 4), Measure(0.5, 2, 4)]
    lost = [Measure(0.5, None, 4), Measure(0.0, None, 4)]
    estimate = relative_loss_estimate(lost, before)
    assert estimate.value == pytest.approx(1 / 3)
    assert (estimate.hits, estimate.total, estimate.edits) == (None, 8, 2)


def test_relative_loss_is_negative_when_accuracy_rose() -> None:
    assert relative_loss_estimate([Measure(-0.5, None, 2)], [Measure(0.5, 1, 2)]).value == -1.0


def test_relative_loss_from_nothing_right_is_nan() -> None:
    estimate = relative_loss_estimate([Measure(-1.0, None, 2)], [Measure(0.0, 0, 2)])
    assert math.isnan(estimate.value)
    assert (estimate.total, estimate.edits) == (2, 1)


def test_resamples_without_anything_right_before_have_no_ratio() -> None:
    # Of the resamples of three edits, those that hold the second or the third: 1/2 or 1/4 of it is lost.
    estimate = relative_loss_estimate(
        [Measure(0.0, None, 1), Measure(0.5, None, 2), Measure(0.25, None, 2)],
        [Measure(0.0, 0, 1), Measure(1.0, 1, 1), Measure(1.0, 1, 1)],
    )
    assert (estimate.value, estimate.low, estimate.high) == (3 / 8, 1 / 4, 1 / 2)


def test_unpaired_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        relative_loss_estimate([NOTHING], [])


# --- intervals without width


def test_one_edit_says_next_to_nothing() -> None:
    # p^1 = 0.05: with 95 % confidence, one in twenty others or more scores so too
    ends = [
        (estimate.low, estimate.high)
        for estimate in (mean_estimate([Measure(value, None, 4)]) for value in (1.0, 0.0, 0.5))
    ]
    assert ends == [pytest.approx(each) for each in ((0.05, 1.0), (0.0, 0.95), (0.025, 0.975))]
    assert math.isnan(mean_estimate([Measure(1.0, 4, 4)]).standard_error or 0)


def test_equal_scores_leave_what_clopper_and_pearson_leave() -> None:
    estimate = mean_estimate([Measure(1.0, 1, 1)] * 59)
    assert (estimate.low, estimate.high) == (pytest.approx(0.05 ** (1 / 59)), 1)
    gap = mean_estimate([Measure(0.0, 0, 1)] * 2, least=-1)
    assert (gap.low, gap.high) == (pytest.approx(math.sqrt(0.05) - 1), pytest.approx(1 - math.sqrt(0.05)))


def test_several_edits_of_one_fact_are_one_fact() -> None:
    estimate = mean_estimate([Measure(1.0, 1, 1), Measure(0.0, 0, 1)], ["f", "f"])
    assert (estimate.value, estimate.edits) == (0.5, 2)
    assert (estimate.low, estimate.high) == (pytest.approx(0.025), pytest.approx(0.975))


def test_no_loss_at_all_may_be_any_loss_of_those_not_drawn() -> None:
    # Accuracy 1/4 before: the others may lose all of it, or gain three times as much.
    loss = relative_loss_estimate([Measure(0.0, None, 8)] * 2, [Measure(0.25, 2, 8)] * 2)
    others = 1 - math.sqrt(0.05)
    assert (loss.value, loss.low, loss.high) == (0, pytest.approx(-3 * others), pytest.approx(others))


def test_least_rate_is_near_the_rule_of_three() -> None:
    assert least_rate(1) == pytest.approx(0.05)
    assert least_rate(1000) == pytest.approx(1 - 3 / 1000, abs=1e-5)


# --- the bootstrap


def test_edits_of_one_fact_are_drawn_together() -> None:
    # Ten facts of four edits that go the same way tell what ten edits do, not what forty do.
    values = [float(fact % 2) for fact in range(10) for _ in range(4)]
    facts = [str(fact) for fact in range(10) for _ in range(4)]
    spread = bootstrap_means([values], facts, resamples=20_000)[:, 0].std()
    assert spread == pytest.approx(math.sqrt(0.25 / 10), rel=0.03)
    assert bootstrap_means([values], resamples=20_000)[:, 0].std() == pytest.approx(spread / 2, rel=0.05)


def test_a_fact_comes_with_all_its_edits() -> None:
    # Fact a has one edit (1), b three (0): a resample of two facts has 2, 4 or 6 edits.
    means = bootstrap_means([[1.0, 0.0, 0.0, 0.0]], ["a", "b", "b", "b"], resamples=4000)[:, 0]
    assert Counter(means.tolist()).keys() == {1.0, 0.25, 0.0}


def test_where_every_fact_has_one_edit_facts_change_nothing() -> None:
    columns = [[0.1, 0.7, 0.1, 0.4], [0.0, 0.5, 1.0, 0.3]]
    assert np.array_equal(
        bootstrap_means(columns, resamples=99), bootstrap_means(columns, "abcd", resamples=99)
    )


def test_the_smallest_detectable_value_is_found_four_times_in_five() -> None:
    # z_0.975 + z_0.8 = 1.960 + 0.842; of 100 edits of which half score 1, the standard error is 0.05.
    estimate = mean_estimate([Measure(float(i % 2), i % 2, 1) for i in range(100)], resamples=20_000)
    assert estimate.standard_error == pytest.approx(0.05, rel=0.03)
    assert estimate.smallest_detectable == pytest.approx(2.802 * 0.05, rel=0.03)
    assert math.isnan(mean_estimate([Measure(1.0, 1, 1)]).smallest_detectable)


def test_the_bootstrap_has_the_spread_of_the_mean() -> None:
    # 40 of 100 edits succeed: the mean's standard error is sqrt(0.4 · 0.6 / 100) = 0.049
    means = bootstrap_means([[1.0] * 40 + [0.0] * 60], resamples=20_000)[:, 0]
    assert means.mean() == pytest.approx(0.4, abs=0.002)
    assert means.std() == pytest.approx(math.sqrt(0.24 / 100), rel=0.03)


def test_the_bootstrap_draws_whole_edits_with_replacement() -> None:
    # Two edits: both quantities come from the same draw, so only these three pairs of means exist.
    means = bootstrap_means([[0.0, 1.0], [1.0, 0.0]], resamples=4000)
    counts = Counter(map(tuple, means.tolist()))
    assert counts.keys() == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}
    assert counts[(0.5, 0.5)] == pytest.approx(2000, abs=150)  # probability 1/2


def test_the_bootstrap_is_the_same_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [[0.1, 0.2, 0.3, 0.4]]
    whole = bootstrap_means(columns, resamples=100)
    monkeypatch.setattr("kebench.scoring.statistics._CELLS_AT_ONCE", 7)
    assert np.array_equal(whole, bootstrap_means(columns, resamples=100))


def test_the_seed_decides() -> None:
    columns = [[0.1, 0.2, 0.3, 0.4]]
    assert np.array_equal(bootstrap_means(columns, seed=1), bootstrap_means(columns, seed=1))
    assert not np.array_equal(bootstrap_means(columns, seed=1), bootstrap_means(columns, seed=2))


def test_intervals_cover_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values = generator.random(80) < 0.3
        estimate = mean_estimate([Measure(float(v), int(v), 1) for v in values], resamples=400)
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.985


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=30), st.integers(0, 5))
def test_the_interval_holds_the_value(hits: list[int], seed: int) -> None:
    estimate = mean_estimate([Measure(n / 7, n, 7) for n in hits], seed=seed, resamples=40)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abcdef")), min_size=1, max_size=30), st.randoms()
)
def test_the_order_of_edits_does_not_matter(edits: list[tuple[int, str]], random: object) -> None:
    shuffled = list(edits)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (
        mean_estimate([Measure(n / 7, n, 7) for n, _ in order], [fact for _, fact in order], resamples=40)
        for order in (edits, shuffled)
    )
    assert one.to_json() == other.to_json()


# --- strata


def test_strata_are_quartiles_of_the_margin() -> None:
    assert strata([0.9, 0.1, 0.5, 0.3, 0.8, 0.2, 0.6, 0.4]) == (3, 0, 2, 1, 3, 0, 2, 1)


def test_equal_margins_go_by_position() -> None:
    assert strata([1.0] * 8) == (0, 0, 1, 1, 2, 2, 3, 3)


def test_few_questions_have_few_strata() -> None:
    assert strata([2.0, 1.0]) == (2, 0)
    assert strata([]) == ()


# --- the draw

FOUR = strata([float(i) for i in range(1000)])


def test_more_questions_come_from_near_the_boundary() -> None:
    drawn = draw_sample(FOUR, 200, seed=0, edit_id="e")
    assert Counter(FOUR[i] for i in drawn) == {0: 80, 1: 60, 2: 40, 3: 20}
    assert list(drawn) == sorted(set(drawn))


def test_what_a_stratum_is_too_small_for_goes_to_the_others() -> None:
    # Two each make 8. Stratum 0 gives its third and last; of the others stratum 1 is next in line for the
    # tenth: (2 + 1) / 3 = 1 against (2 + 1) / 2 and (2 + 1) / 1.
    levels = (0,) * 3 + (1,) * 50 + (2,) * 50 + (3,) * 50
    assert Counter(levels[i] for i in draw_sample(levels, 10, seed=0, edit_id="e")) == {
        0: 3,
        1: 3,
        2: 2,
        3: 2,
    }


def test_every_stratum_gives_two_where_it_can_and_one_at_least() -> None:
    levels = (0,) * 50 + (1,) * 50 + (2,) * 50 + (3,)
    # Six is one short of two each, so only one each is sure; the rest goes to the nearest strata:
    # (1 + 1) / 4 to stratum 0, then (1 + 1) / 3 to stratum 1.
    for size, expected in [(4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (7, [2, 2, 2, 1]), (8, [3, 2, 2, 1])]:
        counts = Counter(levels[i] for i in draw_sample(levels, size, seed=0, edit_id="e"))
        assert [counts[h] for h in range(4)] == expected


@pytest.mark.parametrize("size", [1000, 1001])
def test_a_size_as_large_as_the_test_set_takes_it_whole(size: int) -> None:
    assert draw_sample(FOUR, size, seed=0, edit_id="e") == tuple(range(1000))


def test_a_size_below_the_number_of_strata_is_refused() -> None:
    with pytest.raises(BadSetting, match="retain size 3: the test set has 4 strata"):
        draw_sample(FOUR, 3, seed=0, edit_id="e")


def test_each_edit_and_seed_has_its_own_draw_and_keeps_it() -> None:
    first = draw_sample(FOUR, 50, seed=0, edit_id="a")
    assert first == draw_sample(list(FOUR), 50, seed=0, edit_id="a")
    assert first != draw_sample(FOUR, 50, seed=0, edit_id="b")
    assert first != draw_sample(FOUR, 50, seed=1, edit_id="a")


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert draw_sample((0,) * 10 + (1,) * 10, 5, seed=0, edit_id="q1") == (1, 5, 9, 14, 18)


def test_every_question_of_a_stratum_is_as_likely() -> None:
    levels = (0,) * 6 + (1,) * 9
    counts = Counter(i for e in range(6000) for i in draw_sample(levels, 6, seed=0, edit_id=str(e)))
    taken = Counter(levels[i] for i in draw_sample(levels, 6, seed=0, edit_id="0"))
    for position, level in enumerate(levels):
        expected = 6000 * taken[level] / levels.count(level)
        assert counts[position] == pytest.approx(expected, abs=5 * math.sqrt(expected))


# --- the weights


def test_strata_weigh_what_they_hold() -> None:
    # (10 · (1 + 0)/2 + 30 · 1) / 40
    assert stratified_mean([1, 0, 1], [0, 0, 1], {0: 10, 1: 30}) == 35 / 40


def test_the_weight_of_a_stratum_without_answers_is_spread_over_the_others() -> None:
    # (10 · 1 + 20 · 0) / 30; the 5 of stratum 2 say nothing
    assert stratified_mean([1, 0], [0, 1], {0: 10, 1: 20, 2: 5}) == 10 / 30


def test_no_answers_is_nan() -> None:
    assert math.isnan(stratified_mean([], [], {0: 3}))


@pytest.mark.parametrize("populations", [{0: 1}, {1: 5}])
def test_more_answers_than_questions_are_refused(populations: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="stratum 0: 2 values of"):
        stratified_mean([1, 1], [0, 0], populations)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 10_000)), min_size=1, max_size=6))
def test_all_right_is_exactly_one(sizes: list[tuple[int, int]]) -> None:
    levels = [h for h, (drawn, _) in enumerate(sizes) for _ in range(drawn)]
    populations = {h: drawn + rest for h, (drawn, rest) in enumerate(sizes)}
    assert stratified_mean([1] * len(levels), levels, populations) == 1.0
    assert stratified_mean([0] * len(levels), levels, populations) == 0.0


def test_unbiased_over_every_possible_draw() -> None:
    """All samples of 3 of 4 and 2 of 5, and the same when one question of each stratum is left out."""
    near, far = {"a": 1, "b": 0, "c": 1, "d": 0}, {"e": 1, "f": 1, "g": 1, "h": 0, "i": 0}
    draws = [first + second for first, second in product(combinations(near, 3), combinations(far, 2))]
    for left_out in (set(), {"a", "e"}):
        estimates = []
        for draw in draws:
            kept = [question for question in draw if question not in left_out]
            estimates.append(
                stratified_mean(
                    [(near | far)[question] for question in kept],
                    [int(question in far) for question in kept],
                    {0: len(near.keys() - left_out), 1: len(far.keys() - left_out)},
                )
            )
        answers = [right for question, right in (near | far).items() if question not in left_out]
        assert sum(estimates) / len(estimates) == pytest.approx(sum(answers) / len(answers))


def test_the_draw_and_the_weights_together_are_unbiased() -> None:
    """Answers that flip near the boundary: the plain mean of the draw is off, the weighted one is not."""
    kept = [0 if i < 300 and i % 2 else 1 for i in range(1000)]  # 850 of 1000
    weighted, plain = [], []
    for edit in range(1500):
        drawn = draw_sample(FOUR, 40, seed=0, edit_id=str(edit))
        values = [kept[i] for i in drawn]
        plain.append(sum(values) / len(values))
        weighted.append(stratified_mean(values, [FOUR[i] for i in drawn], Counter(FOUR)))
    error = float(np.std(weighted)) / math.sqrt(len(weighted))
    assert abs(np.mean(weighted) - 0.85) < 4 * error
    assert abs(np.mean(plain) - 0.85) > 20 * error
