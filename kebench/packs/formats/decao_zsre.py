"""zsRE as De Cao et al. annotated it (`structured_zeroshot-train-new_annotated_final.jsonl`, `-dev-…`).

A KILT row (`kebench.packs.kilt`), one a line, but one *template question* a row: `input` is the question,
and the rows of one fact share KILT's `id`. With what the authors add (`kebench.packs.decao`). The subject is
not named, so `id` is the clue to the fact.

The same authors' `…-new.jsonl`, before annotation, has KILT's "subject [SEP] relation" as `input` and is
refused: `kilt_zsre` reads it.
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
    """The questions in `path`.

    Raises:
        BadFile: a line lacks a field or holds a wrong one.
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
