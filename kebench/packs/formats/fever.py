"""FEVER 1.0 as published (`paper_dev.jsonl`, `train.jsonl`, …): one claim on each line.

    {"id": 1, "label": "SUPPORTS", "claim": "…",
     "evidence": [[[annotation, evidence, page, sentence], …], …], …}

`label` is SUPPORTS, REFUTES or NOT ENOUGH INFO. Claims with the last label are left out, because they state
no fact that could be edited. Each set in `evidence` lists sentences of Wikipedia pages; all of these
sentences are clues that identify the fact. Some copies of the data set hold the numbers as text, the text of
the sentences in place of their numbers, or no evidence. Their claims are read all the same.

Source: Thorne et al. 2018, "FEVER: a large-scale dataset for Fact Extraction and VERification",
arXiv:1803.05355; https://fever.ai.
"""

from __future__ import annotations

from pathlib import Path

from kebench.packs.facts import sentence_clue
from kebench.packs.json_records import json_rows
from kebench.packs.reading import Entry, Reading
from kebench.packs.record import Record
from kebench.packs.rows import Row
from kebench.scoring.normalise import normalise

GOLD = "label"
LABELS = ("SUPPORTS", "REFUTES")
UNDECIDED = "NOT ENOUGH INFO"


def read(path: Path) -> Reading:
    """Reads the supported and refuted claims in the file `path`.

    Raises:
        BadFile: a field is missing or wrong.
    """
    entries = []
    n_undecided = 0
    for row in json_rows(path):
        label = row.choice("label", (*LABELS, UNDECIDED))
        claim = row.text("claim")
        id_ = f"fever-{row.identifier('id')}"
        if label == UNDECIDED:
            n_undecided += 1
        else:
            entries.append(Entry(Record(id_, "", claim, (label,)), _clues(row)))
    set_aside = {"claims labelled NOT ENOUGH INFO": n_undecided} if n_undecided else {}
    return Reading(tuple(entries), set_aside=set_aside, one_answer=True)


def _clues(row: Row) -> frozenset[str]:
    clues = set()
    if not row.has("evidence"):
        return frozenset()
    evidence = row.value["evidence"]
    for i, sentences in enumerate([evidence] if isinstance(evidence, str) else row.items("evidence")):
        for found in sentences if isinstance(sentences, list) else [sentences]:
            match found:
                case str(text):
                    if text.strip():
                        clues.add(f"text:{normalise(text)}")
                case [_, _, str(page), int(sentence)] if page.strip():
                    clues.add(sentence_clue(page, sentence))
                case [_, _, str(page), str(sentence)] if page.strip() and sentence.strip().isdecimal():
                    clues.add(sentence_clue(page, int(sentence)))
                case _:
                    row.wrong(
                        f"evidence[{i}]", found, "texts, or sets of [annotation, evidence, page, sentence]"
                    )
    return frozenset(clues)
