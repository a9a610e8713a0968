"""One record of a pack: a question about one fact, its gold answers, and its paraphrases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paraphrase:
    """A sentence that means the same as a record's prompt.

    Attributes:
        text: the sentence.
        source: where it came from.
        held_out: whether its wording is kept from every editor's training, whatever it is about.
    """

    text: str
    source: str
    held_out: bool = False


@dataclass(frozen=True)
class Record:
    """A gold-labelled question. With paraphrases it can be edited; with or without, it tests.

    Attributes:
        id: unique within the pack.
        fact: records with the same key ask about the same fact; no key crosses a split, and no record
            that shares an edit's key is in its retain set.
        prompt: the question or claim x.
        answers: every gold answer, the canonical one first; a classifier's is one label.
        paraphrases: P^x, never equal to `prompt`, but for De Cao et al.'s own list (`decao.py`).
        subject: what the prompt is about, where known.
        relation: the relation asked for, where known.
        alternatives: wrong answers of the right kind that an edit may ask for; where there are none, the
            base model's own second thoughts are asked for.
        held_out: whether its whole relation is kept from every editor's training: it is in `test`.
        prediction: what the base model of the pack's authors answered, where the pack stores it; it may be
            empty. A protocol says whether it counts.
        logit: that model's logit, where stored; no protocol reads it.
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
