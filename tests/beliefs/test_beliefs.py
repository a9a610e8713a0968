"""The margins of belief: log-odds before and after, their CSV, and their drawing."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny
import torch
from tolerance import through, tolerance
from worlds import World

from kebench.beliefs.beliefs import beliefs_of
from kebench.models.rows import log_odds
from kebench.running.progress import Silent
from kebench.running.run import run

Kebench = Callable[..., tuple[int, str, str]]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_log_odds_are_those_of_the_whole_answer(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    prompts = tiny.prompts(kind, 6)
    answers = base.answer(prompts) if kind == "bert" else ["Oslo", "Rome or Oslo"] * 3
    rows = base.rows(prompts, answers)
    with torch.no_grad():
        logits = base.logits(rows)
    likely = logits.softmax(-1)
    p = [1.0] * len(prompts)
    for place, (row, label) in enumerate(zip(rows.row.tolist(), rows.labels.tolist(), strict=True)):
        p[row] *= likely[place, label].item()
    expected = [math.log(each / (1 - each)) for each in p]
    near = tolerance(torch.float64, **through(base), size=logits.abs().max().item())
    for found, wanted, each in zip(base.log_odds(prompts, answers), expected, p, strict=True):
        assert found == pytest.approx(
            wanted, abs=near / (1 - each)
        )  # d log(p / (1 - p)) = d log(p) / (1 - p)


def test_a_certain_answer_has_finite_log_odds() -> None:
    rows = tiny.model("bert").rows(["a claim"], [tiny.task("bert").labels[1]])
    certain, impossible = torch.tensor([[-500.0, 500.0]]), torch.tensor([[500.0, -500.0]])
    assert log_odds(certain, rows).item() == pytest.approx(36.84, abs=0.01)
    assert log_odds(impossible, rows).item() == pytest.approx(-1000)


@pytest.mark.parametrize("kind", ["bart", "bert"])
def test_identity_moves_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    world: World = request.getfixturevalue("seq2seq" if kind == "bart" else "classifier")
    ((_, _, found),) = beliefs_of(world.settings(tmp_path, "identity", retain=4, limit=3), Silent())
    assert {belief.kind for belief in found} == {"edit", "paraphrase", "retain"}
    assert Counter(belief.kind for belief in found)["edit"] == 3
    assert len({belief.edit for belief in found}) == 3
    # Asked in other batches, in float32; logits of tiny models are below 20.
    near = tolerance(torch.float32, **through(tiny.model(kind)), size=20)
    for belief in found:
        assert belief.after == pytest.approx(belief.before, abs=near)


@pytest.mark.slow
def test_an_edit_that_fails_has_no_belief(
    seq2seq: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"how": "an error"}
    asked = seq2seq.settings(tmp_path, "bad_editors:Misbehaving", settings=settings, retain=4, limit=3)
    ((_, _, found),) = beliefs_of(asked, Silent())
    assert found == []
    assert len([text for text in caplog.messages if text.endswith("failed: RuntimeError: a bug")]) == 3


def test_an_edit_that_succeeds_is_believed(classifier: World, tmp_path: Path) -> None:
    """Of two labels, the answer is the one whose log-odds are above 0: so beliefs and scores agree."""
    settings = classifier.settings(tmp_path, "fine_tuning_all", retain=4, limit=5)
    ((_, _, found),) = beliefs_of(settings, Silent())
    _, (record,) = run(settings, progress=Silent())
    edits = [belief for belief in found if belief.kind == "edit"]
    assert sum(belief.after > 0 for belief in edits) == record.scores.success_rate.value * 5 > 0
    assert all(belief.before < 0 < belief.after - belief.before for belief in edits)
    assert all(belief.before >= 0 for belief in found if belief.kind == "retain")  # 0 where it cannot choose


def drawn(folder: Path, name: str) -> dict[str, int]:
    """How many points of each kind a drawing shows."""
    tree = ElementTree.parse(folder / f"{name}.svg")
    groups = {group.get("id"): group for group in tree.iter(f"{SVG}g")}
    return {kind: len(list(groups[kind].iter(f"{SVG}use"))) for kind in ("edit", "paraphrase", "retain")}


def test_the_command_writes_numbers_and_a_drawing_of_them(
    classifier: World, kebench: Kebench, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="drawings need matplotlib, an extra")
    words = ("--editor", "fine_tuning_first", "--task", classifier.task, "--limit", "3", "--retain", "4")
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        status, out, _ = kebench("beliefs", *words, "--out", folder)
        assert status == 0
        assert out.split() == [str(folder / "fine_tuning_first.svg")]
    with (folders[0] / "fine_tuning_first.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert drawn(folders[0], "fine_tuning_first") == Counter(line["kind"] for line in lines)
    for name in ("fine_tuning_first.csv", "fine_tuning_first.svg"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_an_editor_without_probabilities_is_told_so(
    classifier: World, kebench: Kebench, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="drawings need matplotlib, an extra")
    status, _, err = kebench(
        "beliefs", "--editor", "oracle", "--task", classifier.task, "--out", tmp_path / "x"
    )
    assert status == 2
    assert "editor oracle: its models return answers, but no probabilities to plot" in err


def test_without_matplotlib_the_command_says_what_to_install(
    classifier: World, kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kebench.beliefs.drawing.find_spec", lambda _: None)
    status, _, err = kebench("beliefs", "--editor", "identity", "--task", classifier.task)
    assert status == 2
    assert "pip install 'kebench[plots]'" in err
