"""What the scorer sees: questions and answers, never a model or an editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class BaseAnswer:
    """One question of the test set, and what the base model says to it.

    Attributes:
        id: the record's id.
        fact: its fact key.
        prompt: the question.
        gold: every accepted gold answer.
        answer: the base model's answer.
        stratum: the sampling stratum, 0 = nearest to the decision boundary.
        stored: the answer that retain compares with in place of `answer`, where the protocol takes the one
            that the pack's authors stored.
    """

    id: str
    fact: str
    prompt: str
    gold: tuple[str, ...]
    answer: str
    stratum: int = 0
    stored: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields; `stored` only where there is something."""
        fields = asdict(self)
        return fields if self.stored is not None else {n: fields[n] for n in fields if n != "stored"}


@dataclass(frozen=True)
class ParaphraseAnswer:
    """What the edited model says to one paraphrase.

    Attributes:
        text: the paraphrase.
        answer: None where the edit failed.
        held_out: whether its wording is kept from the editor's training, whatever relation it is of.
    """

    text: str
    answer: str | None
    held_out: bool = False


@dataclass(frozen=True)
class EditAnswers:
    """Everything one edited model was asked.

    Attributes:
        id: the edited record's id.
        fact: its fact key.
        prompt: x.
        prediction: the base model's answer y to x.
        target: the wanted answer a.
        answer: the edited model's own answer to x, decoded freely; None where the edit failed.
        forced: whether the edited model prefers a's tokens one by one when fed them (teacher forcing);
            None where the editor gives answers only.
        paraphrases: the answers over P^x.
        sample: test-set record id → the edited model's answer to it (None where the edit failed).
            Drawn from the whole test set; the scorer leaves out what the protocol leaves out.
        failure: why the edit failed, or None. A failed edit counts as wrong everywhere.
        held_out: whether the editor was trained on nothing about this relation.
        also_edited: the facts of the other edits that the model holds; empty in the regime `single`.
    """

    id: str
    fact: str
    prompt: str
    prediction: str
    target: str
    answer: str | None
    forced: bool | None = None
    paraphrases: tuple[ParaphraseAnswer, ...] = ()
    sample: Mapping[str, str | None] = field(default_factory=dict)
    failure: str | None = None
    held_out: bool = False
    also_edited: tuple[str, ...] = ()
