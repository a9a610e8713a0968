"""Which records ask about the same fact.

An importer names, for each record, the *clues* to the fact it asks about: a subject with an answer, or a
sentence of Wikipedia. Records that share a clue, directly or through others, have one fact key: the
smallest clue of their group. The group does not depend on the order in which records arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kebench.packs.components import Components
from kebench.scoring.normalise import normalise


def answer_clues(prompt: str, subject: str | None, answers: Iterable[str]) -> frozenset[str]:
    """The clues of a question: its subject together with each gold answer; or itself, the subject unknown.

    Two questions about one subject with the same answer are taken to ask the same fact ("Where was she
    born?", "Which is her native town?"). This errs on the safe side: it also joins two relations that
    happen to share an answer (born in Paris, died in Paris), which costs a retain question, whereas
    missing a second wording of the edited fact would count a right generalisation as damage.
    """
    if subject is None:
        return frozenset({f"?{normalise(prompt)}"})
    return frozenset(f"{normalise(subject)}|{normalise(answer)}" for answer in answers)


def sentence_clue(page: str, sentence: int) -> str:
    """The clue of a claim that one sentence of a page proves or refutes."""
    return f"{page}#{sentence}"


def fact_keys(clues: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """The fact key of every record, from the clues by record id (at least one clue each)."""
    components: Components[str] = Components()
    for found in clues.values():
        first, *others = sorted(found)
        components.root(first)
        for other in others:
            components.link(first, other)
    smallest = {clue: min(group) for group in components.groups() for clue in group}
    return {id_: smallest[min(found)] for id_, found in clues.items()}
