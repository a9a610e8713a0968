"""When two answers are equal. None, the answer of a failed edit, equals nothing, not even None."""

from __future__ import annotations

from collections.abc import Iterable

from kebench.scoring.normalise import normalise, normalise_decao2021
from kebench.scoring.protocols import Equality


def same(answer: str | None, other: str | None, equality: Equality) -> bool:
    """Whether two answers are equal; False where either is None."""
    if answer is None or other is None:
        return False
    return answer == other or comparable(answer, equality) == comparable(other, equality)


def matches(answer: str | None, accepted: Iterable[str | None], equality: Equality) -> bool:
    """Whether an answer equals any of the accepted ones."""
    return any(same(answer, each, equality) for each in accepted)


def comparable(answer: str, equality: Equality) -> str:
    """The form of an answer in which equal answers are the same string."""
    if equality == "normalised":
        return normalise(answer)
    if equality == "decao2021":
        return normalise_decao2021(answer)
    return answer
