"""FEVER as De Cao et al. annotated it (`fever-train-kilt.jsonl`, `fever-dev-kilt.jsonl`).

A KILT row (`kebench.packs.kilt`), one a line, with what they add to it (`kebench.packs.decao`). Where a row
has several answers, the first is the label, as in their code.
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
    """The claims in `path`.

    Raises:
        BadFile: a line lacks a field or holds a wrong one.
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
