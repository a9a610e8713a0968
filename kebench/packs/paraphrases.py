"""A record's paraphrases, each once."""

from __future__ import annotations

from collections.abc import Iterable

from kebench.normalise import normalise
from kebench.packs.record import Paraphrase


def distinct(prompt: str, candidates: Iterable[Paraphrase]) -> tuple[Paraphrase, ...]:
    """`candidates` without those that normalise to the prompt or to an earlier one; order kept.

    A "paraphrase" that only changes case or punctuation would measure success a second time and call it
    generalisation.
    """
    seen = {normalise(prompt)}
    kept = []
    for candidate in candidates:
        key = normalise(candidate.text)
        if key not in seen:
            seen.add(key)
            kept.append(candidate)
    return tuple(kept)
