"""`kebench leaderboard`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Kebench
from worlds import World

from kebench.files.checked import SHA256, sealed
from kebench.files.json import write_json


def test_from_run_to_leaderboard(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    run, boards = tmp_path / "run", tmp_path / "boards"
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task, "--output", run)
    assert kebench(*words)[0] == 0
    status, out, err = kebench("leaderboard", run, "--folder", boards)
    assert (status, err) == (0, "")
    assert all(Path(line).is_file() for line in out.splitlines())
    assert kebench("leaderboard", "--check", "--folder", boards)[0] == 0
    (table,) = (path for path in boards.rglob("*.md") if path.name != "README.md")
    table.write_text(table.read_text().replace("100.00", "99.00"))
    status, out, err = kebench("leaderboard", "--check", "--folder", boards)
    assert status == 2
    assert str(table.name) in out
    assert len(err.splitlines()) == 1


@pytest.fixture
def finished(classifier: World, kebench: Kebench, tmp_path: Path) -> Path:
    """The folder of a run that is done."""
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task, "--limit", "8")
    assert kebench(*words, "--output", tmp_path / "run")[0] == 0
    return tmp_path / "run"


def refused(kebench: Kebench, run: Path, said: str) -> None:
    boards = run.parent / "boards"
    status, out, err = kebench("leaderboard", run, "--folder", boards)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not boards.exists()


def change(file: Path, **fields: object) -> None:
    write_json(sealed({**json.loads(file.read_text(encoding="utf-8")), **fields}), file)


def test_scores_that_the_rows_do_not_give_are_not_added(finished: Path, kebench: Kebench) -> None:
    identity, oracle = (
        json.loads((finished / name / "record.json").read_text()) for name in ("identity", "oracle")
    )
    change(finished / "identity" / "record.json", scores=oracle["scores"])
    refused(kebench, finished, "identity/record.json: scores.")
    change(
        finished / "identity" / "record.json",
        scores=identity["scores"],
        setting={**identity["setting"], "model": "gpt-5"},
    )
    refused(kebench, finished, "identity/record.json: setting: not that of ")


def test_files_of_a_run_that_were_altered_are_not_added(finished: Path, kebench: Kebench) -> None:
    rows = finished / "oracle" / "edits.jsonl"
    before = rows.read_bytes()
    rows.write_bytes((finished / "identity" / "edits.jsonl").read_bytes())
    refused(kebench, finished, "oracle/edits.jsonl:1: was altered, or is of another run or editor")
    rows.unlink()
    refused(kebench, finished, "oracle/edits.jsonl: cannot be read (FileNotFoundError)")
    rows.write_bytes(before.splitlines(keepends=True)[0])
    refused(kebench, finished, "oracle/record.json: scores.")
    rows.write_bytes(before)
    base = finished / "base.json"
    text = base.read_text(encoding="utf-8")
    base.write_text(text.replace("SUPPORTS", "REFUTES", 1), encoding="utf-8")
    refused(kebench, finished, "base.json: not the base answers of ")
    base.write_text(text, encoding="utf-8")
    write_json({**json.loads((finished / "run.json").read_text()), "hardware": {}}, finished / "run.json")
    refused(kebench, finished, "run.json: was altered")


def test_a_run_older_than_checksums_is_added(finished: Path, kebench: Kebench, tmp_path: Path) -> None:
    for file in finished.rglob("*.json*"):
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            kept = [{name: row[name] for name in row if name != SHA256} for row in rows]
            file.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
        elif isinstance(fields := json.loads(file.read_text(encoding="utf-8")), dict):
            write_json({name: fields[name] for name in fields if name != SHA256}, file)
    assert kebench("leaderboard", finished, "--folder", tmp_path / "boards")[0] == 0
    (record, _) = sorted((tmp_path / "boards").glob("*/records/*.json"))
    assert SHA256 not in json.loads(record.read_text(encoding="utf-8"))


def test_records_without_their_run_are_believed_with_a_warning(
    finished: Path, kebench: Kebench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = tmp_path / "alone" / "identity" / "record.json"
    alone.parent.mkdir(parents=True)
    alone.write_bytes((finished / "identity" / "record.json").read_bytes())
    assert kebench("leaderboard", tmp_path / "alone", "--folder", tmp_path / "boards")[0] == 0
    assert any(f"{alone}: is not in a run's folder" in line for line in caplog.messages)
