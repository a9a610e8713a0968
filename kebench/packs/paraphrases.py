"""A record's paraphrases, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kebench.packs.record import Paraphrase
from kebench.scoring.normalise import normalise

AS_PUBLISHED = "filtered_rephrases"
"""The source of De Cao et al.'s list, which their evaluation takes as it stands (`decao.py`)."""


def distinct(prompt: str, candidates: Iterable[Paraphrase]) -> tuple[Paraphrase, ...]:
    """`candidates` without those that normalise to the prompt or to an earlier one; order kept.

    A "paraphrase" that only changes case or punctuation would measure success a second time and call it
    generalisation. What is kept is held out if any candidate equal to it is. The list `AS_PUBLISHED` alone
    stays whole: whether the prompt and repetitions count there, the protocol of a run says.
    """
    x = normalise(prompt)
    kept: list[Paraphrase] = []
    first: dict[str, int] = {}  # normalised text → its place in `kept`
    for candidate in candidates:
        key = normalise(candidate.text)
        if candidate.source != AS_PUBLISHED and (key == x or key in first):
            if key in first and candidate.held_out:
                kept[first[key]] = replace(kept[first[key]], held_out=True)
            continue
        first.setdefault(key, len(kept))
        kept.append(candidate)
    return tuple(kept)
