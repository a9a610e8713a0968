"""One record of a pack: a question about one fact, its gold answers, and its paraphrases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OwnKind = Literal["neighbourhood", "portability"]
"""What a question that belongs to one record is asked for (`kebench.scoring.answers.Kind`)."""


@dataclass(frozen=True)
class Paraphrase:
    """A sentence that means the same as a record's prompt.

    Attributes:
        text: the sentence.
        source: where the sentence comes from.
        held_out: True if no editor is trained on this wording, of this or of any other fact.
    """

    text: str
    source: str
    held_out: bool = False


@dataclass(frozen=True)
class OwnQuestion:
    """A question that belongs to one record: it is asked after the edit of this record alone.

    Attributes:
        kind: `neighbourhood`: about another fact, so its answer should stay what it was before the edit.
            `portability`: its answer follows from the new fact.
        prompt: the question.
        answers: of a neighbourhood question the gold answers, if known; of a portability question the
            answers that follow from the new fact.
        target: the new answer to the record's prompt from which the answers of a portability question
            follow; it is asked after an edit to this target alone. None for a neighbourhood question.
    """

    kind: OwnKind
    prompt: str
    answers: tuple[str, ...] = ()
    target: str | None = None


@dataclass(frozen=True)
class Record:
    """A question with its gold answers. A record with paraphrases can be edited; every record can be a test.

    Attributes:
        id: the id of the record, unique within the pack.
        fact: the fact key. Records with the same key ask about the same fact. All records with one key are in
            the same split, and none of them is in the retain set of an edit with that key.
        prompt: the question or claim x.
        answers: all gold answers, the canonical one first; for a classifier, one label.
        paraphrases: P^x. No paraphrase equals `prompt`, except in De Cao et al.'s own list (`decao.py`).
        subject: what the prompt is about, if known.
        relation: the relation that the prompt asks for, if known.
        alternatives: wrong answers of the right type, which may be targets of edits. If there are none,
            targets are taken from the base model's beam search.
        held_out: True if no editor is trained on the record's relation; the record is then in `test`.
        prediction: the answer of the base model of the pack's authors, if the pack stores it; it may be
            empty. The protocol decides whether it is used.
        logit: that model's logit, if stored; no protocol uses it.
        further: the questions that belong to this record alone: its neighbourhood, its portability.
    """

    id: str
    fact: str
    prompt: str
    answers: tuple[str, ...]
    paraphrases: tuple[Paraphrase, ...] = ()
    subject: str | None = None
    relation: str | None = None
    alternatives: tuple[str, ...] = ()
    held_out: bool = False
    prediction: str | None = None
    logit: float | None = None
    further: tuple[OwnQuestion, ...] = ()
