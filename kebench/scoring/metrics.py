"""What one edit scores in one row of the table of scores. Averages over edits are the scorer's.

The literature's scores differ in four things: what an answer is compared with, over which inputs, how it is
averaged, and what counts as equal. A row of `kebench.scoring.table` names all four, and the protocol says
what each equality means. A failed edit is wrong in every score, and None equals nothing, not even None.
"""

from __future__ import annotations

from collections.abc import Sequence

from kebench.scoring import equality
from kebench.scoring.answers import EditAnswers, Kind
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
        pair
        for kind in score.kinds
        for pair in zip(about.answers.get(kind, ()), _right(score, kind, about, protocol), strict=True)
        if part is ALL or part.has_question(pair[0].question.tags)
    ]
    if score.decoding == "teacher forcing":
        return share([answer.preferred for answer, _ in found if answer.preferred is not None])
    values = [int(right) for _, right in found]
    if score.of == "lost":
        base_right = base.right(protocol)
        values = [(answer.question.id in base_right) - right for answer, right in found]
    if score.weights == "equal":
        return share(values)
    strata = [base.rows[answer.question.id].stratum for answer, _ in found]
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


def _right(score: Score, kind: Kind, about: Asked, protocol: Protocol) -> Sequence[bool]:
    """Whether each answer to the questions of a kind is right; computed once for rows that compare alike."""
    rule: Equality = getattr(protocol, f"{score.equality}_equality")
    compared = (kind, score.compared_with, rule, score.of == "base")
    if compared not in about.known:
        about.known[compared] = [
            equality.matches(
                answer.question.references["base answer"][0] if score.of == "base" else answer.text,
                (about.own,)
                if score.compared_with == "own answer"
                else answer.question.references[score.compared_with],
                rule,
            )
            for answer in about.answers.get(kind, ())
        ]
    return about.known[compared]
