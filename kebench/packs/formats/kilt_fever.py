"""FEVER as distributed by KILT: `input` is a claim, `output[].answer` is SUPPORTS or REFUTES.

KILT has no paraphrases. So its records are test questions, and can be edited only if paraphrases from another
source are merged in (`eren`, `decao_fever`; a claim has the same id, that of FEVER, in all of them). The
fields of a row and the possible sources are described in `kebench.packs.kilt`.
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
    """Reads the labelled claims of a source; claims without a label (KILT's test split) are counted.

    Raises:
        BadFile: a field is missing or wrong.
        NotFound, BadSetting: as for `kilt_rows`.
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
    """Returns the claim in a row, or None if it has no label.

    Args:
        row: a row of KILT, or of a file made from KILT.
        first: if True, the first answer is the label and others are ignored; otherwise two answers are an
            error.

    Raises:
        BadFile: a field is missing or wrong.
    """
    id_, prompt, answers = f"fever-{row.identifier('id')}", row.text("input"), answers_of(row)
    if not answers:
        return None
    if first:
        answers = answers[:1]
    if len(answers) > 1 or answers[0] not in LABELS:
        row.wrong("output", list(answers), f"one answer, {one_of(LABELS)}")
    return Entry(Record(id_, "", prompt, answers), provenance_clues(row))
