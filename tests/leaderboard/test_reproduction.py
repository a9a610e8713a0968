"""REPRODUCTION.md quotes records: each score it shows of test edits is one of theirs, rounded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")

ROWS = {
    "fine-tuning, first layer": "fine_tuning_first",
    "fine-tuning, all layers": "fine_tuning_all",
    "constrained, first layer": "constrained_first",
    "constrained, all layers": "constrained_all",
    "preconditioned step + loop": "preconditioned_step",
    "KnowledgeEditor": "knowledge_editor",
    "+ loop": "knowledge_editor_loop",
    "+ P^x": "knowledge_editor_paraphrases",
    "+ P^x + loop": "knowledge_editor_paraphrases_loop",
    "KnowledgeEditor, C_L2": "knowledge_editor_l2",
    "KnowledgeEditor, KL over 5 hypotheses": "knowledge_editor_beam",
    "control: noise of the same size": "random_update",
}
COLUMNS = {
    "Success": "success_rate",
    "Equivalence": "equivalence_target",
    "Retain": "retain_accuracy",
    "Deterioration": "performance_deterioration",
}
INTERVAL = re.compile(r"-?\d+\.\d+ \[-?\d+\.\d+, -?\d+\.\d+\]")


def records(below: str) -> dict[str, Any]:
    """The records whose path begins so, by editor."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob(f"leaderboards/{below}*.json")
    ]
    return {record["editor"]: record for record in found}


def shown(score: dict[str, Any], digits: int = 1) -> str:
    """A score as the page prints it, in percent."""
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def published(below: str, column: str) -> dict[str, str]:
    """A column of the leaderboard's own table of these records, by editor."""
    task, _, name = below.partition("/records/")
    table = (ROOT / "leaderboards" / task / f"{name.rpartition('--')[0]}.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    start = next(number for number, cells in enumerate(lines) if cells[0] == "Editor")
    place = lines[start].index(column)
    whole = lines[start + 2 :]
    rows = whole[: next((number for number, cells in enumerate(whole) if len(cells) == 1), len(whole))]
    return {cells[0].removesuffix(" (control)"): cells[place] for cells in rows}


def tables() -> Iterator[tuple[str, list[list[str]]]]:
    """Each marked table: which records it is of, and its cells, the heads first."""
    for mark in re.finditer(r"<!-- records: (\S+) -->\n\n((?:\|.*\n)+)", PAGE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in mark[2].splitlines()]
        yield mark[1], [lines[0], *lines[2:]]


@pytest.mark.parametrize(("below", "cells"), list(tables()), ids=[below for below, _ in tables()])
def test_a_tables_rows_are_their_records(below: str, cells: list[list[str]]) -> None:
    (_, _, *heads), *rows = cells
    known = records(below)
    for label, tuned, *scores in rows:
        assert tuned == published(below, "Tuned")[ROWS[label]]
        expected = [shown(known[ROWS[label]]["scores"][COLUMNS[head]]) for head in heads]
        assert scores == expected, f"{label}: the record has | {' | '.join(expected)} |"
    # A record that came later has its row; the two controls of known score stand in the leaderboards alone.
    assert {ROWS[label] for label, *_ in rows} == known.keys() - {"identity", "oracle"}


def test_every_table_of_rows_is_marked() -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines()]
    rows = [cells for cells in lines if cells[0] in ROWS and INTERVAL.search(cells[2])]
    assert rows == [row for _, cells in tables() for row in cells[1:]]


def test_every_interval_in_the_text_is_a_records_or_a_trials() -> None:
    of_records = {
        shown(score, digits)
        for path in ROOT.glob("leaderboards/*/records/*.json")
        for score in json.loads(path.read_text(encoding="utf-8"))["scores"].values()
        if isinstance(score, dict) and score.get("value") is not None
        for digits in (1, 2)
    }
    of_trials = {
        shown(score, digits)
        for path in ROOT.glob("leaderboards/*/tuning/*.json")
        for trial in json.loads(path.read_text(encoding="utf-8"))["trials"]
        for score in trial.values()
        if isinstance(score, dict) and score.get("value") is not None
        for digits in (1, 2)
    }
    found = set(INTERVAL.findall(PAGE))
    assert found
    assert found <= of_records | of_trials, sorted(found - of_records - of_trials)
