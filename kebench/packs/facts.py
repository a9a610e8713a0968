"""Finds out which records ask about the same fact.

For each record an importer names *clues* that identify its fact: a subject with an answer, or a sentence of
Wikipedia. Records that share a clue, directly or through other records, form a group. All records of a group
have the same fact key, which is the smallest clue of the group in alphabetical order. The order in which
records are read does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kebench.packs.components import Components
from kebench.scoring.normalise import normalise


def answer_clues(prompt: str, subject: str | None, answers: Iterable[str]) -> frozenset[str]:
    """Returns the clues of a question: its subject with each gold answer; if it has no subject, the question.

    Two questions with the same subject and the same answer are assumed to ask for the same fact ("Where was
    she born?", "Which is her native town?"). This can also join two relations whose answers happen to be
    equal (born in Paris, died in Paris). Then a retain question is lost, which does little harm. If two
    wordings of the edited fact were not joined, a correct generalisation would be counted as damage.
    """
    if subject is None:
        return frozenset({f"?{normalise(prompt)}"})
    return frozenset(f"{normalise(subject)}|{normalise(answer)}" for answer in answers)


def sentence_clue(page: str, sentence: int) -> str:
    """Returns the clue of a claim that is supported or refuted by one sentence of a Wikipedia page."""
    return f"{page}#{sentence}"


def fact_keys(clues: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Returns the fact key of each record.

    Args:
        clues: record id → the clues of the record, at least one.
    """
    components: Components[str] = Components()
    for found in clues.values():
        first, *others = sorted(found)
        components.root(first)
        for other in others:
            components.link(first, other)
    smallest = {clue: min(group) for group in components.groups() for clue in group}
    return {id_: smallest[min(found)] for id_, found in clues.items()}
