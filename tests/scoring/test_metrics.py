"""One test a convention, on answers written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from kebench.scoring import metrics
from kebench.scoring.answers import BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.scoring.metrics import BaseAnswers, of_edit
from kebench.scoring.protocols import DECAO2021, STRICT, Protocol, protocol
from kebench.scoring.statistics import Measure
from kebench.scoring.table import HELD_OUT_WORDINGS, SEEN_WORDINGS

BOTH = pytest.mark.parametrize("rules", [STRICT, DECAO2021], ids=lambda rules: rules.name)


def edit(
    answer: str | None = "Nice",
    *,
    paraphrases: Mapping[str, str | None] | None = None,
    sample: Mapping[str, str | None] | None = None,
    target: str = "Nice",
    forced: bool | None = None,
    failure: str | None = None,
) -> EditAnswers:
    """Make 'Capital of France?', to which the base model says Paris, be answered Nice."""
    return EditAnswers(
        id="france",
        fact="France:capital",
        prompt="Capital of France?",
        prediction="Paris",
        target=target,
        answer=answer,
        forced=forced,
        paraphrases=tuple(ParaphraseAnswer(text, said) for text, said in (paraphrases or {}).items()),
        sample=sample or {},
        failure=failure,
    )


def base_answer(
    id_: str, answer: str, *gold: str, fact: str = "", prompt: str = "", stratum: int = 0
) -> BaseAnswer:
    return BaseAnswer(id_, fact or id_, prompt or f"What of {id_}?", gold or (answer,), answer, stratum)


BASE = BaseAnswers(
    [
        base_answer("france", "Paris", fact="France:capital", prompt="Capital of France?"),
        base_answer("france-2", "Paris", fact="France:capital"),
        base_answer("peru", "Quito", "Lima"),  # wrong
        base_answer("norway", "Oslo", "Oslo", "Kristiania"),
        base_answer("latvia", "Riga"),
    ]
)


# --- success


@BOTH
@pytest.mark.parametrize(("answer", "hits"), [("Nice", 1), ("nice.", 1), ("Paris", 0), ("Nice, France", 0)])
def test_success_is_the_whole_target_whatever_its_case_and_punctuation(
    rules: Protocol, answer: str, hits: int
) -> None:
    assert of_edit("success_rate", edit(answer), rules) == Measure(hits, hits, 1)


def test_articles_count_in_decao2021_only() -> None:
    assert of_edit("success_rate", edit("the Nice"), STRICT).hits == 1
    assert of_edit("success_rate", edit("the Nice"), DECAO2021).hits == 0


def test_spaces_count_in_strict_only() -> None:
    assert of_edit("success_rate", edit("New York", target="newyork"), STRICT).hits == 0
    assert of_edit("success_rate", edit("New York", target="newyork"), DECAO2021).hits == 1


def test_labels_are_equal_when_they_are_the_same_label() -> None:
    rules = protocol("strict", labels=True)
    assert of_edit("success_rate", edit("A", target="A"), rules).hits == 1
    assert of_edit("success_rate", edit("a", target="A"), rules).hits == 0


@BOTH
def test_a_failed_edit_is_wrong_even_where_it_left_an_answer(rules: Protocol) -> None:
    assert of_edit("success_rate", edit(None), rules) == Measure(0, 0, 1)
    assert of_edit("success_rate", edit("Nice", failure="time limit"), rules) == Measure(0, 0, 1)


def test_teacher_forced_success_is_what_the_model_prefers_token_by_token() -> None:
    assert of_edit("success_rate_teacher_forced", edit("Paris", forced=True), STRICT) == Measure(1, 1, 1)
    assert of_edit("success_rate_teacher_forced", edit("Nice", forced=False), STRICT) == Measure(0, 0, 1)


def test_teacher_forced_success_is_nan_without_forcing_and_wrong_after_a_failure() -> None:
    assert math.isnan(of_edit("success_rate_teacher_forced", edit(forced=None), STRICT).value)
    assert of_edit("success_rate_teacher_forced", edit(None, forced=None), STRICT) == Measure(0, 0, 1)


def test_a_no_op_asks_for_what_is_said_already() -> None:
    assert metrics.is_no_op(edit(target="paris."), STRICT)
    assert not metrics.is_no_op(edit(target="Nice"), STRICT)


# --- equivalence


def test_stubborn_paraphrases_of_an_edit_that_did_not_take_are_wrong_or_right() -> None:
    stubborn = edit(
        "Paris", paraphrases={"France's capital?": "Paris", "What is France ruled from?": "Paris"}
    )
    assert of_edit("equivalence_target", stubborn, STRICT) == Measure(0, 0, 2)
    assert of_edit("equivalence_own", stubborn, DECAO2021) == Measure(1, 2, 2)


def test_an_edit_that_takes_on_paraphrases_and_not_on_x_is_right_or_wrong() -> None:
    odd = edit("Paris", paraphrases={"France's capital?": "Nice"})
    assert of_edit("equivalence_target", odd, STRICT).value == 1
    assert of_edit("equivalence_own", odd, STRICT).value == 0


def test_own_answers_are_compared_as_they_stand_in_decao2021() -> None:
    case = edit("Nice", paraphrases={"France's capital?": "nice"})
    assert of_edit("equivalence_own", case, STRICT).value == 1
    assert of_edit("equivalence_own", case, DECAO2021).value == 0


def test_a_paraphrase_that_is_x_again_is_left_out_in_strict_and_kept_in_decao2021() -> None:
    case = edit(paraphrases={"the capital of France": "Nice", "France's capital?": "Paris"})
    assert of_edit("equivalence_target", case, STRICT) == Measure(0, 0, 1)
    assert of_edit("equivalence_own", case, DECAO2021) == Measure(0.5, 1, 2)


@BOTH
def test_wordings_are_told_apart_where_asked_for(rules: Protocol) -> None:
    case = replace(
        edit(),
        paraphrases=(
            ParaphraseAnswer("France's capital?", "Nice", held_out=True),
            ParaphraseAnswer("What is France ruled from?", "Nice"),
            ParaphraseAnswer("France is ruled from where?", "Paris"),
        ),
    )
    assert of_edit("equivalence_target", case, rules) == Measure(2 / 3, 2, 3)
    assert of_edit("equivalence_target", case, rules, part=HELD_OUT_WORDINGS) == Measure(1, 1, 1)
    assert of_edit("equivalence_target", case, rules, part=SEEN_WORDINGS) == Measure(0.5, 1, 2)
    failed = replace(case, failure="time limit")
    assert of_edit("equivalence_target", failed, rules, part=HELD_OUT_WORDINGS) == Measure(0, 0, 1)
    seen_only = replace(case, paraphrases=case.paraphrases[1:])
    assert math.isnan(of_edit("equivalence_target", seen_only, rules, part=HELD_OUT_WORDINGS).value)


def test_a_held_out_paraphrase_that_is_x_again_is_left_out_in_strict() -> None:
    again = replace(edit(), paraphrases=(ParaphraseAnswer("the capital of France", "Nice", held_out=True),))
    assert math.isnan(of_edit("equivalence_target", again, STRICT, part=HELD_OUT_WORDINGS).value)
    assert of_edit("equivalence_target", again, DECAO2021, part=HELD_OUT_WORDINGS) == Measure(1, 1, 1)


@BOTH
def test_without_paraphrases_equivalence_is_nan(rules: Protocol) -> None:
    assert math.isnan(of_edit("equivalence_target", edit(), rules).value)
    assert math.isnan(of_edit("equivalence_own", edit(), rules).value)


@BOTH
def test_a_failed_edit_does_not_agree_with_itself(rules: Protocol) -> None:
    failed = edit(None, paraphrases={"France's capital?": None})
    assert of_edit("equivalence_own", failed, rules) == Measure(0, 0, 1)
    assert of_edit("equivalence_target", failed, rules) == Measure(0, 0, 1)


# --- retain


def test_retain_is_against_the_base_answer_and_not_the_gold_one() -> None:
    # peru: base Quito, gold Lima. Staying wrong is retaining; becoming right is not.
    stays, improves = edit(sample={"peru": "Quito"}), edit(sample={"peru": "Lima"})
    assert of_edit("retain_accuracy", stays, STRICT, BASE).value == 1
    assert of_edit("retain_accuracy_gold", stays, STRICT, BASE).value == 0
    assert of_edit("retain_accuracy", improves, STRICT, BASE).value == 0
    assert of_edit("retain_accuracy_gold", improves, STRICT, BASE).value == 1


def test_other_questions_about_the_fact_are_left_out_in_strict_and_kept_in_decao2021() -> None:
    case = edit(sample={"france": "Nice", "france-2": "Nice", "norway": "Oslo"})
    assert of_edit("retain_accuracy", case, STRICT, BASE) == Measure(1, None, 1)
    assert of_edit("retain_accuracy", case, DECAO2021, BASE) == Measure(
        0.5, None, 2
    )  # only `france` itself is gone


def test_x_and_its_paraphrases_are_left_out_in_strict_under_whatever_fact() -> None:
    base = BaseAnswers(
        [
            base_answer("copy", "Paris", fact="other", prompt="capital of france"),
            base_answer("asked", "Paris", fact="another", prompt="France's capital?"),
            base_answer("norway", "Oslo"),
        ]
    )
    case = edit(
        paraphrases={"Frances capital": "Nice"}, sample={"copy": "Nice", "asked": "Nice", "norway": "Oslo"}
    )
    assert of_edit("retain_accuracy", case, STRICT, base) == Measure(1, None, 1)
    assert of_edit("retain_accuracy", case, DECAO2021, base) == Measure(1 / 3, None, 3)


def test_retained_answers_are_compared_as_they_stand_in_decao2021() -> None:
    case = edit(sample={"norway": "oslo"})
    assert of_edit("retain_accuracy", case, STRICT, BASE).value == 1
    assert of_edit("retain_accuracy", case, DECAO2021, BASE).value == 0


def test_retain_weighs_strata_by_what_they_hold_less_what_is_left_out() -> None:
    # Stratum 0 holds 3, one of them x: N = 2. Stratum 1 holds 4. One drawn of each besides x.
    base = BaseAnswers(
        [base_answer("france", "Paris"), *(base_answer(f"near{i}", "n") for i in range(2))]
        + [base_answer(f"far{i}", "f", stratum=1) for i in range(4)]
    )
    case = edit(sample={"france": "Nice", "near0": "changed", "far0": "f"})
    assert of_edit("retain_accuracy", case, STRICT, base) == Measure(4 / 6, None, 2)  # (2 · 0 + 4 · 1) / 6


@BOTH
def test_a_failed_edit_retains_nothing(rules: Protocol) -> None:
    assert of_edit(
        "retain_accuracy", edit(None, sample={"peru": None, "norway": None}), rules, BASE
    ) == Measure(0, None, 2)
    assert (
        of_edit("retain_accuracy", edit("Nice", failure="NaN", sample={"norway": "Oslo"}), rules, BASE).value
        == 0
    )


def test_a_failed_edit_without_a_sample_is_wrong_on_the_whole_test_set() -> None:
    assert of_edit("retain_accuracy", edit(None), STRICT, BASE) == Measure(0, None, 3)
    assert BASE.accuracy(STRICT) == Measure(0.8, 4, 5)
    assert of_edit("accuracy_loss", edit(None), STRICT, BASE) == Measure(0.8, None, 5)


def test_retain_of_nothing_is_nan() -> None:
    assert math.isnan(of_edit("retain_accuracy", edit(), STRICT, BASE).value)
    assert math.isnan(of_edit("retain_accuracy", edit(sample={"france-2": "Paris"}), STRICT, BASE).value)


def test_an_unknown_question_is_refused() -> None:
    with pytest.raises(ValueError, match="edit france: 'atlantis' is not in the test set"):
        of_edit("retain_accuracy", edit(sample={"atlantis": "?"}), STRICT, BASE)


def test_two_questions_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="two test questions have the same id"):
        BaseAnswers([base_answer("peru", "Quito"), base_answer("peru", "Lima")])


# --- accuracy


@BOTH
def test_any_gold_answer_will_do(rules: Protocol) -> None:
    case = edit(sample={"norway": "kristiania", "peru": "Quito", "latvia": "Riga", "france-2": "Paris"})
    assert of_edit("accuracy_loss", case, rules, BASE) == Measure(0, None, 4)
    assert of_edit("retain_accuracy_gold", case, STRICT, BASE) == Measure(2 / 3, None, 3)


@BOTH
def test_accuracy_is_over_the_whole_sample_x_and_its_fact_with_it(rules: Protocol) -> None:
    # Two lost, one kept, one gained.
    case = edit(sample={"france": "Nice", "france-2": "Nice", "norway": "Oslo", "peru": "Lima"})
    assert of_edit("accuracy_loss", case, rules, BASE) == Measure(0.25, None, 4)


def test_elsewhere_neither_x_nor_its_fact_is_charged() -> None:
    case = edit(sample={"france": "Nice", "france-2": "Nice", "norway": "Oslo", "peru": "Quito"})
    assert of_edit("accuracy_loss_elsewhere", case, STRICT, BASE) == Measure(0, None, 2)
    assert of_edit("accuracy_elsewhere", case, STRICT, BASE) == Measure(2 / 3, 2, 3)  # all but peru
    assert of_edit("accuracy_loss_elsewhere", case, DECAO2021, BASE) == Measure(1 / 3, None, 3)
    assert of_edit("accuracy_elsewhere", case, DECAO2021, BASE) == Measure(3 / 4, 3, 4)


@BOTH
def test_accuracy_lost_is_weighed_by_stratum(rules: Protocol) -> None:
    # Stratum 0 holds 1, stratum 1 holds 3 of which one is drawn: (1 · 1 + 3 · −1) / 4.
    base = BaseAnswers(
        [base_answer("near", "right")]
        + [base_answer(f"far{i}", "wrong", "right", stratum=1) for i in range(3)]
    )
    case = edit(sample={"near": "wrong", "far1": "right"})
    assert of_edit("accuracy_loss", case, rules, base) == Measure(-0.5, None, 2)


def test_a_missing_answer_is_wrong_without_failing_the_edit() -> None:
    case = replace(edit(), sample={"peru": None, "norway": "Oslo"})
    assert of_edit("retain_accuracy", case, STRICT, BASE) == Measure(0.5, None, 2)
    assert of_edit("accuracy_loss", case, STRICT, BASE) == Measure(0, None, 2)  # peru was wrong before
