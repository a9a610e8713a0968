"""A file of one's own, as JSON Lines, JSON, CSV, TSV or Parquet: one question or claim in each row.

    {"prompt": "In which land is Port Wessel?", "answers": ["Westland", "West Land"],
     "paraphrases": ["Where does Port Wessel lie?"], "target": "Sudland", "subject": "Port Wessel"}
    {"prompt": "Port Wessel is in Westland.", "label": "SUPPORTS", "paraphrases": ["…"]}

| field | holds | if missing |
|---|---|---|
| `prompt` | the question or claim | refused |
| `answers` | the correct answer, or a list with the canonical one first | there is a `label` |
| `label` | for a classifier: the correct label | there are `answers` |
| `paraphrases` | one or more texts with the same meaning | the row is asked, but cannot be edited |
| `target` | one or more wrong answers of the right type, which edits may ask for | the model's own beam |
| `subject`, `relation` | what the prompt is about, and what it asks for | not known |
| `fact` | a name for the fact; rows with the same name ask about the same fact | subject and answer |
| `retain` | questions that must keep their answers when this row is edited | none |
| `split` | `train`, `dev` or `test`, in every row or in none | rows are split by fact |
| `id` | a number or a name | made from the prompt |

In CSV a list is written as JSON: `["a", "b"]`. An empty cell and null are missing fields. Other fields are
left out and counted; one whose name is nearly that of a field above is refused.
"""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from kebench.errors import BadFile
from kebench.packs.facts import answer_clues
from kebench.packs.paraphrases import distinct
from kebench.packs.questions import question_id
from kebench.packs.reading import Entry, Reading, SplitName
from kebench.packs.record import OwnQuestion, Paraphrase, Record
from kebench.packs.rows import Row
from kebench.packs.split import SPLITS
from kebench.packs.tables import rows_of

GOLD = "answers"
FIELDS = (
    "prompt", "answers", "label", "paraphrases", "target", "subject", "relation",
    "fact", "retain", "split", "id",
)  # fmt: skip
SOURCE = "own"


def read(path: Path) -> Reading:
    """Reads the questions or claims in the file `path`.

    Raises:
        BadFile: a field is missing or wrong; some rows have a label and others answers; or some rows have a
            split and others none.
    """
    entries: list[Entry] = []
    set_aside: Counter[str] = Counter()
    first: Row | None = None
    for row in rows_of(path):
        first = first or row
        for name in ("label", "split"):
            if row.has(name) != first.has(name):
                found, other = ("one", "none") if row.has(name) else ("none", "one")
                there = f"{other} at {first.place}"
                problem = f"{name}: found {found}, and {there}, wanted it in all rows or in none"
                raise BadFile(path, problem, place=row.place)
        set_aside.update(f"fields not used: {name}" for name in _foreign(row))
        entries.append(_entry(row))
    one_answer = first is not None and first.has("label")
    return Reading(tuple(entries), set_aside=set_aside, one_answer=one_answer)


def _entry(row: Row) -> Entry:
    prompt, fact = row.text("prompt"), row.identifier("fact") if row.has("fact") else None
    subject = row.text("subject") if row.has("subject") else None
    if row.has("label") and row.has("answers"):
        row.wrong("answers", row.value["answers"], "answers or a label, not both")
    answers = (row.text("label"),) if row.has("label") else row.one_or_more("answers")
    if not answers:
        row.get("answers", "an answer or a list of answers")
        row.wrong("answers", row.value["answers"], "at least one answer")
    record = Record(
        row.identifier("id") if row.has("id") else question_id(prompt, SOURCE),
        "",
        prompt,
        answers,
        distinct(prompt, (Paraphrase(text, SOURCE) for text in row.one_or_more("paraphrases"))),
        subject=subject,
        relation=row.text("relation") if row.has("relation") else None,
        alternatives=row.one_or_more("target"),
        further=tuple(OwnQuestion("neighbourhood", text) for text in row.one_or_more("retain")),
    )
    if fact is not None:
        clues = frozenset({f"fact:{fact}"})
    else:  # two claims about a subject with the same label are not about the same fact
        clues = answer_clues(prompt, None if row.has("label") else subject, answers)
    split = row.choice("split", SPLITS) if row.has("split") else None
    return Entry(record, clues, cast("SplitName | None", split))


def _foreign(row: Row) -> list[str]:
    """Returns the fields that are not used.

    Raises:
        BadFile: the name of one is nearly that of a field in `FIELDS`, so that it may be misspelt.
    """
    found = [str(name) for name in row.value if name not in FIELDS]
    for name in found:
        if nearest := get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.8):
            raise BadFile(row.path, f"{name}: unknown field; did you mean '{nearest[0]}'?", place=row.place)
    return found
