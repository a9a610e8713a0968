"""EREN's cleaned FEVER editing set (`fever_filtered.json`): an array with one object for each edit.

    {"_id": "1", "edit_statement": "…", "edit_scope": [["…", "yes"], ["…", "no"], …],
     "edit_scope_true_ans": ["yes", …], …}

`_id` is the id of a FEVER claim. The first entry of `edit_scope` is the statement that the edit should make
the model believe. The other entries are back-translated paraphrases *of the claim*, each with the answer that
is right if the statement is believed. If that answer is "yes", the statement agrees with the claim: it is the
claim, and the row is a record. If it is "no", the statement contradicts the claim, whose text is not in the
file: then the row is an addition, which holds paraphrases for the FEVER record with the same id.
`edit_scope_true_ans[0]` is the gold answer of the claim (not of a contradicting statement); "yes" means
SUPPORTS. The list may be longer than `edit_scope`.

If a row has no paraphrases, one cannot tell whether its statement is the claim. Such a row is left out.

Source: Chen et al. 2024, "Robust and Scalable Model Editing for Large Language Models", arXiv:2403.17431;
https://github.com/thunlp/EREN.
"""

from __future__ import annotations

from pathlib import Path

from kebench.packs.json_records import json_rows
from kebench.packs.paraphrases import distinct
from kebench.packs.reading import Addition, Entry, Reading
from kebench.packs.record import Paraphrase, Record
from kebench.packs.rows import Row

GOLD = "edit_scope_true_ans"
LABELS = {"yes": "SUPPORTS", "no": "REFUTES"}
SOURCE = "eren"  # back-translations, cleaned by EREN's authors


def read(path: Path) -> Reading:
    """Reads the statements in the file `path` that are claims, and paraphrases of the other claims.

    Raises:
        BadFile: a field is missing or wrong.
    """
    entries, additions = [], []
    n_bare = 0
    for row in json_rows(path):
        id_ = f"fever-{row.identifier('_id')}"
        statement = row.text("edit_statement")
        wanted, paraphrases = _scope(row)
        gold = (_gold(row),)
        if not paraphrases:
            n_bare += 1
        elif wanted == "yes":
            record = Record(id_, "", statement, gold, distinct(statement, paraphrases))
            entries.append(Entry(record))
        else:
            additions.append(Addition(id_, gold, paraphrases))
    set_aside = {"statements without paraphrases": n_bare} if n_bare else {}
    return Reading(tuple(entries), tuple(additions), set_aside, one_answer=True)


def _scope(row: Row) -> tuple[str, tuple[Paraphrase, ...]]:
    """Returns the answer to the claim's paraphrases if the statement is believed, and the paraphrases."""
    scope = row.items("edit_scope")
    for i, item in enumerate(scope):
        match item:
            case [str(text), "yes" | "no"] if text.strip():
                pass
            case _:
                row.wrong(f"edit_scope[{i}]", item, '[text, "yes" or "no"]')
    if not scope:
        row.wrong("edit_scope", scope, "the statement and its paraphrases")
    rest = scope[1:]
    wanted = {answer for _, answer in rest}
    if len(wanted) > 1:
        row.wrong("edit_scope", sorted(wanted), "one answer for all paraphrases")
    return (wanted.pop() if wanted else ""), tuple(Paraphrase(text.strip(), SOURCE) for text, _ in rest)


def _gold(row: Row) -> str:
    answers = row.texts("edit_scope_true_ans")
    if not answers or answers[0] not in LABELS or len(set(answers)) > 1:
        row.wrong("edit_scope_true_ans", list(answers), "one answer, yes or no, throughout")
    return LABELS[answers[0]]
