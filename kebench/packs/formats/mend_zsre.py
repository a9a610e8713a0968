"""zsRE as MEND, ROME and EasyEdit distribute it (`zsre_mend_train.json`, `…_eval.json`): an array of objects.

    {"subject": "…", "src": "…?", "rephrase": "…?", "answers": ["…"], "pred": "…", "alt": "…",
     "loc": "nq question: …", "loc_ans": "…", "cond": "pred >> alt || src"}

`src` is the question, `rephrase` its one back-translated paraphrase, `answers` the gold. `pred` is MEND's
base model's answer and `alt` the false target drawn from that model's beam; neither is about the world, and
both are left out.

**But** files go round without `answers` and `pred`. In some (BMIKE-53's 10,000) `alt` holds the true answer;
in others it is the false one, as in MEND. Nothing in a row tells which. So such a row is refused unless
`answers_are` says what `alt` holds: as `truth` it is gold; as `counterfactual` the row has no gold answer and
is set aside. With `pred` and without `answers`, `alt` is MEND's false target, and `truth` is refused too.

`loc`, an unrelated Natural Questions question, is left out too: what must not change is drawn from the
task's own test set, the same for every editor.

Source: Mitchell et al. 2022, "Fast Model Editing at Scale", arXiv:2110.11309, after Levy et al. 2017,
arXiv:1706.04115, and De Cao et al. 2021, arXiv:2104.08164.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from kebench.errors import BadFile
from kebench.packs.json_records import json_rows
from kebench.packs.questions import question
from kebench.packs.reading import Reading
from kebench.packs.record import Paraphrase
from kebench.packs.rows import Row
from kebench.task import AnswersAre

GOLD = "answers"
SOURCE = "mend-rephrase"
FALSE_ONLY = "rows whose only answer is a counterfactual"
UNTOLD = (
    "answers: missing, and nothing says whether alt is true; wanted --answers-are true or counterfactual "
    "(in a task's recipe, answers_are: truth or counterfactual)"
)


def read(path: Path, answers_are: AnswersAre | None = None) -> Reading:
    """The questions in `path`.

    Args:
        path: the file.
        answers_are: what `alt` holds in rows that have no `answers`.

    Raises:
        BadFile: an object lacks a field or holds a wrong one; or has `alt` alone, and `answers_are` does not
            say what it holds.
    """
    entries = []
    set_aside: Counter[str] = Counter()
    for row in json_rows(path):
        if answers := _answers(row, answers_are):
            paraphrase = Paraphrase(row.text("rephrase"), SOURCE)
            entries.append(question(row.text("src"), answers, [paraphrase], subject=row.text("subject")))
        else:
            set_aside[FALSE_ONLY] += 1
    return Reading(tuple(entries), set_aside=set_aside)


def _answers(row: Row, answers_are: AnswersAre | None) -> tuple[str, ...]:
    """The gold answers; none where the row holds a false one alone."""
    if "answers" not in row.value:
        if answers_are == "counterfactual":
            return ()
        if "pred" not in row.value:
            alt = row.text("alt")
            if answers_are is None:
                raise BadFile(row.path, UNTOLD, place=row.place)
            return (alt,)
    answers = row.texts("answers")
    if not answers:
        row.wrong("answers", [], "at least one answer")
    return answers
