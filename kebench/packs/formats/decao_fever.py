"""FEVER with De Cao et al.'s annotations (`fever-train-kilt.jsonl`, `fever-dev-kilt.jsonl`).

Each line is a KILT row (`kebench.packs.kilt`) with the fields that the authors add (`kebench.packs.decao`).
If a row has several answers, the first is the label, as in the authors' code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from kebench.packs.decao import annotated
from kebench.packs.formats.fever import LABELS
from kebench.packs.formats.kilt_fever import UNLABELLED, claim
from kebench.packs.json_records import json_rows
from kebench.packs.reading import Reading

GOLD = "output"


def read(path: Path) -> Reading:
    """Reads the claims in the file `path`.

    Raises:
        BadFile: a field is missing or wrong.
    """
    entries = []
    set_aside: Counter[str] = Counter()
    for row in json_rows(path):
        if entry := claim(row, first=True):
            record, left_out = annotated(entry.record, row, LABELS)
            set_aside.update(left_out)
            entries.append(replace(entry, record=record))
        else:
            set_aside[UNLABELLED] += 1
    return Reading(tuple(entries), set_aside=set_aside, one_answer=True)
