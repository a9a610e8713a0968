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

from kebench.scoring import metrics, scorer
from kebench.scoring.answers import EditAnswers
from kebench.scoring.metrics import BaseAnswers
from kebench.scoring.normalise import normalise
from kebench.scoring.protocols import DECAO2021, STRICT
from kebench.scoring.scorer import Scores, score
from kebench.scoring.statistics import Estimate, Measure, mean_estimate

RIGHT: dict[str, Callable[..., Any]] = {
    "per_edit": scorer.per_edit,
    "equivalence_target": metrics.equivalence_target,
    "left_out": BaseAnswers.left_out,
    "populations": BaseAnswers.populations,
}


def wrong_scores() -> list[str]:
    """What differs from the scores worked out by hand, under either protocol."""
    wrong = []
    for rules, expected in ((STRICT, STRICT_SCORES), (DECAO2021, DECAO2021_SCORES)):
        scores = score(EDITS, BASE, rules, resamples=20)
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


def without_failures(*arguments: Any) -> list[scorer.EditScores]:
    return [row for row in RIGHT["per_edit"](*arguments) if row.failure is None]


def without_held_out(*arguments: Any) -> list[scorer.EditScores]:
    return [row for row in RIGHT["per_edit"](*arguments) if not row.held_out]


def held_out_by_wording(*arguments: Any) -> list[scorer.EditScores]:
    rows = RIGHT["per_edit"](*arguments)
    return [replace(row, held_out=row.equivalence_held_out_wordings.total > 0) for row in rows]


def wordings_of_all_relations(edits: Sequence[EditAnswers], base: Any, rules: Any) -> list[scorer.EditScores]:
    held_out = {edit.id: edit.held_out for edit in edits}
    rows = RIGHT["per_edit"]([replace(edit, held_out=False) for edit in edits], base, rules)
    return [replace(row, held_out=held_out[row.id]) for row in rows]


def other_wordings(edit: EditAnswers, rules: Any, held_out: bool | None = None) -> Measure:
    right: Measure = RIGHT["equivalence_target"](
        edit, rules, held_out=None if held_out is None else not held_out
    )
    return right


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


def first_gold_only(row: Any, answer: str | None, rules: Any) -> bool:
    return metrics.same(answer, row.gold[0], rules.gold_equality)


def none_equals_none(answer: str | None, other: str | None, equality: Any) -> bool:
    if answer is None or other is None:
        return answer is other
    return metrics.comparable(answer, equality) == metrics.comparable(other, equality)


def no_answer_is_no_question(self: BaseAnswers, edit: EditAnswers) -> list[Any]:
    return [(self.rows[id_], answer) for id_, answer in edit.sample.items() if answer is not None]


MUTANTS: dict[str, tuple[object, str, object, str]] = {
    # name: where, which function, what it becomes, one score that must give it away
    "equivalence with the own answer": (
        metrics,
        "equivalence_target",
        lambda edit, rules, held_out=None: metrics.equivalence_own(edit, rules),
        "strict equivalence_accuracy",
    ),
    "equivalence with the target in decao2021": (
        Scores,
        "equivalence_accuracy",
        property(lambda scores: scores.equivalence_target),
        "decao2021 equivalence_accuracy",
    ),
    "x again counts as a paraphrase": (
        metrics,
        "paraphrases",
        lambda edit, rules: edit.paraphrases,
        "strict equivalence_target",
    ),
    "held-out wordings taken for seen ones": (
        metrics,
        "equivalence_target",
        other_wordings,
        "strict equivalence_held_out_wordings",
    ),
    "wordings not told apart": (
        metrics,
        "equivalence_target",
        lambda edit, rules, held_out=None: RIGHT["equivalence_target"](edit, rules),
        "strict equivalence_seen_wordings",
    ),
    "wordings of held-out relations counted": (
        scorer,
        "per_edit",
        wordings_of_all_relations,
        "strict equivalence_held_out_wordings",
    ),
    "held-out edits dropped": (scorer, "per_edit", without_held_out, "strict success_rate"),
    "edits held out with a wording": (
        scorer,
        "per_edit",
        held_out_by_wording,
        "strict held_out_retain_accuracy",
    ),
    "retain against gold": (metrics, "retain", metrics.retain_gold, "strict retain_accuracy"),
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
    "x charged elsewhere": (
        metrics,
        "accuracy_loss_elsewhere",
        metrics.accuracy_loss,
        "strict performance_deterioration_elsewhere",
    ),
    "weights ignored": (metrics, "stratified_mean", unweighted, "strict retain_accuracy"),
    "failures dropped": (scorer, "per_edit", without_failures, "strict success_rate"),
    "failures not asked": (BaseAnswers, "asked", no_answer_is_no_question, "strict retain_accuracy"),
    "failures taken for answers": (metrics, "failed", lambda edit: False, "strict failures"),
    "pooled over edits": (scorer, "mean_estimate", pooled, "strict equivalence_target"),
    "no-ops counted": (metrics, "is_no_op", lambda edit, rules: False, "strict success_rate"),
    "teacher-forced success for free": (
        metrics,
        "success",
        lambda edit, rules: metrics.success_teacher_forced(edit),
        "strict success_rate",
    ),
    "nothing measured is zero": (metrics, "_share", empty_is_zero, "strict equivalence_target"),
    "as it stands": (metrics, "comparable", lambda answer, equality: answer, "strict success_rate"),
    "normalised everywhere": (
        metrics,
        "comparable",
        lambda answer, equality: normalise(answer),
        "decao2021 retain_accuracy",
    ),
    "the first gold answer only": (metrics, "is_gold", first_gold_only, "strict accuracy_before"),
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


def test_none_equal_to_none_alone_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second lock on the same door: every metric asks `failed` before it compares."""
    monkeypatch.setattr(metrics, "same", none_equals_none)
    assert wrong_scores() == []
    monkeypatch.setattr(metrics, "failed", lambda edit: False)
    assert "strict equivalence_own" in wrong_scores()
