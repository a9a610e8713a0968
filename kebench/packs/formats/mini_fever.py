"""Claims about the facts of the pack `mini`, from the files described in `kebench.packs.sentences`."""

from __future__ import annotations

from pathlib import Path

from kebench.packs.reading import Entry, Reading
from kebench.packs.record import Record
from kebench.packs.sentences import read_facts, wording


def read(path: Path) -> Reading:
    """Makes a true and a false claim about each fact, in all wordings of its relation.

    Raises:
        BadFile: a fact or a pattern does not have the right form.
    """
    relations, facts = read_facts(path)
    entries = []
    for fact in facts:
        relation = relations[fact.relation]
        for label, object_ in (("SUPPORTS", fact.object), ("REFUTES", fact.false)):
            worded = wording(relation.claims, fact, object_)
            record = Record(
                f"{fact.id}-{label.lower()}", "", worded.prompt, (label,), worded.paraphrases,
                subject=fact.subject, relation=relation.name, held_out=relation.held_out,
            )  # fmt: skip
            entries.append(Entry(record, frozenset({fact.clue})))
    return Reading(tuple(entries), one_answer=True)
