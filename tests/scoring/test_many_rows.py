"""The rows of a run are read and scored one at a time, in memory that hardly grows with their number."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scenes import BASE, TAKES

from kebench.scoring.protocols import STRICT
from kebench.scoring.record import Setting
from kebench.scoring.rows import RowsTally, Trial, read_trials, to_line

SETTING = Setting(
    task="t", task_version=1, pack="p", pack_sha256="", model="m", model_fingerprint="",
    protocol=STRICT.to_json(), targets="alternative", regime="single", retain="sample of 5", seed=0, edits=0,
    edits_sha256="", test_sha256="",
)  # fmt: skip
BYTES_AN_EDIT = 600
"""Its id, its fact and about 20 references. A row of these is 4,000 bytes long, and more when it is read."""


def rows(file: Path, count: int) -> Path:
    """A file of edits whose answers are long."""
    answers = TAKES.to_json()
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            fields = {**answers, "id": f"e{number}", "prompt": f"{number} " + "x" * 4000}
            lines.write(json.dumps({**fields, "edit_seconds": 1.0, "answer_seconds": 1.0}) + "\n")
    return file


def score(file: Path) -> None:
    tally = RowsTally(BASE, SETTING)
    for trial in read_trials(file):
        tally.add(trial)
    assert tally.scores()["final"].success_rate.value == 1


def score_and_keep(file: Path) -> None:
    """The double that must be found out: it holds all rows."""
    tally, kept = RowsTally(BASE, SETTING), list(read_trials(file))
    for trial in kept:
        tally.add(trial)
    tally.scores()


def peak(do: Callable[[Path], None], file: Path) -> int:
    tracemalloc.start()
    try:
        do(file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bytes_an_edit(do: Callable[[Path], None], folder: Path) -> float:
    """How much the peak memory grows with an edit."""
    few, many = rows(folder / "few", 200), rows(folder / "many", 1000)
    peak(do, few)  # what is kept for good, such as normal forms of answers
    peak(do, many)
    return (peak(do, many) - peak(do, few)) / 800


def test_an_edit_takes_little_memory_however_long_its_row_is(tmp_path: Path) -> None:
    assert bytes_an_edit(score, tmp_path) < BYTES_AN_EDIT


def test_rows_that_are_kept_would_be_noticed(tmp_path: Path) -> None:
    assert bytes_an_edit(score_and_keep, tmp_path) > 4000


def test_a_row_does_not_repeat_the_facts_of_the_row_before() -> None:
    facts = tuple(f"fact {number}" for number in range(1000))
    trial = Trial(replace(TAKES, also_edited=facts), 1.0, 1.0)
    first, second = to_line(trial, "key"), to_line(trial, "key", facts)
    assert (len(first) > 10_000, len(second) < 2000) == (True, True)
