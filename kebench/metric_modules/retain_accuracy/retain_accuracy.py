"""Retain accuracy as an `evaluate` metric."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import datasets
import evaluate

from kebench.scoring.equality import same
from kebench.scoring.protocols import protocol as protocol_named
from kebench.scoring.statistics import NOTHING, Measure, mean_estimate

DESCRIPTION = """How often the edited model keeps the base model's answer, averaged per edit, then over edits.
Compared with what the base model said, not with the gold answer."""

INPUTS = """
Args:
    predictions: the edited model's answers over O^x, one list an edit; a failed edit answers None (wrong).
    references: the base model's answers to the same questions, in the same order.
    protocol: 'strict' or 'decao2021': when two answers are equal. What is not in O^x is yours to leave out,
        and every question weighs the same; `kebench.scoring.scorer` does both for you, weights of strata
        included.
    labels: whether answers are a classifier's labels.
    seed, resamples: of the 95 % interval, a percentile bootstrap over edits.

Returns:
    retain_accuracy (NaN when nothing was measured), low, high, standard_error,
    total (answers compared), edits.
"""


class RetainAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """The mean over edits of the share of answers kept."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": texts, "references": texts}),
        )

    def _compute(
        self,
        predictions: list[list[str | None]],
        references: list[list[str]],
        protocol: str = "strict",
        labels: bool = False,
        seed: int = 0,
        resamples: int = 2000,
    ) -> dict[str, Any]:
        equality = protocol_named(protocol, labels=labels).retain_equality
        measures = []
        for after, before in zip(predictions, references, strict=True):
            kept = [same(new, old, equality) for new, old in zip(after, before, strict=True)]
            measures.append(Measure(sum(kept) / len(kept), sum(kept), len(kept)) if kept else NOTHING)
        estimate = asdict(mean_estimate(measures, seed=seed, resamples=resamples))
        del estimate["hits"]  # the value is not hits / total
        return {"retain_accuracy": estimate.pop("value"), **estimate}
