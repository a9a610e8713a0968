"""What an importer returns after reading one source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kebench.packs.record import Paraphrase, Record

SplitName = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Entry:
    """A record, and what its source says about its place in a pack.

    Attributes:
        record: the record. Its `fact` is still empty; it is filled in when all sources have been read.
        clues: the clues that identify its fact (`facts.py`).
        split: the split that its row names. Either all entries of a source have one, or none has.
    """

    record: Record
    clues: frozenset[str] = frozenset()
    split: SplitName | None = None


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

    @property
    def names_splits(self) -> bool:
        """True if each row of the source names its split."""
        return any(entry.split is not None for entry in self.entries)
