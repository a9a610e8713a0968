"""Questions about the facts of the embedded pack `mini`: see `kebench.packs.sentences`."""

from __future__ import annotations

from pathlib import Path

from kebench.packs.reading import Entry, Reading
from kebench.packs.record import Record
from kebench.packs.sentences import read_facts, wording


def read(path: Path) -> Reading:
    """One question a fact, answered by its object, in all the wordings of its relation.

    The false object is the alternative: an edit to it says something false that could be true.

    Raises:
        BadFile: the facts or their patterns are not well formed.
    """
    relations, facts = read_facts(path)
    entries = []
    for fact in facts:
        relation = relations[fact.relation]
        worded = wording(relation.questions, fact, fact.object)
        record = Record(
            fact.id, "", worded.prompt, (fact.object,), worded.paraphrases,
            subject=fact.subject, relation=relation.name, alternatives=(fact.false,),
            held_out=relation.held_out,
        )  # fmt: skip
        entries.append(Entry(record, frozenset({fact.clue})))
    return Reading(tuple(entries))
