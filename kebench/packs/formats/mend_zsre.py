"""zsRE as distributed by MEND, ROME and EasyEdit (`zsre_mend_train.json`, `…_eval.json`): a JSON array.

    {"subject": "…", "src": "…?", "rephrase": "…?", "answers": ["…"], "pred": "…", "alt": "…",
     "loc": "nq question: …", "loc_ans": "…", "cond": "pred >> alt || src"}

`src` is the question, `rephrase` its one back-translated paraphrase, `answers` the gold answers. `pred` is
the answer of MEND's base model, and `alt` is a false target taken from that model's beam search. Both are
left out, because they depend on that model.

There are also files without `answers` and `pred`. In some of them (the 10,000 records of BMIKE-53) `alt`
holds the true answer; in others it holds a false one, as in MEND. A row does not show which. So such a row is
refused unless `answers_are` says what `alt` holds. With `truth`, `alt` is the gold answer. With
`counterfactual`, the row has no gold answer and is left out. In a row with `pred` but without `answers`,
`alt` is MEND's false target, and `truth` is refused.

`loc`, an unrelated question from Natural Questions, is left out too. Retain questions are drawn from the
task's own test set, which is the same for all editors.

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
    """Reads the questions in the file `path`.

    Args:
        path: the file.
        answers_are: what `alt` holds in rows without `answers`.

    Raises:
        BadFile: a field is missing or wrong; or `answers_are` is needed and not given.
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
    """Returns the gold answers; none if the row holds only a false one."""
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
