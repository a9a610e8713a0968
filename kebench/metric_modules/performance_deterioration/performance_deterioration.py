"""Performance deterioration as an `evaluate` metric."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import datasets
import evaluate

from kebench.scoring.equality import matches
from kebench.scoring.protocols import protocol as protocol_named
from kebench.scoring.scorer import difference
from kebench.scoring.statistics import NOTHING, Measure, relative_loss_estimate

DESCRIPTION = """One minus the edited models' accuracy over the base model's, on the test set's gold answers.
A ratio of means over edits; negative when accuracy rose, NaN when the base model has none."""

INPUTS = """
Args:
    predictions: the edited model's answers to test questions, one list an edit; a failed edit answers None.
    base_predictions: the base model's answers to the same questions, in the same order.
    references: every accepted gold answer of each of those questions.
    protocol: 'strict' or 'decao2021': when two answers are equal. Every question weighs the same;
        `kebench.scoring.scorer` weighs strata.
    labels: whether answers are a classifier's labels.
    seed, resamples: of the 95 % interval, a percentile bootstrap over edits.

Returns:
    performance_deterioration, low, high, standard_error, total (answers compared), edits.
"""


class PerformanceDeterioration(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """One minus the ratio of two means over edits."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": texts, "base_predictions": texts, "references": datasets.List(texts)}
            ),
        )

    def _compute(
        self,
        predictions: list[list[str | None]],
        base_predictions: list[list[str]],
        references: list[list[list[str]]],
        protocol: str = "strict",
        labels: bool = False,
        seed: int = 0,
        resamples: int = 2000,
    ) -> dict[str, Any]:
        rules = protocol_named(protocol, labels=labels)

        def accuracy(answers: list[str | None], golds: list[list[str]]) -> Measure:
            right = [
                matches(answer, gold, rules.gold_equality)
                for answer, gold in zip(answers, golds, strict=True)
            ]
            return Measure(sum(right) / len(right), sum(right), len(right)) if right else NOTHING

        before = [accuracy(list(row), golds) for row, golds in zip(base_predictions, references, strict=True)]
        after = [accuracy(row, golds) for row, golds in zip(predictions, references, strict=True)]
        estimate = asdict(
            relative_loss_estimate(
                [difference(one, other) for one, other in zip(before, after, strict=True)],
                before,
                seed=seed,
                resamples=resamples,
            )
        )
        del estimate["hits"]  # the value is not hits / total
        return {"performance_deterioration": estimate.pop("value"), **estimate}
