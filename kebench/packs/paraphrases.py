"""A record's paraphrases, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kebench.normalise import normalise
from kebench.packs.record import Paraphrase


def distinct(prompt: str, candidates: Iterable[Paraphrase]) -> tuple[Paraphrase, ...]:
    """`candidates` without those that normalise to the prompt or to an earlier one; order kept.

    A "paraphrase" that only changes case or punctuation would measure success a second time and call it
    generalisation. What is kept is held out if any candidate equal to it is.
    """
    x = normalise(prompt)
    kept: dict[str, Paraphrase] = {}
    for candidate in candidates:
        key = normalise(candidate.text)
        if key != x:
            first = kept.setdefault(key, candidate)
            kept[key] = replace(first, held_out=first.held_out or candidate.held_out)
    return tuple(kept.values())
