"""What an importer makes of one source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kebench.packs.record import Paraphrase, Record


@dataclass(frozen=True)
class Entry:
    """A record with the clues to its fact (`facts.py`); its `fact` is settled when all sources are read."""

    record: Record
    clues: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Addition:
    """Paraphrases for a record that another source holds.

    Attributes:
        id: of that record.
        answers: what this source takes for its gold answers; they must agree.
        paraphrases: what is added.
    """

    id: str
    answers: tuple[str, ...]
    paraphrases: tuple[Paraphrase, ...]


@dataclass(frozen=True)
class Reading:
    """One source, read.

    Attributes:
        entries: its records, with repetitions as the source has them.
        additions: paraphrases for records of other sources.
        set_aside: what was left out by rule: reason → how many.
        one_answer: answers are labels, so a record has exactly one and sources must agree on it.
    """

    entries: tuple[Entry, ...]
    additions: tuple[Addition, ...] = ()
    set_aside: Mapping[str, int] = field(default_factory=dict)
    one_answer: bool = False
