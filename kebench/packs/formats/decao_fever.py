"""FEVER as De Cao et al. annotated it (`fever-train-kilt.jsonl`, `fever-dev-kilt.jsonl`).

A KILT row (`kebench.packs.kilt`), one a line, with paraphrases of its claim (`kebench.packs.decao`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from kebench.packs.decao import BLANK, rephrases
from kebench.packs.formats.kilt_fever import UNLABELLED, claim
from kebench.packs.json_records import json_rows
from kebench.packs.paraphrases import distinct
from kebench.packs.reading import Reading


def read(path: Path) -> Reading:
    """The claims in `path`.

    Raises:
        BadFile: a line lacks a field or holds a wrong one.
    """
    entries = []
    set_aside: Counter[str] = Counter()
    for row in json_rows(path):
        paraphrases, n_blank = rephrases(row)
        set_aside[BLANK] += n_blank
        if entry := claim(row):
            record = replace(entry.record, paraphrases=distinct(entry.record.prompt, paraphrases))
            entries.append(replace(entry, record=record))
        else:
            set_aside[UNLABELLED] += 1
    return Reading(tuple(entries), set_aside=+set_aside, one_answer=True)
