"""Base and edited answers in, scores out. Never a model, never an editor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from kebench.scoring import metrics
from kebench.scoring.answers import BaseAnswer, EditAnswers
from kebench.scoring.metrics import BaseAnswers
from kebench.scoring.protocols import Protocol
from kebench.scoring.statistics import (
    NOTHING,
    RESAMPLES,
    Estimate,
    Measure,
    mean_estimate,
    relative_loss_estimate,
)
from kebench.scoring.stopping import Stopping

_WEIGHTED = ("retain", "retain_gold", "accuracy_loss", "accuracy_loss_elsewhere")
INTERVAL = "95 %, percentile bootstrap over facts, each with all its edits"
STOPPED_INTERVAL = (
    f"{INTERVAL}, but of retain accuracy a confidence sequence by betting, which holds at whatever number of "
    "edits the run stopped"
)


@dataclass(frozen=True)
class EditScores:
    """What one edit scored: a row of the table that paired comparisons are made of.

    Attributes:
        id: the edited record's.
        fact: its fact key.
        failure: why the edit failed, or None.
        no_op: it asks for what the base model says already.
        held_out: its relation is kept from every editor's training.
        success: the target is given on x.
        success_teacher_forced: the same when its tokens are fed; NaN where the editor gives answers only.
        equivalence_target: the target is given on paraphrases; NaN without any.
        equivalence_own: the edited model's own answer to x is given on paraphrases.
        equivalence_seen_wordings: `equivalence_target` over paraphrases worded as an editor's training may
            be; NaN where `held_out`, and for all edits where no wording is held out.
        equivalence_held_out_wordings: the same over those whose wording no editor is trained on.
        retain: base answers kept over O^x.
        retain_gold: gold answers given over O^x.
        accuracy_loss: accuracy of the base model less that of the edited one, estimated on the sample.
        accuracy_loss_elsewhere: the same over O^x.
        accuracy_elsewhere: of the base model over O^x, exact.
    """

    id: str
    fact: str
    failure: str | None
    no_op: bool
    held_out: bool
    success: Measure
    success_teacher_forced: Measure
    equivalence_target: Measure
    equivalence_own: Measure
    equivalence_seen_wordings: Measure
    equivalence_held_out_wordings: Measure
    retain: Measure
    retain_gold: Measure
    accuracy_loss: Measure
    accuracy_loss_elsewhere: Measure
    accuracy_elsewhere: Measure

    def row(self) -> dict[str, str | bool | float | int | None]:
        """The edit as one flat row: each measure `m` as `m`, `m_hits` and `m_total`.

        `m_hits` stands only where `m` is `m_hits / m_total`: not where questions are weighted.
        """
        row: dict[str, str | bool | float | int | None] = {}
        for field in fields(self):
            content = getattr(self, field.name)
            if isinstance(content, Measure):
                row[field.name] = content.value
                if field.name not in _WEIGHTED:
                    row[f"{field.name}_hits"] = content.hits
                row[f"{field.name}_total"] = content.total
            else:
                row[field.name] = content
        return row


@dataclass(frozen=True)
class Scores:
    """The scores of one editor on one task and model, under one protocol.

    `kebench.scoring.metrics`, where each score is computed, says what is compared with what; so does
    `protocol`.

    Attributes:
        protocol: the rules.
        edits: how many edits were tried.
        failures: why edits failed → how many did. They are wrong in every score below.
        no_ops: edits that ask for what the base model says already.
        no_op_share: their share.
        success_rate: free decoding, no-ops left out (but in `decao2021`): failed ones too, so that the
            denominator is the same for every editor.
        success_rate_teacher_forced: over the edits of `success_rate`; NaN where the editor only answers.
        inflation_gap: teacher-forced less free success, over the edits that have both; `hits` is a difference
            of counts and may be negative.
        equivalence_target: paraphrases against the target.
        equivalence_own: paraphrases against the edited model's own answer.
        edits_with_paraphrases: over how many edits both are.
        equivalence_seen_wordings: against the target, over wordings that editors may be trained on, of edits
            that are not held out; NaN where none of their wordings is.
        equivalence_held_out_wordings: the same over wordings that no editor is trained on. With
            `held_out_equivalence` the two share out the paraphrases of `equivalence_target`.
        held_out_edits: how many edits are of relations that no editor is trained on.
        held_out_success_rate: `success_rate` over those edits alone; they are part of every other score.
        held_out_equivalence: `equivalence_target` over them.
        held_out_retain_accuracy: `retain_accuracy` over them.
        retain_accuracy: against the base answer.
        retain_accuracy_gold: against the gold answers.
        accuracy_before: of the base model on the whole test set: exact, so that its interval has no width.
            (In scoring version 1, over the edits' samples.)
        accuracy_after: of the edited models: before, less what the samples show to be lost.
        performance_deterioration: 1 − after / before, on the whole test set: the change that the edit asks
            for is part of it.
        performance_deterioration_elsewhere: the same over O^x, where nothing should change; None in scoring
            version 1.
        seed: of the intervals.
        resamples: of the intervals.
        interval: how they were made.
    """

    protocol: Protocol
    edits: int
    failures: Mapping[str, int]
    no_ops: int
    no_op_share: Estimate
    success_rate: Estimate
    success_rate_teacher_forced: Estimate
    inflation_gap: Estimate
    equivalence_target: Estimate
    equivalence_own: Estimate
    edits_with_paraphrases: int
    equivalence_seen_wordings: Estimate
    equivalence_held_out_wordings: Estimate
    held_out_edits: int
    held_out_success_rate: Estimate
    held_out_equivalence: Estimate
    held_out_retain_accuracy: Estimate
    retain_accuracy: Estimate
    retain_accuracy_gold: Estimate
    accuracy_before: Estimate
    accuracy_after: Estimate
    performance_deterioration: Estimate
    performance_deterioration_elsewhere: Estimate | None
    seed: int
    resamples: int
    interval: str = INTERVAL

    @property
    def equivalence_accuracy(self) -> Estimate:
        """The equivalence the protocol calls the headline."""
        if self.protocol.headline_equivalence == "target":
            return self.equivalence_target
        return self.equivalence_own

    @property
    def n_failures(self) -> int:
        """How many edits failed, whatever the reason."""
        return sum(self.failures.values())

    def to_json(self) -> dict[str, Any]:
        """The fields in their order, NaN as None: the same edits give the same bytes (see `score`)."""
        contents = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: _to_json(content) for name, content in contents if content is not None}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Scores:
        """Reads what `to_json` wrote."""
        read: dict[str, Any] = {"performance_deterioration_elsewhere": None, **saved}
        for field in fields(cls):
            if "Estimate" in str(field.type) and read[field.name] is not None:
                read[field.name] = Estimate.from_json(read[field.name])
        read["protocol"] = Protocol.from_json(saved["protocol"])
        return cls(**read)


def score(
    edits: Sequence[EditAnswers],
    base: Sequence[BaseAnswer],
    protocol: Protocol,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    stopping: Stopping | None = None,
) -> Scores:
    """The scores of a set of edits.

    Args:
        edits: what each edited model was asked and said, failed ones among them; where edits were stopped,
            in the order in which they were made.
        base: the whole test set, of which each edit's `sample` is a part.
        protocol: what is compared with what.
        seed: of the bootstrap intervals.
        resamples: of the bootstrap intervals.
        stopping: when edits were stopped, unless after a fixed number: the interval of retain accuracy then
            allows for it. The others do not need to where what they score has no part in when edits stop.

    Returns:
        The same scores, to the byte, whatever the order of `edits`, if their number was fixed.

    Raises:
        ValueError: two edits or two test questions share an id, or an edit answers an unknown question.
    """
    rows = per_edit(edits, base, protocol)
    effective = [row for row in rows if protocol.left_out_of_success == "nothing" or not row.no_op]
    held_out = [row for row in rows if row.held_out]
    retained = {row.id: row.retain for row in rows}
    facts = [row.fact for row in rows]
    before = BaseAnswers(base).accuracy(protocol)

    def average(
        part: Sequence[EditScores],
        measure: Callable[[EditScores], Measure],
        *,
        counted: bool = False,
        least: float = 0.0,
        most: float = 1.0,
    ) -> Estimate:
        return mean_estimate(
            [measure(row) for row in part],
            [row.fact for row in part],
            counted=counted, least=least, most=most, seed=seed, resamples=resamples,
        )  # fmt: skip

    loss = average(rows, lambda row: row.accuracy_loss, least=before.value - 1, most=before.value)
    return Scores(
        protocol=protocol,
        edits=len(rows),
        failures=dict(sorted(Counter(row.failure for row in rows if row.failure is not None).items())),
        no_ops=sum(row.no_op for row in rows),
        no_op_share=average(rows, lambda row: Measure(float(row.no_op), int(row.no_op), 1), counted=True),
        success_rate=average(effective, lambda row: row.success, counted=True),
        success_rate_teacher_forced=average(effective, lambda row: row.success_teacher_forced, counted=True),
        inflation_gap=average(
            effective, lambda row: difference(row.success_teacher_forced, row.success), counted=True, least=-1
        ),
        equivalence_target=average(rows, lambda row: row.equivalence_target),
        equivalence_own=average(rows, lambda row: row.equivalence_own),
        edits_with_paraphrases=sum(row.equivalence_target.total > 0 for row in rows),
        equivalence_seen_wordings=average(rows, lambda row: row.equivalence_seen_wordings),
        equivalence_held_out_wordings=average(rows, lambda row: row.equivalence_held_out_wordings),
        held_out_edits=len(held_out),
        held_out_success_rate=average(
            [row for row in effective if row.held_out], lambda row: row.success, counted=True
        ),
        held_out_equivalence=average(held_out, lambda row: row.equivalence_target),
        held_out_retain_accuracy=average(held_out, lambda row: row.retain),
        retain_accuracy=average(rows, lambda row: row.retain)
        if stopping is None
        else stopping.estimate([retained[edit.id] for edit in edits]),
        retain_accuracy_gold=average(rows, lambda row: row.retain_gold),
        accuracy_before=replace(
            loss,
            value=before.value,
            low=before.value,
            high=before.value,
            hits=before.hits,
            total=before.total,
            standard_error=0.0,
        ),
        accuracy_after=replace(
            loss, value=before.value - loss.value, low=before.value - loss.high, high=before.value - loss.low
        ),
        performance_deterioration=relative_loss_estimate(
            [row.accuracy_loss for row in rows], [before] * len(rows), facts, seed=seed, resamples=resamples
        ),
        performance_deterioration_elsewhere=relative_loss_estimate(
            [row.accuracy_loss_elsewhere for row in rows],
            [row.accuracy_elsewhere for row in rows],
            facts,
            seed=seed,
            resamples=resamples,
        ),
        seed=seed,
        resamples=resamples,
        interval=INTERVAL if stopping is None else STOPPED_INTERVAL,
    )


def per_edit(
    edits: Sequence[EditAnswers], base: Sequence[BaseAnswer], protocol: Protocol
) -> list[EditScores]:
    """What each edit scored, by id: one row an edit, failed ones and no-ops included.

    Raises:
        ValueError: two edits or two test questions share an id, or an edit answers an unknown question.
    """
    test_set = BaseAnswers(base)
    in_order = sorted(edits, key=lambda edit: edit.id)
    if len({edit.id for edit in in_order}) < len(in_order):
        raise ValueError("two edits have the same id")
    # Where no edit was teacher-forced, a failed one does not count as having been.
    any_forced = any(edit.forced is not None for edit in in_order)
    # Wordings are told apart within the relations that editors are trained on.
    any_wording_held_out = any(
        paraphrase.held_out
        for edit in in_order
        if not edit.held_out
        for paraphrase in metrics.paraphrases(edit, protocol)
    )

    def worded(edit: EditAnswers, held_out: bool) -> Measure:
        if edit.held_out or not any_wording_held_out:
            return NOTHING
        return metrics.equivalence_target(edit, protocol, held_out=held_out)

    return [
        EditScores(
            id=edit.id,
            fact=edit.fact,
            failure=(edit.failure or "no answer") if metrics.failed(edit) else None,
            no_op=metrics.is_no_op(edit, protocol),
            held_out=edit.held_out,
            success=metrics.success(edit, protocol),
            success_teacher_forced=metrics.success_teacher_forced(edit) if any_forced else NOTHING,
            equivalence_target=metrics.equivalence_target(edit, protocol),
            equivalence_own=metrics.equivalence_own(edit, protocol),
            equivalence_seen_wordings=worded(edit, False),
            equivalence_held_out_wordings=worded(edit, True),
            retain=metrics.retain(edit, test_set, protocol),
            retain_gold=metrics.retain_gold(edit, test_set, protocol),
            accuracy_loss=metrics.accuracy_loss(edit, test_set, protocol),
            accuracy_loss_elsewhere=metrics.accuracy_loss_elsewhere(edit, test_set, protocol),
            accuracy_elsewhere=metrics.accuracy_elsewhere(edit, test_set, protocol),
        )
        for edit in in_order
    ]


def difference(first: Measure, second: Measure) -> Measure:
    """One edit's first measure less its second, for paired estimates; nothing where either is missing."""
    if math.isnan(first.value) or math.isnan(second.value):
        return NOTHING
    hits = None if first.hits is None or second.hits is None else first.hits - second.hits
    return Measure(first.value - second.value, hits, first.total)


def _to_json(content: object) -> object:
    if isinstance(content, Estimate):
        return content.to_json()
    if isinstance(content, Protocol):
        return content.to_json()
    return dict(content) if isinstance(content, Mapping) else content
