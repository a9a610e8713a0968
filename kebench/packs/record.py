"""One record of a pack: a question about one fact, its gold answers, and its paraphrases."""

from __future__ import annotations

from dataclasses import dataclass


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
