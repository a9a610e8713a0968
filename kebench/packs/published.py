"""Records as their source publishes them: one a row, in the source's own split, nothing merged.

So that an evaluation that reads a file row by row can be run again: identical questions stay several
records, and facts may cross the splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kebench.packs.facts import fact_keys
from kebench.packs.merge import Merged
from kebench.packs.reading import Reading
from kebench.packs.record import Record
from kebench.scoring.normalise import normalise


def as_published(readings: Mapping[str, Sequence[Reading]]) -> tuple[dict[str, tuple[Record, ...]], Merged]:
    """The records by split, sorted by id, and all of them with what was left out.

    An id that stands more than once is followed by `-2`, `-3`, … in the order of reading. Paraphrases for
    other sources' records join none, and are counted.

    Args:
        readings: the sources of each split.
    """
    seen: Counter[str] = Counter()
    set_aside: Counter[str] = Counter()
    records: dict[str, Record] = {}
    clues: dict[str, frozenset[str]] = {}
    split_of: dict[str, str] = {}
    for split, sources in readings.items():
        for reading in sources:
            set_aside.update(reading.set_aside)
            set_aside["additions that join no record"] += len(reading.additions)
            for entry in reading.entries:
                seen[entry.record.id] += 1
                count = seen[entry.record.id]
                id_ = entry.record.id if count == 1 else f"{entry.record.id}-{count}"
                records[id_] = replace(entry.record, id=id_)
                clues[id_] = entry.clues or frozenset({f"?{normalise(entry.record.prompt)}"})
                split_of[id_] = split
    facts = fact_keys(clues)
    settled = tuple(replace(records[id_], fact=facts[id_]) for id_ in sorted(records))
    splits = {
        split: tuple(record for record in settled if split_of[record.id] == split) for split in readings
    }
    return splits, Merged(settled, dict(sorted((+set_aside).items())))
