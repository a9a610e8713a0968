"""Makes records from questions and gives them ids; used by all importers of zsRE."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1

from kebench.packs.facts import answer_clues
from kebench.packs.paraphrases import distinct
from kebench.packs.reading import Entry
from kebench.packs.record import Paraphrase, Record
from kebench.scoring.normalise import normalise


def question_id(prompt: str, source: str = "zsre") -> str:
    """Returns the source and ten hex digits of a hash of the normalised question, as in `zsre-0123456789`."""
    return f"{source}-{sha1(normalise(prompt).encode()).hexdigest()[:10]}"


def question(
    prompt: str,
    answers: Iterable[str],
    paraphrases: Iterable[Paraphrase] = (),
    *,
    subject: str | None = None,
    relation: str | None = None,
) -> Entry:
    """Returns an entry for a question, without repeated answers and paraphrases."""
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
