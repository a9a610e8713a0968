"""Base and edited answers in, scores out. Never a model, never an editor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from kebench import metrics
from kebench.answers import BaseAnswer, EditAnswers
from kebench.metrics import BaseAnswers
from kebench.protocols import Protocol
from kebench.statistics import (
    NOTHING,
    RESAMPLES,
    Estimate,
    Measure,
    mean_estimate,
    relative_loss_estimate,
)
from kebench.stopping import Stopping

INTERVAL = "95 %, percentile bootstrap over edits"
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
        accuracy_before: gold answers given by the base model over the sample.
        accuracy_after: the same by the edited model.
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
    accuracy_before: Measure
    accuracy_after: Measure

    def row(self) -> dict[str, str | bool | float | int | None]:
        """The edit as one flat row: each measure `m` as `m`, `m_hits` and `m_total`."""
        row: dict[str, str | bool | float | int | None] = {}
        for field in fields(self):
            content = getattr(self, field.name)
            if isinstance(content, Measure):
                row[field.name] = content.value
                row[f"{field.name}_hits"] = content.hits
                row[f"{field.name}_total"] = content.total
            else:
                row[field.name] = content
        return row


@dataclass(frozen=True)
class Scores:
    """The scores of one editor on one task and model, under one protocol.

    What each compares with what is told where it is computed, in `kebench.metrics`, and in `protocol`.

    Attributes:
        protocol: the rules.
        edits: how many edits were tried.
        failures: why edits failed → how many did. They are wrong in every score below.
        no_ops: edits that ask for what the base model says already.
        no_op_share: their share.
        success_rate: free decoding, no-ops left out: failed ones too, so that the denominator is the same
            for every editor.
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
        accuracy_before: of the base model, over the edits' samples.
        accuracy_after: of the edited models, over the same.
        performance_deterioration: 1 − after / before; `hits` counts right answers after, `total` before.
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
        return {field.name: _to_json(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Scores:
        """Reads what `to_json` wrote."""
        read: dict[str, Any] = dict(saved)
        for field in fields(cls):
            if field.type == "Estimate":  # a string: annotations are not evaluated in this module
                read[field.name] = Estimate.from_json(saved[field.name])
        read["protocol"] = Protocol(**saved["protocol"])
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
    effective = [row for row in rows if not row.no_op]
    held_out = [row for row in rows if row.held_out]
    retained = {row.id: row.retain for row in rows}

    def average(measures: Sequence[Measure]) -> Estimate:
        return mean_estimate(measures, seed=seed, resamples=resamples)

    return Scores(
        protocol=protocol,
        edits=len(rows),
        failures=dict(sorted(Counter(row.failure for row in rows if row.failure is not None).items())),
        no_ops=sum(row.no_op for row in rows),
        no_op_share=average([Measure(float(row.no_op), int(row.no_op), 1) for row in rows]),
        success_rate=average([row.success for row in effective]),
        success_rate_teacher_forced=average([row.success_teacher_forced for row in effective]),
        inflation_gap=average([difference(row.success_teacher_forced, row.success) for row in effective]),
        equivalence_target=average([row.equivalence_target for row in rows]),
        equivalence_own=average([row.equivalence_own for row in rows]),
        edits_with_paraphrases=sum(row.equivalence_target.total > 0 for row in rows),
        equivalence_seen_wordings=average([row.equivalence_seen_wordings for row in rows]),
        equivalence_held_out_wordings=average([row.equivalence_held_out_wordings for row in rows]),
        held_out_edits=len(held_out),
        held_out_success_rate=average([row.success for row in held_out if not row.no_op]),
        held_out_equivalence=average([row.equivalence_target for row in held_out]),
        held_out_retain_accuracy=average([row.retain for row in held_out]),
        retain_accuracy=average([row.retain for row in rows])
        if stopping is None
        else stopping.estimate([retained[edit.id] for edit in edits]),
        retain_accuracy_gold=average([row.retain_gold for row in rows]),
        accuracy_before=average([row.accuracy_before for row in rows]),
        accuracy_after=average([row.accuracy_after for row in rows]),
        performance_deterioration=relative_loss_estimate(
            [row.accuracy_before for row in rows],
            [row.accuracy_after for row in rows],
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
            accuracy_before=metrics.accuracy_before(edit, test_set, protocol),
            accuracy_after=metrics.accuracy_after(edit, test_set, protocol),
        )
        for edit in in_order
    ]


def difference(first: Measure, second: Measure) -> Measure:
    """One edit's first measure less its second, for paired estimates; nothing where either is missing."""
    if math.isnan(first.value) or math.isnan(second.value):
        return NOTHING
    return Measure(first.value - second.value, first.hits - second.hits, first.total)


def _to_json(content: object) -> object:
    if isinstance(content, Estimate):
        return content.to_json()
    if isinstance(content, Protocol):
        return asdict(content)
    return dict(content) if isinstance(content, Mapping) else content
