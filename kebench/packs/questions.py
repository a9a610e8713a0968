"""Records of questions: their ids, and what the zsRE importers share."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1

from kebench.packs.facts import answer_clues
from kebench.packs.paraphrases import distinct
from kebench.packs.reading import Entry
from kebench.packs.record import Paraphrase, Record
from kebench.scoring.normalise import normalise


def question_id(prompt: str) -> str:
    """`zsre-` and ten hex digits of the normalised question: the same in whichever file it stands."""
    return f"zsre-{sha1(normalise(prompt).encode()).hexdigest()[:10]}"


def question(
    prompt: str,
    answers: Iterable[str],
    paraphrases: Iterable[Paraphrase] = (),
    *,
    subject: str | None = None,
    relation: str | None = None,
) -> Entry:
    """A question as an entry, with repeated answers and paraphrases dropped."""
    gold = tuple(dict.fromkeys(answers))
    record = Record(
        question_id(prompt),
        "",
        prompt,
        gold,
        distinct(prompt, paraphrases),
        subject=subject,
        relation=relation,
    )
    return Entry(record, answer_clues(prompt, subject, gold))
