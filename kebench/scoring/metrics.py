"""What one edit scores in one row of the table of scores. Averages over edits are the scorer's.

The literature's scores differ in four things: what an answer is compared with, over which inputs, how it is
averaged, and what counts as equal. A row of `kebench.scoring.table` names all four, and the protocol says
what each equality means. A failed edit is wrong in every score, and None equals nothing, not even None.
"""

from __future__ import annotations

from collections.abc import Sequence

from kebench.scoring import equality
from kebench.scoring.answers import Answer, EditAnswers
from kebench.scoring.equality import same
from kebench.scoring.protocols import Equality, Protocol
from kebench.scoring.questions import Asked, BaseAnswers, asked, failed, is_no_op
from kebench.scoring.statistics import NOTHING, Measure, stratified_mean
from kebench.scoring.table import ALL, Score, Slice, row

__all__ = ["BaseAnswers", "counts_for_success", "failed", "is_no_op", "measure", "of_edit", "retain", "same"]


def measure(score: Score, about: Asked, base: BaseAnswers, protocol: Protocol, part: Slice = ALL) -> Measure:
    """What one edit scores.

    Args:
        score: the row of the table.
        about: the edit's questions and answers.
        base: the test set as the base model answers it.
        protocol: what counts as equal.
        part: the slice of the edit's questions to score.

    Returns:
        The mean over the edit's questions; NaN where it has none of these.
    """
    if not part.has_edit(about.tags):
        return NOTHING
    left_out = frozenset() if "test" in score.kinds else about.left_out
    if score.of == "base" and "retain" in score.kinds:  # known for the whole test set, asked or not
        return base.accuracy(protocol, left_out)
    found = [
        answer
        for kind in score.kinds
        for answer in about.answers.get(kind, ())
        if part.has_question(answer.question.tags)
        and (score.decoding == "free" or answer.preferred is not None)
    ]
    values = [_value(score, answer, about.own, base, protocol) for answer in found]
    if score.weights == "equal":
        return share(values)
    strata = [base.rows[answer.question.id].stratum for answer in found]
    # Weighted by stratum, so that the value is not hits / total.
    return Measure(stratified_mean(values, strata, base.populations(left_out)), None, len(values))


def of_edit(
    name: str,
    edit: EditAnswers,
    protocol: Protocol,
    base: BaseAnswers | None = None,
    part: Slice = ALL,
) -> Measure:
    """What an edit scores in the row of that name.

    Args:
        name: of a row of the table.
        edit: what the edited model said.
        protocol: the rules.
        base: the test set; not needed for the answers to x and to its paraphrases.
        part: the slice of the edit's questions to score.
    """
    test_set = BaseAnswers([]) if base is None else base
    return measure(row(name), asked(edit, test_set, protocol), test_set, protocol, part)


def retain(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Measure:
    """How often the edited model keeps the base model's answer over O^x, right or wrong as that may be."""
    return of_edit("retain_accuracy", edit, protocol, base)


def counts_for_success(edit: EditAnswers, protocol: Protocol) -> bool:
    """Whether the average of success has the edit in it: in `strict`, not if the edit is a no-op."""
    return protocol.left_out_of_success == "nothing" or not is_no_op(edit, protocol)


def share(values: Sequence[int]) -> Measure:
    """The share of ones among zeros and ones; NaN without any."""
    return Measure(sum(values) / len(values), sum(values), len(values)) if values else NOTHING


def _value(score: Score, answer: Answer, own: str | None, base: BaseAnswers, protocol: Protocol) -> int:
    """What one answer counts: 1 where it is right and 0 where not, or what the base model's is more right."""
    if score.decoding == "teacher forcing":
        return int(bool(answer.preferred))
    question = answer.question
    said = question.references["base answer"][0] if score.of == "base" else answer.text
    accepted = (own,) if score.compared_with == "own answer" else question.references[score.compared_with]
    rule: Equality = getattr(protocol, f"{score.equality}_equality")
    right = equality.matches(said, accepted, rule)
    return (question.id in base.right(protocol)) - right if score.of == "lost" else int(right)
