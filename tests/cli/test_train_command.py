"""`kebench train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Kebench, in_a_process, scored
from worlds import World, task_text


@pytest.mark.slow
def test_train_is_quiet_too(tmp_path: Path, make_world: Callable[..., World]) -> None:
    world = make_world("bert", paraphrases=False)
    recipe = {"start": str(world.model), "training": {"max_steps": 2, "batch_size": 2, "evaluate_every": 1}}
    (tmp_path / "toy.yaml").write_text(task_text("bert", models={"tiny": recipe}))
    words = ("train", "--base", "tiny", "--task", "toy.yaml", "--out", tmp_path / "model")
    done = in_a_process(world, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "model")
    assert all(line.startswith("train tiny: ") for line in done.stderr.splitlines()), done.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_train_prepares_what_a_run_then_uses(seq2seq: World, kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "editor: kebench.baselines.knowledge_editor:KnowledgeEditor\n"
        "settings: {steps: 2, edits_per_step: 2, retain_per_edit: 2, lstm_size: 4, condition_size: 8,\n"
        "  head_size: 4, validate_every: 1, validate_edits: 2, scale: 9}\n"
    )
    words = ("--editor", tmp_path / "small.yaml", "--task", seq2seq.task)
    status, out, err = kebench("train", *words)
    assert status == 0, err
    folder = Path(out.splitlines()[-1])
    assert (folder / "state.safetensors").is_file()
    seconds = json.loads((folder / "state.json").read_text())["seconds"]
    status, _, err = kebench("run", *words, "--limit", "2", "--output", tmp_path / "run")
    assert status == 0, err
    assert "prepare" not in err
    assert scored(tmp_path / "run")["small"].cost.prepare_seconds == seconds
