"""Statements to complete about the facts of the pack `mini`: see `kebench.packs.sentences`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from kebench.packs.reading import Entry, Reading
from kebench.packs.record import OwnQuestion, Paraphrase, Record
from kebench.packs.sentences import Fact, Wording, completions, read_facts, wording

NEIGHBOURS = 5
"""How many facts with the same relation and object a record's neighbourhood has at most."""


def read(path: Path) -> Reading:
    """Makes one statement about each fact, broken off before the object, which is the answer.

    Paraphrases are the relation's other statements and its questions. The neighbourhood is the same relation
    of other subjects that have the same object: an edit of one must not change the others.

    Raises:
        BadFile: a fact or a pattern does not have the right form.
    """
    relations, facts = read_facts(path)
    worded: dict[str, Wording] = {}
    alike: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        relation = relations[fact.relation]
        stated = completions(relation.claims, fact)
        asked = wording(relation.questions, fact, fact.object)
        questions = (Paraphrase(asked.prompt, "kebench"), *asked.paraphrases)
        worded[fact.id] = Wording(stated.prompt, (*stated.paraphrases, *questions))
        alike[fact.relation, fact.object].append(fact)
    entries = []
    for fact in facts:
        relation = relations[fact.relation]
        neighbours = _neighbours(fact, alike[fact.relation, fact.object])
        further = tuple(
            OwnQuestion("neighbourhood", worded[other.id].prompt, (other.object,)) for other in neighbours
        )
        record = Record(
            fact.id, "", worded[fact.id].prompt, (fact.object,), worded[fact.id].paraphrases,
            subject=fact.subject, relation=relation.name, alternatives=(fact.false,),
            held_out=relation.held_out, further=further,
        )  # fmt: skip
        entries.append(Entry(record, frozenset({fact.clue})))
    return Reading(tuple(entries))


def _neighbours(fact: Fact, alike: Sequence[Fact]) -> list[Fact]:
    """Some of the other facts that are alike, drawn by a hash."""
    others = [other for other in alike if other.subject != fact.subject]
    return sorted(others, key=lambda other: sha256(f"{fact.id}{other.id}".encode()).digest())[:NEIGHBOURS]
