from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import BASE, DECAO2021_SCORES, EDITS, FAILED, NO_OP, STRICT_SCORES, STUBBORN, TAKES

from kebench.scoring.answers import BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.scoring.protocols import DECAO2021, STRICT, Protocol, protocol
from kebench.scoring.scorer import Scores, per_edit, score
from kebench.scoring.statistics import NO_ESTIMATE, Estimate

BOTH = pytest.mark.parametrize("rules", [STRICT, DECAO2021], ids=lambda rules: rules.name)
ESTIMATES = tuple(STRICT_SCORES)


def bytes_of(scores: Scores) -> str:
    return json.dumps(scores.to_json(), allow_nan=False)


# --- the worked scene


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize(("rules", "expected"), [(STRICT, STRICT_SCORES), (DECAO2021, DECAO2021_SCORES)])
def test_scores_worked_out_by_hand(
    rules: Protocol, expected: dict[str, tuple[float, int, int, int]], name: str
) -> None:
    estimate = getattr(score(EDITS, BASE, rules, resamples=50), name)
    assert estimate.value == pytest.approx(expected[name][0])
    assert (estimate.hits, estimate.total, estimate.edits) == expected[name][1:]


@BOTH
def test_counts_of_the_worked_scene(rules: Protocol) -> None:
    scores = score(EDITS, BASE, rules, resamples=50)
    assert (scores.edits, scores.no_ops, scores.edits_with_paraphrases) == (4, 1, 3)
    assert scores.held_out_edits == 2
    assert scores.failures == {"out of memory": 1}
    assert scores.n_failures == 1


# --- doubles with known scores


def run_of(said: Callable[[BaseAnswer, BaseAnswer], str]) -> list[EditAnswers]:
    """Every test question edited to Timbuktu; `said(x, question)` is the answer to it after edit x."""
    return [
        EditAnswers(
            id=x.id,
            fact=x.fact,
            prompt=x.prompt,
            prediction=x.answer,
            target="Timbuktu",
            answer=said(x, x),
            paraphrases=(ParaphraseAnswer(f"Again: {x.prompt}", said(x, x)),),
            sample={question.id: said(x, question) for question in BASE},
        )
        for x in BASE
    ]


@BOTH
def test_an_editor_that_changes_nothing(rules: Protocol) -> None:
    scores = score(run_of(lambda x, question: question.answer), BASE, rules, resamples=50)
    assert scores.success_rate.value == 0
    assert scores.equivalence_target.value == 0
    assert scores.equivalence_own.value == 1
    # All eight edits score the same, on seven facts: 0.05^(1/7) = 0.65 is what is sure of the others.
    retain = scores.retain_accuracy
    assert (retain.value, retain.low, retain.high) == (1, pytest.approx(0.05 ** (1 / 7)), 1)
    for loss in (scores.performance_deterioration, scores.performance_deterioration_elsewhere):
        assert loss is not None
        assert loss.value == 0
        assert loss.low < 0 < loss.high < 0.36
        assert math.isnan(loss.smallest_detectable)


@BOTH
def test_an_editor_that_does_just_what_is_asked(rules: Protocol) -> None:
    oracle = run_of(lambda x, question: "Timbuktu" if question is x else question.answer)
    scores = score(oracle, BASE, rules, resamples=50)
    assert scores.success_rate.value == 1
    assert scores.equivalence_target.value == scores.equivalence_own.value == 1
    assert scores.retain_accuracy.value == 1
    # x is in the test set: the 6 edits of a right answer leave 5 of 8 right, the 2 others 6 of 8.
    # 1 − ((6 · 5/8 + 2 · 6/8) / 8) / (6/8) = 1 − (21/32) / (24/32)
    assert scores.performance_deterioration.value == pytest.approx(1 / 8)


@BOTH
def test_just_what_is_asked_costs_nothing_where_x_is_not_in_the_test_set(rules: Protocol) -> None:
    elsewhere = replace(TAKES, id="new", fact="new", prompt="Who wrote Ulysses?")
    kept = replace(elsewhere, sample={row.id: row.answer for row in BASE})
    assert score([kept], BASE, rules, resamples=50).performance_deterioration.value == 0


@BOTH
def test_an_editor_that_answers_one_nonsense_word_everywhere(rules: Protocol) -> None:
    scores = score(run_of(lambda x, question: "zyx"), BASE, rules, resamples=50)
    assert scores.success_rate.value == 0
    assert scores.equivalence_target.value == 0
    assert scores.equivalence_own.value == 1  # "agrees with its own new answer"
    assert scores.equivalence_accuracy.value == (0 if rules is STRICT else 1)
    assert scores.retain_accuracy.value == 0
    assert scores.performance_deterioration.value == 1


@BOTH
def test_an_editor_that_always_fails(rules: Protocol) -> None:
    failing = [
        replace(edit, answer=None, failure="time limit") for edit in run_of(lambda x, question: "Timbuktu")
    ]
    scores = score(failing, BASE, rules, resamples=50)
    assert scores.failures == {"time limit": 8}
    assert scores.success_rate.value == scores.equivalence_own.value == scores.retain_accuracy.value == 0
    assert scores.performance_deterioration.value == 1


# --- conventions


def test_each_edit_weighs_the_same_however_many_paraphrases_it_has() -> None:
    many = replace(TAKES, paraphrases=TAKES.paraphrases[1:2] * 9)  # 9 of 9
    scores = score([many, STUBBORN], BASE, STRICT, resamples=50)  # and 0 of 1
    assert scores.equivalence_target.value == 0.5
    assert (scores.equivalence_target.hits, scores.equivalence_target.total) == (None, 10)


def test_no_ops_count_in_every_score_but_success() -> None:
    scores = score([NO_OP], BASE, STRICT, resamples=50)
    assert (scores.no_ops, scores.no_op_share.value) == (1, 1.0)
    assert math.isnan(scores.success_rate.value)
    assert math.isnan(scores.inflation_gap.value)
    assert scores.retain_accuracy.edits == 1


def test_a_failed_no_op_is_itemised_and_still_no_op() -> None:
    scores = score([replace(NO_OP, answer=None), STUBBORN], BASE, STRICT, resamples=50)
    assert scores.failures == {"no answer": 1}
    assert scores.success_rate.edits == 1  # the same for every editor, failed or not


HELD_OUT = tuple(name for name in ESTIMATES if "held_out" in name or "wordings" in name)


def nothing_held_out(edit: EditAnswers) -> EditAnswers:
    texts = tuple(replace(paraphrase, held_out=False) for paraphrase in edit.paraphrases)
    return replace(edit, held_out=False, paraphrases=texts)


@BOTH
def test_a_pack_that_holds_nothing_out_has_none_of_its_scores_and_the_same_others(rules: Protocol) -> None:
    plain = score([nothing_held_out(edit) for edit in EDITS], BASE, rules, resamples=50)
    assert plain.held_out_edits == 0
    assert len(HELD_OUT) == 5
    assert all(math.isnan(getattr(plain, name).value) for name in HELD_OUT)
    flagged = score(EDITS, BASE, rules, resamples=50)
    for name in ESTIMATES:
        if name not in HELD_OUT:
            assert getattr(plain, name).to_json() == getattr(flagged, name).to_json()


def test_failed_edits_are_wrong_in_held_out_scores() -> None:
    of_relation, of_wording = (
        score([replace(FAILED, held_out=held_out)], BASE, STRICT, resamples=50) for held_out in (True, False)
    )
    for estimate, total in (
        (of_relation.held_out_success_rate, 1),
        (of_relation.held_out_equivalence, 1),
        (of_relation.held_out_retain_accuracy, 4),
        (of_wording.equivalence_held_out_wordings, 1),
    ):
        assert (estimate.value, estimate.total, estimate.edits) == (0, total, 1)
    assert math.isnan(of_wording.equivalence_seen_wordings.value)  # its one paraphrase is held out


def test_wordings_are_of_edits_in_training_and_held_out_edits_of_all_wordings() -> None:
    # Each of the two: 1 of 1 seen and 0 of 1 held out against "Nice".
    texts = (
        ParaphraseAnswer("Which town rules France?", "Nice"),
        ParaphraseAnswer("France's capital?", "Paris", held_out=True),
    )
    trained = replace(STUBBORN, paraphrases=texts)
    held_out = replace(trained, id="q4", held_out=True)
    scores = score([trained, held_out], BASE, STRICT, resamples=50)
    seen, kept = scores.equivalence_seen_wordings, scores.equivalence_held_out_wordings
    assert (seen.value, seen.total, seen.edits) == (1, 1, 1)
    assert (kept.value, kept.total, kept.edits) == (0, 1, 1)
    assert (scores.held_out_equivalence.value, scores.held_out_equivalence.total) == (0.5, 2)
    assert (scores.equivalence_target.value, scores.equivalence_target.total) == (0.5, 4)


def test_where_no_wording_that_counts_is_held_out_none_is_seen() -> None:
    x_again = (ParaphraseAnswer("capital of france", "Paris", held_out=True), *STUBBORN.paraphrases)
    edits = [replace(STUBBORN, paraphrases=x_again), FAILED]  # FAILED's relation is held out as a whole
    scores = score(edits, BASE, STRICT, resamples=50)
    for estimate in (scores.equivalence_seen_wordings, scores.equivalence_held_out_wordings):
        assert estimate.to_json() == NO_ESTIMATE.to_json()
    kept = score(edits, BASE, DECAO2021, resamples=50)  # there x again is a paraphrase
    assert kept.equivalence_seen_wordings.total == kept.equivalence_held_out_wordings.total == 1


def test_where_all_edits_are_held_out_their_scores_are_the_scores() -> None:
    scores = score([replace(edit, held_out=True) for edit in EDITS], BASE, STRICT, resamples=50)
    assert scores.held_out_edits == scores.edits
    assert scores.held_out_success_rate == scores.success_rate
    assert scores.held_out_equivalence == scores.equivalence_target
    assert scores.held_out_retain_accuracy == scores.retain_accuracy
    assert scores.equivalence_seen_wordings.total == scores.equivalence_held_out_wordings.total == 0


def test_failures_are_itemised_by_reason() -> None:
    edits = [replace(FAILED, id=str(i), failure=reason) for i, reason in enumerate(["z", "NaN", "z", None])]
    scores = score(edits, BASE, STRICT, resamples=50)
    assert list(scores.failures.items()) == [("NaN", 1), ("no answer", 1), ("z", 2)]


def test_the_gap_is_over_the_edits_that_were_forced() -> None:
    # STUBBORN: forced yes, free no. TAKES was not forced here: only free, and not in the gap.
    scores = score([STUBBORN, replace(TAKES, forced=None)], BASE, STRICT, resamples=50)
    assert scores.success_rate.value == 0.5
    assert (scores.success_rate_teacher_forced.value, scores.success_rate_teacher_forced.edits) == (1, 1)
    assert (scores.inflation_gap.value, scores.inflation_gap.edits) == (1, 1)


def test_an_editor_that_only_answers_has_no_gap_even_when_an_edit_fails() -> None:
    scores = score([replace(TAKES, forced=None), FAILED], BASE, STRICT, resamples=50)
    assert math.isnan(scores.success_rate_teacher_forced.value)
    assert math.isnan(scores.inflation_gap.value)


def test_nothing_edited_is_nan_everywhere() -> None:
    scores = score([], BASE, STRICT, resamples=50)
    assert scores.edits == 0
    assert scores.accuracy_before.value == 6 / 8  # known without any
    assert all(math.isnan(getattr(scores, name).value) for name in ESTIMATES if name != "accuracy_before")


def test_deterioration_is_nan_when_the_base_model_is_never_right() -> None:
    wrong = [replace(row, gold=("nobody says this",)) for row in BASE]
    scores = score(EDITS, wrong, STRICT, resamples=50)
    assert scores.accuracy_before.value == 0
    assert math.isnan(scores.performance_deterioration.value)


def test_deterioration_is_negative_when_accuracy_rose() -> None:
    better = replace(STUBBORN, sample={"q4": "Lima", "q5": "Bern"})  # stratum 0 all gained, stratum 1 kept
    # −1/2 of the 3/4 that are right on the whole test set
    assert score([better], BASE, STRICT, resamples=50).performance_deterioration.value == -2 / 3


def test_labels() -> None:
    base = [BaseAnswer(f"c{i}", f"c{i}", f"claim {i}", ("SUPPORTS",), "SUPPORTS") for i in range(4)]
    flip = EditAnswers(
        id="c0",
        fact="c0",
        prompt="claim 0",
        prediction="SUPPORTS",
        target="REFUTES",
        answer="REFUTES",
        forced=True,
        sample={"c1": "SUPPORTS", "c2": "REFUTES"},
    )
    scores = score([flip], base, protocol("strict", labels=True), resamples=50)
    assert scores.success_rate.value == 1
    assert scores.inflation_gap.value == 0
    assert scores.retain_accuracy.value == 0.5
    assert scores.performance_deterioration.value == 0.5


def test_deterioration_is_unbiased_and_the_accuracy_before_is_not_estimated() -> None:
    """Over all draws of two of four questions, of which the base model knows two."""
    base = [BaseAnswer(f"q{i}", f"f{i}", f"p{i}", (f"g{i}",), f"g{i}" if i < 2 else "?") for i in range(4)]
    # One right answer lost, one gained: nothing in all.
    after = {"q0": "g0", "q1": "?", "q2": "g2", "q3": "?"}
    found = []
    for drawn in combinations(after, 2):
        edit = replace(TAKES, id="new", sample={id_: after[id_] for id_ in drawn})
        scores = score([edit], base, STRICT, resamples=5)
        before = scores.accuracy_before
        assert before.value == before.low == before.high == 0.5
        found.append(scores.performance_deterioration.value)
    # 1 − after / before on each draw, as scoring version 1 had it: 1/2, −1, 0, 0, 1, and once NaN.
    assert found == [1, -1, 0, 0, 1, -1]


def test_edits_about_one_fact_are_resampled_together() -> None:
    edits = [replace(edit, id=f"{edit.id}{i}") for edit in (TAKES, STUBBORN) for i in range(30)]
    together = score(edits, BASE, STRICT, resamples=200).success_rate
    apart = score([replace(e, fact=e.id) for e in edits], BASE, STRICT, resamples=200).success_rate
    assert together.value == apart.value == 0.5
    assert (together.low, together.high) == (0, 1)  # two facts
    assert apart.high - apart.low < 0.3


def test_two_edits_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="two edits have the same id"):
        score([TAKES, TAKES], BASE, STRICT)


# --- rows and files


def test_per_edit_gives_one_row_an_edit_by_id() -> None:
    rows = per_edit(EDITS[::-1], BASE, STRICT)
    assert [row.id for row in rows] == ["q1", "q3", "q5", "q8"]
    takes = rows[0].row()
    assert takes["equivalence_target"] == 0.5
    assert (takes["equivalence_target_hits"], takes["equivalence_target_total"]) == (1, 2)
    assert (takes["failure"], takes["no_op"]) == (None, False)
    assert [row.held_out for row in rows] == [False, False, True, True]
    assert (takes["held_out"], takes["equivalence_held_out_wordings"]) == (False, 0.0)
    assert takes["equivalence_seen_wordings_total"] == 1  # x again is left out
    assert "retain_hits" not in takes  # 1 of 3, but weighted 5/6
    assert takes["retain"] == pytest.approx(5 / 6)
    assert (takes["accuracy_loss"], takes["accuracy_elsewhere_hits"]) == (1 / 8, 4)
    assert rows[2].row()["equivalence_held_out_wordings_total"] == 0  # its relation is held out
    assert rows[2].row()["failure"] == "out of memory"
    assert all(row.row().keys() == takes.keys() for row in rows)


@BOTH
def test_scores_are_read_back_as_written(rules: Protocol) -> None:
    scores = score(EDITS, BASE, rules, seed=3, resamples=50)
    assert bytes_of(Scores.from_json(json.loads(bytes_of(scores)))) == bytes_of(scores)


def test_nan_is_null_in_the_file() -> None:
    scores = score([], BASE, STRICT, resamples=50)
    saved = json.loads(bytes_of(scores))
    assert saved["success_rate"]["value"] is None
    assert bytes_of(Scores.from_json(saved)) == bytes_of(scores)


def test_the_seed_moves_intervals_and_no_value() -> None:
    one, two = (score(EDITS, BASE, STRICT, seed=seed, resamples=30) for seed in (1, 2))
    assert one.retain_accuracy.value == two.retain_accuracy.value
    intervals = [(scores.retain_accuracy.low, scores.retain_accuracy.high) for scores in (one, two)]
    assert intervals[0] != intervals[1]


def test_scoring_imports_no_torch() -> None:
    code = "import sys, kebench.scoring.scorer, kebench.metric_modules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- properties

WORDS = st.sampled_from(["Paris", "paris.", "Nice", "Rome", "the", ""])
MAYBE = st.one_of(st.none(), WORDS)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[EditAnswers], list[BaseAnswer]]:
    n = draw(st.integers(1, 8))
    base = [
        BaseAnswer(
            id=f"q{i}",
            fact=f"f{draw(st.integers(0, 3))}",
            prompt=f"question {draw(st.integers(0, 5))}",
            gold=tuple(draw(st.lists(WORDS, min_size=1, max_size=2))),
            answer=draw(WORDS),
            stratum=draw(st.integers(0, 3)),
        )
        for i in range(n)
    ]
    edits = [
        EditAnswers(
            id=f"q{i}",
            fact=f"f{draw(st.integers(0, 3))}",
            prompt=f"question {draw(st.integers(0, 5))}",
            prediction=draw(WORDS),
            target=draw(WORDS),
            answer=draw(MAYBE),
            forced=draw(st.sampled_from([None, True, False])),
            paraphrases=tuple(
                ParaphraseAnswer(f"question {draw(st.integers(0, 9))}", draw(MAYBE), draw(st.booleans()))
                for _ in range(draw(st.integers(0, 3)))
            ),
            sample={row.id: draw(MAYBE) for row in base if draw(st.booleans())},
            failure=draw(st.sampled_from([None, None, "NaN"])),
            held_out=draw(st.booleans()),
        )
        for i in range(draw(st.integers(0, 5)))
    ]
    return edits, base


@pytest.mark.parametrize(
    "rules", [STRICT, pytest.param(DECAO2021, marks=pytest.mark.slow)], ids=lambda p: p.name
)
@settings(deadline=None)
@given(run=runs(), random=st.randoms(use_true_random=False))
def test_properties_of_any_run(
    rules: Protocol, run: tuple[list[EditAnswers], list[BaseAnswer]], random: object
) -> None:
    edits, base = run
    scores = score(edits, base, rules, resamples=25)
    for name in ESTIMATES:
        estimate: Estimate = getattr(scores, name)
        if math.isnan(estimate.value):
            continue
        assert estimate.low <= estimate.value <= estimate.high, name
        if (
            name == "accuracy_after" or "deterioration" in name
        ):  # unbiased, and so a little beyond now and then
            continue
        assert (-1 if name == "inflation_gap" else 0) <= estimate.low, name
        assert estimate.high <= 1, name
    left_out = scores.no_ops if rules.left_out_of_success == "no_ops" else 0
    assert scores.success_rate.edits + left_out == scores.edits
    assert (scores.equivalence_target.total, scores.equivalence_target.edits) == (
        scores.equivalence_own.total,
        scores.equivalence_own.edits,
    )
    seen, kept = scores.equivalence_seen_wordings, scores.equivalence_held_out_wordings
    relations, whole = scores.held_out_equivalence, scores.equivalence_target
    if kept.total:
        assert seen.total + kept.total + relations.total == whole.total
    else:
        assert seen.total == 0
    assert scores.held_out_edits == sum(edit.held_out for edit in edits)
    assert scores.held_out_success_rate.edits <= scores.held_out_edits

    shuffled = [replace(edit, sample=dict(reversed(list(edit.sample.items())))) for edit in edits]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other_base = list(base)
    random.shuffle(other_base)  # type: ignore[attr-defined]
    assert bytes_of(score(shuffled, other_base, rules, resamples=25)) == bytes_of(scores)
    assert bytes_of(Scores.from_json(json.loads(bytes_of(scores)))) == bytes_of(scores)


@BOTH
@settings(deadline=None)
@given(run=runs())
def test_an_unchanged_model_never_deteriorates(
    rules: Protocol, run: tuple[list[EditAnswers], list[BaseAnswer]]
) -> None:
    edits, base = run
    answers = {row.id: row.answer for row in base}
    unchanged = [
        replace(edit, answer=edit.prediction, failure=None, sample={id_: answers[id_] for id_ in edit.sample})
        for edit in edits
    ]
    scores = score(unchanged, base, rules, resamples=25)
    assert scores.retain_accuracy.value == 1 or math.isnan(scores.retain_accuracy.value)
    deterioration = scores.performance_deterioration
    assert math.isnan(deterioration.value) or deterioration.value == 0
    elsewhere = scores.performance_deterioration_elsewhere
    assert elsewhere is not None
    assert math.isnan(elsewhere.value) or elsewhere.value == 0
