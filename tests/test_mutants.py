"""Wrong scorers, each wrong in one function: the hand-worked scores must tell every one from the right one.

Each mutant is a reading found in the literature, or a slip that is easy to make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from scenes import BASE, DECAO2021_SCORES, EDITS, STRICT_SCORES

from kebench.scoring import equality, metrics, questions, scorer
from kebench.scoring.answers import HELD_OUT_RELATION, EditAnswers
from kebench.scoring.normalise import normalise
from kebench.scoring.protocols import DECAO2021, STRICT
from kebench.scoring.questions import BaseAnswers
from kebench.scoring.scorer import EditScores, Scores, Tally, score
from kebench.scoring.statistics import Estimate, Measure, mean_estimate
from kebench.scoring.table import (
    ALL,
    HELD_OUT_RELATIONS,
    HELD_OUT_WORDINGS,
    SEEN_WORDINGS,
    TABLE,
    Row,
    Score,
)

RIGHT: dict[str, Callable[..., Any]] = {
    "append": Tally.append,
    "left_out": BaseAnswers.left_out,
    "populations": BaseAnswers.populations,
}


def wrong_scores(table: Sequence[Row] = TABLE) -> list[str]:
    """What differs from the scores worked out by hand, under either protocol."""
    wrong = []
    for rules, expected in ((STRICT, STRICT_SCORES), (DECAO2021, DECAO2021_SCORES)):
        scores = score(EDITS, BASE, rules, resamples=20, table=table)
        for name, (value, hits, total, edits) in expected.items():
            found: Estimate = getattr(scores, name)
            counts = (found.hits, found.total, found.edits)
            if not math.isclose(found.value, value) or counts != (hits, total, edits):
                wrong.append(f"{rules.name} {name}")
        if scores.failures != {"out of memory": 1}:
            wrong.append(f"{rules.name} failures")
        if scores.held_out_edits != 2:
            wrong.append(f"{rules.name} held_out_edits")
    return wrong


def test_the_real_scorer_gives_the_scores_worked_out_by_hand() -> None:
    assert wrong_scores() == []


# A row of the table that says something else -----------------------------------------------------------


def changed(name: str, **changes: Any) -> tuple[Row, ...]:
    """The table of scores with one row changed."""
    rows = [row.name for row in TABLE]
    assert rows.count(name) == 1
    return tuple(
        replace(row, **changes) if row.name == name and isinstance(row, Score) else row for row in TABLE
    )


SWAPPED = (
    ALL,
    replace(SEEN_WORDINGS, questions=HELD_OUT_WORDINGS.questions, questions_without=frozenset()),
    replace(HELD_OUT_WORDINGS, questions=frozenset(), questions_without=HELD_OUT_WORDINGS.questions),
    HELD_OUT_RELATIONS,
)
NOT_APART = (
    ALL,
    replace(SEEN_WORDINGS, questions_without=frozenset()),
    HELD_OUT_WORDINGS,
    HELD_OUT_RELATIONS,
)
ALL_RELATIONS = (
    ALL,
    replace(SEEN_WORDINGS, edits_without=frozenset()),
    replace(HELD_OUT_WORDINGS, edits_without=frozenset()),
    HELD_OUT_RELATIONS,
)
ROWS: dict[str, tuple[tuple[Row, ...], str]] = {
    # name: the wrong table, one score that must give it away
    "equivalence with the own answer": (
        changed("equivalence_target", compared_with="own answer"),
        "strict equivalence_accuracy",
    ),
    "held-out wordings taken for seen ones": (
        changed("equivalence_target", slices=SWAPPED),
        "strict equivalence_held_out_wordings",
    ),
    "wordings not told apart": (
        changed("equivalence_target", slices=NOT_APART),
        "strict equivalence_seen_wordings",
    ),
    "wordings of held-out relations counted": (
        changed("equivalence_target", slices=ALL_RELATIONS),
        "strict equivalence_held_out_wordings",
    ),
    "retain against gold": (
        changed("retain_accuracy", compared_with="gold", equality="gold"),
        "strict retain_accuracy",
    ),
    "x charged elsewhere": (
        changed("accuracy_loss_elsewhere", kinds=("retain", "test")),
        "strict performance_deterioration_elsewhere",
    ),
    "weights ignored": (changed("retain_accuracy", weights="equal"), "strict retain_accuracy"),
    "no-ops counted": (changed("success_rate", edits="all"), "strict success_rate"),
    "teacher-forced success for free": (
        changed("success_rate", decoding="teacher forcing"),
        "strict success_rate",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_row_is_caught(name: str) -> None:
    table, gives_away = ROWS[name]
    assert gives_away in wrong_scores(table)


# A function that does something else -------------------------------------------------------------------


def without_failures(self: Tally, row: EditScores) -> None:
    if row.failure is None:
        RIGHT["append"](self, row)


def without_held_out(self: Tally, row: EditScores) -> None:
    if not row.held_out:
        RIGHT["append"](self, row)


def held_out_by_wording(self: Tally, row: EditScores) -> None:
    marked = frozenset({HELD_OUT_RELATION})
    has_any = row.equivalence_held_out_wordings.total > 0
    RIGHT["append"](self, replace(row, tags=row.tags | marked if has_any else row.tags - marked))


def pooled(measures: Sequence[Measure], facts: Sequence[str], **settings: Any) -> Estimate:
    right = mean_estimate(measures, facts, **settings)
    hits = sum(measure.value * measure.total for measure in measures if measure.total)
    return replace(right, value=hits / right.total if right.total else math.nan)


def unweighted(values: Sequence[float], strata: Sequence[int], populations: object) -> float:
    return sum(values) / len(values) if values else math.nan


def loss(how: Callable[[Sequence[float], Sequence[float]], float]) -> Callable[..., Estimate]:
    def estimate(lost: Sequence[Measure], before: Sequence[Measure], *_: object, **__: int) -> Estimate:
        value = how([measure.value for measure in lost], [measure.value for measure in before])
        return Estimate(value, value, value, None, sum(measure.total for measure in lost), len(before))

    return estimate


def difference_of_means(lost: Sequence[float], before: Sequence[float]) -> float:
    return sum(lost) / len(before)


def mean_of_ratios(lost: Sequence[float], before: Sequence[float]) -> float:
    return sum(a / b for a, b in zip(lost, before, strict=True)) / len(before)


def empty_is_zero(right: Sequence[bool]) -> Measure:
    return Measure(sum(right) / max(len(right), 1), sum(right), len(right))


def first_gold_only(answer: str | None, accepted: Sequence[str | None], rule: Any) -> bool:
    return equality.same(answer, next(iter(accepted)), rule)


def none_equals_none(answer: str | None, other: str | None, rule: Any) -> bool:
    if answer is None or other is None:
        return answer is other
    return equality.comparable(answer, rule) == equality.comparable(other, rule)


def no_answer_is_no_question(self: BaseAnswers, edit: EditAnswers) -> dict[str, str]:
    return {id_: answer for id_, answer in edit.sample.items() if answer is not None}


MUTANTS: dict[str, tuple[object, str, object, str]] = {
    # name: where, which function, what it becomes, one score that must give it away
    "equivalence with the target in decao2021": (
        Scores,
        "equivalence_accuracy",
        property(lambda scores: scores.equivalence_target),
        "decao2021 equivalence_accuracy",
    ),
    "x again counts as a paraphrase": (
        questions,
        "paraphrases",
        lambda edit, rules: edit.paraphrases,
        "strict equivalence_target",
    ),
    "held-out edits dropped": (Tally, "append", without_held_out, "strict success_rate"),
    "edits held out with a wording": (
        Tally,
        "append",
        held_out_by_wording,
        "strict held_out_retain_accuracy",
    ),
    "x stays in O^x": (BaseAnswers, "left_out", lambda *_: frozenset(), "decao2021 retain_accuracy"),
    "the fact stays in O^x": (
        BaseAnswers,
        "left_out",
        lambda self, edit, rules: {edit.id} & self.rows.keys(),
        "strict retain_accuracy",
    ),
    "the fact leaves O^x in decao2021": (
        BaseAnswers,
        "left_out",
        lambda self, edit, rules: RIGHT["left_out"](self, edit, STRICT),
        "decao2021 retain_accuracy",
    ),
    "strata weighed with what is left out": (
        BaseAnswers,
        "populations",
        lambda self, left_out: RIGHT["populations"](self),
        "strict retain_accuracy",
    ),
    "strata weighed alike": (metrics, "stratified_mean", unweighted, "strict retain_accuracy"),
    "failures dropped": (Tally, "append", without_failures, "strict success_rate"),
    "failures not asked": (BaseAnswers, "asked", no_answer_is_no_question, "strict retain_accuracy"),
    "failures taken for answers": (questions, "failed", lambda edit: False, "strict failures"),
    "pooled over edits": (scorer, "mean_estimate", pooled, "strict equivalence_target"),
    "no edit is a no-op": (questions, "is_no_op", lambda edit, rules: False, "strict success_rate"),
    "nothing measured is zero": (metrics, "share", empty_is_zero, "strict equivalence_target"),
    "as it stands": (equality, "comparable", lambda answer, rule: answer, "strict success_rate"),
    "normalised everywhere": (
        equality,
        "comparable",
        lambda answer, rule: normalise(answer),
        "decao2021 retain_accuracy",
    ),
    "None equals None": (equality, "same", none_equals_none, "strict equivalence_own"),
    "the first gold answer only": (equality, "matches", first_gold_only, "strict accuracy_before"),
    "deterioration as a difference": (
        scorer,
        "relative_loss_estimate",
        loss(difference_of_means),
        "strict performance_deterioration",
    ),
    "deterioration as a mean of ratios": (
        scorer,
        "relative_loss_estimate",
        loss(mean_of_ratios),
        "strict performance_deterioration_elsewhere",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_scorer_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, function, wrong, gives_away = MUTANTS[name]
    monkeypatch.setattr(place, function, wrong)
    assert gives_away in wrong_scores()
