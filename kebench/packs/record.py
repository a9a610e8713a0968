"""One record of a pack: a question about one fact, its gold answers, and its paraphrases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paraphrase:
    """A sentence that means the same as a record's prompt, and where it came from."""

    text: str
    source: str


@dataclass(frozen=True)
class Record:
    """A gold-labelled question. With paraphrases it can be edited; with or without, it tests.

    Attributes:
        id: unique within the pack.
        fact: records with the same key ask about the same fact; no key crosses a split, and no record
            that shares an edit's key is in its retain set.
        prompt: the question or claim x.
        answers: every gold answer, the canonical one first; a classifier's is one label.
        paraphrases: P^x, never equal to `prompt`.
        subject: what the prompt is about, where known.
        relation: the relation asked for, where known.
    """

    id: str
    fact: str
    prompt: str
    answers: tuple[str, ...]
    paraphrases: tuple[Paraphrase, ...] = ()
    subject: str | None = None
    relation: str | None = None
