"""FEVER as KILT distributes it: a claim as `input`, SUPPORTS or REFUTES as `output[].answer`.

KILT holds no paraphrases: its records test, and are edited only once paraphrases are merged in (`eren`,
`decao_fever`; a claim keeps FEVER's id in all of them). What a row looks like and where it may come from:
`kebench.packs.kilt`.
"""

from __future__ import annotations

from pathlib import Path

from kebench.packs.formats.fever import LABELS
from kebench.packs.kilt import answers_of, kilt_rows, provenance_clues
from kebench.packs.reading import Entry, Reading
from kebench.packs.record import Record
from kebench.packs.rows import Row, one_of

GOLD = "output"
UNLABELLED = "rows without output"


def read(source: Path | str, configuration: str = "fever", revision: str | None = None) -> Reading:
    """The labelled claims of a source; those without a label (KILT's test split) are counted.

    Raises:
        BadFile: a row lacks a field or holds a wrong one.
        NotFound, BadSetting: as `kilt_rows` says.
    """
    entries = []
    n_unlabelled = 0
    for row in kilt_rows(source, configuration, revision):
        if entry := claim(row):
            entries.append(entry)
        else:
            n_unlabelled += 1
    set_aside = {UNLABELLED: n_unlabelled} if n_unlabelled else {}
    return Reading(tuple(entries), set_aside=set_aside, one_answer=True)


def claim(row: Row, *, first: bool = False) -> Entry | None:
    """The claim in a row, or None where it has no label.

    Args:
        row: of KILT, or of files made from it.
        first: the first answer is the label, whatever follows; otherwise two are an error.

    Raises:
        BadFile: the row lacks a field or holds a wrong one.
    """
    id_, prompt, answers = f"fever-{row.identifier('id')}", row.text("input"), answers_of(row)
    if not answers:
        return None
    if first:
        answers = answers[:1]
    if len(answers) > 1 or answers[0] not in LABELS:
        row.wrong("output", list(answers), f"one answer, {one_of(LABELS)}")
    return Entry(Record(id_, "", prompt, answers), provenance_clues(row))
