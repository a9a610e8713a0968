"""`kebench ls`."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Kebench
from worlds import World


def test_ls(kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = kebench("ls")
    assert (status, err) == (0, "")
    for name in ("editors:", "knowledge_editor ", "tasks:", "zsre ", "models:", "bart-zsre ", "runs:"):
        assert name in out
    assert "fever " in kebench("ls", "tasks")[1]
    assert "identity" not in kebench("ls", "tasks")[1]


def test_ls_editors_tells_rows_recipes_and_variants(kebench: Kebench) -> None:
    status, out, _ = kebench("ls", "editors")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert "fine_tuning_all fine-tuning, all layers" in lines
    assert "knowledge_editor_beam KnowledgeEditor, KL over 5 hypotheses" in lines
    assert "knowledge_editor @ quick (default), tuned, paper" in lines
    (variants,) = (line for line in lines if line.startswith("knowledge_editor + "))
    assert {"paraphrases", "loop", "beam", "tuned+l2"} <= set(
        variants.removeprefix("knowledge_editor + ").split(", ")
    )


def test_ls_runs(
    classifier: World, kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task)
    assert kebench(*words)[0] == 0
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / "run.json").write_text("{}")
    status, out, err = kebench("ls", "runs")
    assert (status, err) == (0, "")
    broken, fine = out.splitlines()
    assert broken.split() == ["runs/odd", "not", "a", "run's", "folder:", "run.json", "is", "broken"]
    assert fine.strip().startswith("runs/toy-")
    assert fine.endswith("toy, tiny: identity, oracle")
