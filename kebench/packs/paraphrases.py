"""Removes repeated paraphrases of a record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kebench.packs.record import Paraphrase
from kebench.scoring.normalise import normalise

AS_PUBLISHED = "filtered_rephrases"
"""The `source` of paraphrases in De Cao et al.'s list, which their evaluation uses unchanged (`decao.py`)."""


def distinct(prompt: str, candidates: Iterable[Paraphrase]) -> tuple[Paraphrase, ...]:
    """Returns `candidates` without those that, normalised, equal the prompt or an earlier candidate.

    A "paraphrase" that only changes case or punctuation would measure success a second time and call it
    generalisation. A paraphrase that is kept is held out if one of the candidates equal to it is held out.
    The list `AS_PUBLISHED` is kept as it is: the protocol of a run decides whether repetitions in it count.
    """
    x = normalise(prompt)
    kept: list[Paraphrase] = []
    first: dict[str, int] = {}  # normalised text → its index in `kept`
    for candidate in candidates:
        key = normalise(candidate.text)
        if candidate.source != AS_PUBLISHED and (key == x or key in first):
            if key in first and candidate.held_out:
                kept[first[key]] = replace(kept[first[key]], held_out=True)
            continue
        first.setdefault(key, len(kept))
        kept.append(candidate)
    return tuple(kept)
