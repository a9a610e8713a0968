"""A run's folder that was altered: what is on file is compared with the plan and with its checksums."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from kebench.baselines.fine_tuning import FineTuning
from worlds import World

from kebench.errors import BadFile
from kebench.files.checked import sealed
from kebench.files.json import write_json
from kebench.running.folder import open_rows
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.scoring.record import RunRecord

Rows = list[dict[str, Any]]
QUICK = FineTuning(layers="first", learning_rate=1e-2, max_steps=1)
IN_SEQUENCE = {"regime": "sequential", "edits": 4, "batch": 2, "ask_after": (2,)}


def ran(world: World, output: Path, *names: str, **changes: Any) -> list[RunRecord]:
    return run(world.settings(output, *names, limit=12, **changes), progress=Silent())[1]


def change_rows(file: Path, change: Callable[[Rows], Rows]) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in change(rows)), encoding="utf-8")


def without_checksums(output: Path) -> None:
    """Makes a run's folder as it was written before there were checksums."""
    for file in (output / "run.json", *output.glob("*/record.json")):
        write_json({k: v for k, v in json.loads(file.read_text()).items() if k != "sha256"}, file)
    for file in output.glob("*/edits.jsonl"):
        change_rows(file, lambda rows: [{k: v for k, v in row.items() if k != "sha256"} for row in rows])


def all_right(rows: Rows) -> Rows:
    return [{**row, "answer": row["target"]} for row in rows]


def all_right_and_no_checksums(rows: Rows) -> Rows:
    return [{k: v for k, v in row.items() if k != "sha256"} for row in all_right(rows)]


def one_sample_answer(rows: Rows) -> Rows:
    rows[1]["sample"] = dict.fromkeys(rows[1]["sample"], "SUPPORTS")
    return rows


@pytest.mark.parametrize(
    ("change", "line"), [(all_right, 1), (all_right_and_no_checksums, 1), (one_sample_answer, 2)]
)
def test_an_altered_answer_is_named_with_its_line(
    change: Callable[[Rows], Rows], line: int, classifier: World, tmp_path: Path
) -> None:
    ran(classifier, tmp_path, "identity")
    file = tmp_path / "identity" / "edits.jsonl"
    change_rows(file, change)
    with pytest.raises(BadFile, match=rf"edits.jsonl:{line}: was altered, .*; remove the editor's folder"):
        ran(classifier, tmp_path, "identity")


def test_the_rows_of_another_editor_are_not_taken(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, "identity", "oracle")
    rows = (tmp_path / "oracle" / "edits.jsonl").read_bytes()
    (tmp_path / "identity" / "edits.jsonl").write_bytes(rows)
    with pytest.raises(BadFile, match=r"identity/edits.jsonl:1: was altered, or is of another run or editor"):
        ran(classifier, tmp_path, "identity")


def swapped(rows: Rows) -> Rows:
    return [rows[1], rows[0], *rows[2:]]


def twice(rows: Rows) -> Rows:
    return [rows[0], rows[0], *rows[2:]]


@pytest.mark.parametrize(("change", "line"), [(swapped, 1), (twice, 2)])
@pytest.mark.parametrize("regime", ["single", "sequential"])
def test_rows_in_another_order_are_not_what_the_run_asks(
    regime: str, change: Callable[[Rows], Rows], line: int, classifier: World, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {} if regime == "single" else IN_SEQUENCE
    ran(classifier, tmp_path, "identity", **settings)
    change_rows(tmp_path / "identity" / "edits.jsonl", change)
    told = "(id, .*: not what this run asks there|does not follow from the line before it)"
    with pytest.raises(BadFile, match=rf"edits.jsonl:{line}: {told}"):
        ran(classifier, tmp_path, "identity", **settings)


@pytest.mark.parametrize("field", ["prompt", "prediction", "target", "paraphrases", "sample", "held_out"])
def test_rows_older_than_checksums_are_compared_with_the_plan(
    field: str, classifier: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = ran(classifier, tmp_path, "identity")
    file = tmp_path / "identity" / "edits.jsonl"
    without_checksums(tmp_path)
    before = file.read_bytes()
    assert ran(classifier, tmp_path, "identity") == [first]
    assert caplog.messages[-1].endswith("is older than checksums, and its answers are believed as they are")
    assert file.read_bytes() == before

    def altered(rows: Rows) -> Rows:
        other = {"paraphrases": [], "sample": {}, "held_out": True}
        rows[2][field] = other.get(field, "other")
        return rows

    change_rows(file, altered)
    with pytest.raises(BadFile, match=rf"edits.jsonl:3: {field}: not what this run asks there"):
        ran(classifier, tmp_path, "identity")


def test_an_older_run_that_was_cut_off_goes_on(classifier: World, tmp_path: Path) -> None:
    (first,) = ran(classifier, tmp_path, "identity")
    without_checksums(tmp_path)
    file = tmp_path / "identity" / "edits.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:9]))
    assert ran(classifier, tmp_path, "identity")[0].scores == first.scores
    again = file.read_bytes().splitlines(keepends=True)
    assert (again[:8], len(again)) == (lines[:8], 12)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("base.json", '"answer": "SUPPORTS"', '"answer": "REFUTES"'),
        ("identity/scores.json", '"edits": 12', '"edits": 13'),
        ("identity/record.json", '"model": "tiny"', '"model": "gpt-5"'),
        ("identity/record.json", '"test_accuracy": 0', '"test_accuracy": 1'),
    ],
)
def test_what_follows_from_the_rows_is_written_again(
    file: str, old: str, new: str, classifier: World, tmp_path: Path
) -> None:
    ran(classifier, tmp_path, "identity")
    altered, text = tmp_path / file, (tmp_path / file).read_text(encoding="utf-8")
    assert text.count(old)
    altered.write_text(text.replace(old, new, 1), encoding="utf-8")
    ran(classifier, tmp_path, "identity")
    again = altered.read_text(encoding="utf-8")
    if file.endswith("record.json"):  # what this process cost is another
        found, wanted = json.loads(again), json.loads(text)
        assert {**found, "cost": None, "sha256": None} == {**wanted, "cost": None, "sha256": None}
    else:
        assert again == text


def test_a_record_with_a_checksum_of_its_own_is_compared_all_the_same(
    classifier: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = ran(classifier, tmp_path, "identity")
    file = tmp_path / "identity" / "record.json"
    before = file.read_bytes()
    replace(first, setting=replace(first.setting, model="gpt-5")).sealed().write(file)
    assert ran(classifier, tmp_path, "identity") == [first]
    assert file.read_bytes() == before
    assert caplog.messages[-1] == f"{file}: setting: not what the rows give; it is written again"


def test_a_run_file_that_was_altered_is_refused(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, "identity")
    file = tmp_path / "run.json"
    before = file.read_bytes()
    saved = json.loads(before)
    write_json({**saved, "hardware": {"device": "abacus"}}, file)
    with pytest.raises(BadFile, match=r"run.json: was altered: its checksum is not right; remove it"):
        ran(classifier, tmp_path, "identity")
    file.unlink()
    ran(classifier, tmp_path, "identity")
    assert file.read_bytes() == before
    assert sealed(saved) == saved


def test_the_checkpoint_of_another_editor_is_not_taken(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, "identity", "oracle", **IN_SEQUENCE)
    other, mine = (tmp_path / name / "stream.safetensors" for name in ("oracle", "identity"))
    mine.write_bytes(other.read_bytes())
    with pytest.raises(BadFile, match="not the checkpoint of this run's streams"):
        ran(classifier, tmp_path, "identity", **IN_SEQUENCE)


def test_rows_are_on_the_disk_or_not_on_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, plain, done = tmp_path / "edits.jsonl", os.fsync, []

    def full(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) == 2:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error, open_rows(file, keep=0) as add:
        _add_two_groups(add)
    assert error.value.filename == str(file)
    assert file.read_text(encoding="utf-8") == "a\nb\n"
    assert len(done) == 2


def _add_two_groups(add: Callable[[list[str]], None]) -> None:
    add(["a\n", "b\n"])
    add(["c\n"])
