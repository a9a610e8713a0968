"""Equivalence accuracy as an `evaluate` metric."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import datasets
import evaluate

from kebench.scoring import metrics
from kebench.scoring.answers import EditAnswers, ParaphraseAnswer
from kebench.scoring.protocols import protocol as protocol_named
from kebench.scoring.statistics import mean_estimate

DESCRIPTION = """How often the edit holds on paraphrases of the prompt, averaged per edit, then over edits.
Compared with the target ('strict') or with the edited model's own answer to x ('decao2021')."""

INPUTS = """
Args:
    predictions: the edited model's answers to the paraphrases, one list an edit.
    paraphrases: the paraphrases themselves, in the same order; 'strict' leaves out those equal to the prompt.
    prompts: x, one an edit.
    own_predictions: the edited model's answer to x; None where the edit failed (it counts as wrong).
    references: the wanted answer of each edit.
    protocol: 'strict' or 'decao2021'.
    labels: whether answers are a classifier's labels.
    seed, resamples: of the 95 % interval, a percentile bootstrap over edits.

Returns:
    equivalence_accuracy (NaN when nothing was measured), low, high, standard_error,
    total (answers compared), edits.
"""


class EquivalenceAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """The mean over edits of the row `equivalence_target` or `equivalence_own` of `kebench.scoring.table`."""

    def _info(self) -> evaluate.MetricInfo:
        text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": texts,
                    "paraphrases": texts,
                    "prompts": text,
                    "own_predictions": text,
                    "references": text,
                }
            ),
        )

    def _compute(
        self,
        predictions: list[list[str | None]],
        paraphrases: list[list[str]],
        prompts: list[str],
        own_predictions: list[str | None],
        references: list[str],
        protocol: str = "strict",
        labels: bool = False,
        seed: int = 0,
        resamples: int = 2000,
    ) -> dict[str, Any]:
        rules = protocol_named(protocol, labels=labels)
        name = "equivalence_target" if rules.headline_equivalence == "target" else "equivalence_own"
        columns = zip(predictions, paraphrases, prompts, own_predictions, references, strict=True)
        measures = [
            metrics.of_edit(
                name,
                EditAnswers(
                    id="",
                    fact="",
                    prompt=prompt,
                    prediction="",
                    target=target,
                    answer=own,
                    paraphrases=tuple(
                        ParaphraseAnswer(text, answer) for text, answer in zip(texts, answers, strict=True)
                    ),
                ),
                rules,
            )
            for answers, texts, prompt, own, target in columns
        ]
        estimate = asdict(mean_estimate(measures, seed=seed, resamples=resamples))
        del estimate["hits"]  # the value is not hits / total
        return {"equivalence_accuracy": estimate.pop("value"), **estimate}
