"""Questions about the facts of the pack `mini`, from the files described in `kebench.packs.sentences`."""

from __future__ import annotations

from pathlib import Path

from kebench.packs.reading import Entry, Reading
from kebench.packs.record import Record
from kebench.packs.sentences import read_facts, wording


def read(path: Path) -> Reading:
    """Makes one question about each fact, in all wordings of its relation. The object is the answer.

    The false object is the alternative: as the target of an edit it is wrong, but plausible.

    Raises:
        BadFile: a fact or a pattern does not have the right form.
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
