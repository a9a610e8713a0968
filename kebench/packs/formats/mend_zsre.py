"""zsRE as MEND, ROME and EasyEdit distribute it (`zsre_mend_train.json`, `…_eval.json`): an array of objects.

    {"subject": "…", "src": "…?", "rephrase": "…?", "answers": ["…"], "pred": "…", "alt": "…",
     "loc": "nq question: …", "loc_ans": "…", "cond": "pred >> alt || src"}

`src` is the question, `rephrase` its one back-translated paraphrase, `answers` the gold. `pred` is MEND's
base model's answer and `alt` the false target drawn from that model's beam; neither is about the world, and
both are left out. **But** a variant goes round without `answers` and `pred` (BMIKE-53's file of 10,000), in
which `alt` holds the TRUE answer; there it is taken as gold. With `pred` and without `answers` nothing says
what is true, and the row is refused.

`loc`, an unrelated Natural Questions question, is left out too: what must not change is drawn from the
task's own test set, the same for every editor.

Source: Mitchell et al. 2022, "Fast Model Editing at Scale", arXiv:2110.11309, after Levy et al. 2017,
arXiv:1706.04115, and De Cao et al. 2021, arXiv:2104.08164.
"""

from __future__ import annotations

from pathlib import Path

from kebench.packs.json_records import json_rows
from kebench.packs.questions import question
from kebench.packs.reading import Entry, Reading
from kebench.packs.record import Paraphrase
from kebench.packs.rows import Row

SOURCE = "mend-rephrase"


def read(path: Path) -> Reading:
    """The questions in `path`.

    Raises:
        BadFile: an object lacks a field or holds a wrong one.
    """
    return Reading(tuple(_entry(row) for row in json_rows(path)))


def _entry(row: Row) -> Entry:
    paraphrase = Paraphrase(row.text("rephrase"), SOURCE)
    return question(row.text("src"), _answers(row), [paraphrase], subject=row.text("subject"))


def _answers(row: Row) -> tuple[str, ...]:
    if "answers" not in row.value and "pred" not in row.value:
        return (row.text("alt"),)
    answers = row.texts("answers")
    if not answers:
        row.wrong("answers", [], "at least one answer")
    return answers
