"""zsRE with De Cao et al.'s annotations (`structured_zeroshot-train-new_annotated_final.jsonl`, `-dev-…`).

Each line is a KILT row (`kebench.packs.kilt`) with the fields that the authors add (`kebench.packs.decao`).
Unlike in KILT, each row has one *template question*, in `input`, and the rows of one fact share KILT's `id`.
The subject is not given, so `id` is used as the clue that identifies the fact.

The same authors' `…-new.jsonl`, the file without annotations, has KILT's "subject [SEP] relation" as `input`.
It is refused here; the format `kilt_zsre` reads it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from kebench.packs.decao import annotated
from kebench.packs.json_records import json_rows
from kebench.packs.kilt import answers_of
from kebench.packs.questions import question
from kebench.packs.reading import Entry, Reading

GOLD = "output"


def read(path: Path) -> Reading:
    """Reads the questions in the file `path`.

    Raises:
        BadFile: a field is missing or wrong.
    """
    entries = []
    set_aside: Counter[str] = Counter()
    for row in json_rows(path):
        prompt = row.text("input")
        if "[SEP]" in prompt:
            row.wrong("input", prompt, "a question (the format kilt_zsre reads 'subject [SEP] relation')")
        clue = f"kilt:{row.identifier('id')}"
        if answers := answers_of(row):
            entry = question(prompt, answers)
            record, left_out = annotated(entry.record, row)
            set_aside.update(left_out)
            entries.append(Entry(record, entry.clues | {clue}))
        else:
            set_aside["rows without output"] += 1
    return Reading(tuple(entries), set_aside=set_aside)
