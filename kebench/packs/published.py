"""Keeps records as their source publishes them: one record for each row, in the source's own split.

This allows an evaluation that reads a file row by row to be repeated. Identical questions stay separate
records, and a fact may be in several splits.
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
    """Gives records their fact keys and makes their ids distinct.

    If an id appears more than once, `-2`, `-3`, … is added to it in the order in which the records are read.
    Additions for records of other sources are left out and counted.

    Args:
        readings: the name of each split → what was read from its sources.

    Returns:
        The name of each split → its records, sorted by id; and all records, with counts of what was left out.
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
