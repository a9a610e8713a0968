"""Merges the records of several sources, so that each question is one record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kebench.packs.components import Components
from kebench.packs.facts import fact_keys
from kebench.packs.paraphrases import distinct
from kebench.packs.reading import Addition, Entry, Reading
from kebench.packs.record import Record
from kebench.scoring.normalise import normalise


@dataclass(frozen=True)
class Merged:
    """Records with distinct ids and their fact keys, and counts of what was left out.

    Attributes:
        records: the records, sorted by id.
        set_aside: the reason for leaving something out → how often it applied.
    """

    records: tuple[Record, ...]
    set_aside: Mapping[str, int]


def merge(readings: Sequence[Reading]) -> Merged:
    """Merges what the sources say about the same question into one record.

    Entries with the same id, or with the same normalised prompt, become one record. It has the smallest of
    their ids, the prompt and canonical answer of the entry read first, and all of their answers and
    paraphrases. It is held out if one of them is. If answers are labels and the labels of such entries
    differ, all of these entries are left out and counted. An addition goes to the record with its id; it is
    left out and counted if there is no such record or if its label differs.
    """
    set_aside: Counter[str] = Counter()
    for reading in readings:
        set_aside.update(reading.set_aside)
    one_answer = any(reading.one_answer for reading in readings)
    groups = _groups([entry for reading in readings for entry in reading.entries])
    additions: dict[str, list[Addition]] = {}
    for addition in (addition for reading in readings for addition in reading.additions):
        additions.setdefault(addition.id, []).append(addition)

    records: dict[str, Record] = {}
    clues: dict[str, frozenset[str]] = {}
    for group in groups:
        answers = dict.fromkeys(answer for entry in group for answer in entry.record.answers)
        if one_answer and len(answers) > 1:
            set_aside["claims with contradicting labels"] += len(group)
            continue
        joining = []
        for id_ in sorted({entry.record.id for entry in group}):
            for addition in additions.pop(id_, ()):
                if one_answer and set(addition.answers) != set(answers):
                    set_aside["additions that contradict the label"] += 1
                else:
                    joining.append(addition)
        record = _joined(group, tuple(answers), joining)
        records[record.id] = record
        own = frozenset[str]().union(*(entry.clues for entry in group))
        clues[record.id] = own or frozenset({f"?{normalise(record.prompt)}"})
        set_aside["repeated records, merged"] += len(group) - 1
    set_aside["additions that join no record"] += sum(map(len, additions.values()))

    facts = fact_keys(clues)
    settled = (replace(records[id_], fact=facts[id_]) for id_ in sorted(records))
    return Merged(tuple(settled), {reason: n for reason, n in sorted(set_aside.items()) if n})


def _groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Returns the entries grouped by the record that they become, in the order in which they were read."""
    same: Components[tuple[str, str]] = Components()
    for entry in entries:
        same.link(("id", entry.record.id), ("prompt", normalise(entry.record.prompt)))
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(same.root(("id", entry.record.id)), []).append(entry)
    return list(groups.values())


def _joined(group: Sequence[Entry], answers: tuple[str, ...], additions: Sequence[Addition]) -> Record:
    records = [entry.record for entry in group]
    sources: list[Record | Addition] = [*records, *additions]
    paraphrases = (paraphrase for source in sources for paraphrase in source.paraphrases)
    first = records[0]
    return replace(
        first,
        id=min(record.id for record in records),
        answers=answers,
        paraphrases=distinct(first.prompt, paraphrases),
        subject=next((record.subject for record in records if record.subject), None),
        relation=next((record.relation for record in records if record.relation), None),
        alternatives=tuple(dict.fromkeys(each for record in records for each in record.alternatives)),
        held_out=any(record.held_out for record in records),
        further=tuple(dict.fromkeys(each for record in records for each in record.further)),
    )
