"""Success rate as an `evaluate` metric."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import datasets
import evaluate

from kebench.scoring import metrics
from kebench.scoring.answers import EditAnswers
from kebench.scoring.protocols import protocol as protocol_named
from kebench.scoring.statistics import mean_estimate

DESCRIPTION = """How often the edited model, decoding freely, gives the wanted answer to the edited prompt.
Compared with the target; no-ops, whose target is what the base model says already, are left out."""

INPUTS = """
Args:
    predictions: the edited model's answer to x, one an edit; None where the edit failed (it counts as wrong).
    references: the wanted answer of each edit.
    base_predictions: the base model's answer to x.
    protocol: 'strict' or 'decao2021'.
    labels: whether answers are a classifier's labels.
    seed, resamples: of the 95 % interval, a percentile bootstrap over edits.

Returns:
    success_rate (NaN when nothing was measured), low, high, standard_error, hits, total, edits.
"""


class SuccessRate(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """The mean over edits of the row `success_rate` of `kebench.scoring.table`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {name: datasets.Value("string") for name in ("predictions", "references", "base_predictions")}
            ),
        )

    def _compute(
        self,
        predictions: list[str | None],
        references: list[str],
        base_predictions: list[str],
        protocol: str = "strict",
        labels: bool = False,
        seed: int = 0,
        resamples: int = 2000,
    ) -> dict[str, Any]:
        rules = protocol_named(protocol, labels=labels)
        edits = [
            EditAnswers(id="", fact="", prompt="", prediction=before, target=target, answer=after)
            for after, target, before in zip(predictions, references, base_predictions, strict=True)
        ]
        counting = [edit for edit in edits if metrics.counts_for_success(edit, rules)]
        measures = [metrics.of_edit("success_rate", edit, rules) for edit in counting]
        estimate = asdict(mean_estimate(measures, counted=True, seed=seed, resamples=resamples))
        return {"success_rate": estimate.pop("value"), **estimate}
