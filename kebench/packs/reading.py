"""What an importer returns after reading one source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kebench.packs.record import Paraphrase, Record


@dataclass(frozen=True)
class Entry:
    """A record and the clues that identify its fact (`facts.py`).

    The record's `fact` is still empty; it is filled in when all sources have been read.
    """

    record: Record
    clues: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Addition:
    """Paraphrases of a record that is in another source.

    Attributes:
        id: the id of that record.
        answers: its gold answers according to this source; they must agree with the record's.
        paraphrases: the paraphrases to add.
    """

    id: str
    answers: tuple[str, ...]
    paraphrases: tuple[Paraphrase, ...]


@dataclass(frozen=True)
class Reading:
    """What was read from one source.

    Attributes:
        entries: its records, including repeated ones.
        additions: paraphrases for records of other sources.
        set_aside: what was left out: the reason → how often it applied.
        one_answer: True if answers are labels; then a record has exactly one, and sources must agree on it.
    """

    entries: tuple[Entry, ...]
    additions: tuple[Addition, ...] = ()
    set_aside: Mapping[str, int] = field(default_factory=dict)
    one_answer: bool = False
