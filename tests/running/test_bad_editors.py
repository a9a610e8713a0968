"""An editor that misbehaves is stopped or has failed edits; the next editor's numbers stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import doubles
import pytest
import tiny
import torch
from bad_editors import BAD
from kebench.baselines.fine_tuning import FineTuning
from worlds import World

from kebench.edits.editor import AbstractEditor
from kebench.errors import BrokenEditor, KebenchError
from kebench.models.left_behind import sums_of_bits, watching
from kebench.running.folder import FAILURES
from kebench.running.progress import Silent
from kebench.running.run import Outcome, run, run_all

QUICK = {
    "forward hook", "patched forward", "weights written secretly", "weights written, then an error",
    "autocast", "edits changed", "torch's generator", "an error", "sys.exit", "returns None",
    "returns wrong shape", "route raises", "an error that leaves a hook",
}  # fmt: skip
CASES = [how if how in QUICK else tiny.slow(how) for how in BAD]
NEXT = FineTuning(layers="first", learning_rate=1e-2, max_steps=2)
"""The editor after the bad one: it computes gradients, so that what is left behind would show."""


def ran(world: World, output: Path, editors: dict[str, AbstractEditor], **changes: Any) -> Outcome:
    fields = {"limit": 2, "retain": 4, **changes}
    return run_all(world.settings(output, *editors, **fields), editors=editors, progress=Silent())


def rows(output: Path, editor: str) -> list[dict[str, Any]]:
    """The rows without the seconds, and without the checksum, which is of the seconds too."""
    text = (output / editor / "edits.jsonl").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    return [
        {key: value for key, value in row.items() if not key.endswith(("seconds", "sha256"))} for row in found
    ]


def test_there_are_more_than_60() -> None:
    assert len(BAD) >= 60


@pytest.mark.parametrize("how", CASES)
def test_a_bad_editor_spoils_nothing_of_the_next_one(
    how: str, seq2seq: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, editor = BAD[how]
    timeout = {"edit_timeout": 0.3} if "slow" in how else {}
    ran(seq2seq, tmp_path / "alone", {"next": NEXT, "nothing": doubles.NoEdit()}, **timeout)
    with watching() as left:
        outcome = ran(seq2seq, tmp_path / "both", {"bad": editor, "next": NEXT}, **timeout)
    assert (left.harmful, left.harmless) == ([], [])
    assert rows(tmp_path / "both", "next") == rows(tmp_path / "alone", "next")
    scores = {record.editor: record.scores for record in outcome.records}
    failures = tmp_path / "both" / "bad" / FAILURES
    if expected == "broken":
        assert list(outcome.stopped) == ["bad"]
        assert "\n" not in str(outcome.error())
        assert not (tmp_path / "both" / "bad" / "record.json").exists()
        return
    assert outcome.stopped == {}
    if expected == "harmless":
        assert rows(tmp_path / "both", "bad") == rows(tmp_path / "alone", "nothing")
        return
    assert scores["bad"].n_failures == scores["bad"].edits == 2
    assert outcome.all_failed().startswith("every edit failed: bad (")
    if how != "returns not finite":  # the file is for what has more to tell than the row
        told = [json.loads(line) for line in failures.read_text().splitlines()]
        assert [each["id"] for each in told] == [row["id"] for row in rows(tmp_path / "both", "bad")]
        assert all(each["traceback"] for each in told)
        assert f"editor bad: edit {told[0]['id']} failed" in caplog.text


def test_what_is_harmless_is_told_once(
    seq2seq: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kebench.edits.calls._warned", set())
    ran(seq2seq, tmp_path, {"bad": BAD["torch's generator"][1]}, limit=12)
    told = [each for each in caplog.messages if "random numbers drawn from a global generator" in each]
    assert len(told) == 1
    assert "bad_editors:Misbehaving" in told[0]


def test_fail_fast_stops_at_the_first_failed_edit(seq2seq: World, tmp_path: Path) -> None:
    editors = {"bad": BAD["an error"][1], "next": NEXT}
    with pytest.raises(KebenchError, match=r"editor bad: edit r\d+ failed: RuntimeError .*a bug.*; the"):
        ran(seq2seq, tmp_path, editors, fail_fast=True)
    assert len((tmp_path / "bad" / FAILURES).read_text().splitlines()) == 1
    assert rows(tmp_path, "bad") == []
    assert not (tmp_path / "next").exists()


def test_a_failed_batch_leaves_the_stream_as_it_was(seq2seq: World, tmp_path: Path) -> None:
    for how in ("an error", "weights written, then an error", "route raises"):
        expected, editor = BAD[how]
        sequence = {"regime": "sequential", "edits": 4, "batch": 2, "limit": 4}
        outcome = ran(seq2seq, tmp_path / how, {"bad": editor, "next": NEXT}, **sequence)
        ran(seq2seq, tmp_path / "alone", {"next": NEXT}, **sequence)
        assert rows(tmp_path / how, "next") == rows(tmp_path / "alone", "next")
        if expected == "broken":
            assert list(outcome.stopped) == ["bad"]
        else:
            assert outcome.records[0].scores.n_failures == outcome.records[0].scores.edits
            assert (tmp_path / how / "bad" / FAILURES).is_file()


def test_a_model_that_was_given_and_written_to_is_used_no_more(seq2seq: World, tmp_path: Path) -> None:
    from kebench.models.load import load_model
    from kebench.task import load_task

    model = load_model(str(seq2seq.model), task=load_task(str(seq2seq.task)), device="cpu")
    editors: dict[str, AbstractEditor] = {"bad": BAD["weights written"][1], "next": NEXT}
    settings = seq2seq.settings(tmp_path, *editors, limit=2, retain=4)
    with pytest.raises(BrokenEditor, match="the editors after it were not run: a model that was given"):
        run(settings, editors=editors, model=model, progress=Silent())
    assert not (tmp_path / "next").exists()


def test_all_editors_that_were_stopped_are_named(seq2seq: World, tmp_path: Path) -> None:
    editors = {"one": BAD["forward hook"][1], "two": BAD["autocast"][1]}
    error = ran(seq2seq, tmp_path, editors).error()
    assert str(error).startswith("2 editors were stopped: one: bad_editors:Misbehaving (")
    assert "; two: bad_editors:Misbehaving (" in str(error)
    assert "left behind a forward hook" in str(error)
    assert "left behind autocast" in str(error)


def test_the_sums_of_bits_see_one_weight_and_rows_that_change_places() -> None:
    network = tiny.model("bart", dtype=torch.bfloat16).network
    weight = next(weight for weight in network.parameters() if weight.ndim == 2)
    before = sums_of_bits(network)
    weight.data[:2] = weight.data[:2].flip(0)
    assert sums_of_bits(network) != before
    weight.data[:2] = weight.data[:2].flip(0)
    assert sums_of_bits(network) == before
    weight.data[0, 0] *= 2
    assert sums_of_bits(network) != before


def test_a_torch_generator_of_its_own_is_no_fault() -> None:
    with watching() as left:
        torch.rand(2, generator=torch.Generator().manual_seed(0))
    assert left.harmless == []
