"""`kebench run`: its options and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Kebench, in_a_process, scored
from worlds import World


@pytest.mark.slow
def test_stdout_holds_the_table_and_the_folder(classifier: World, tmp_path: Path) -> None:
    words = ("--editor", "identity,oracle", "--task", classifier.task, "--output", tmp_path / "run")
    done = in_a_process(classifier, tmp_path, "run", *words)
    assert done.returncode == 0, done.stderr
    *table, empty, folder = done.stdout.splitlines()
    assert (empty, folder) == ("", str(tmp_path / "run"))
    assert any("identity" in line for line in table)
    assert any("oracle" in line for line in table)
    assert "edit identity" not in done.stdout
    # The pack and the model, how the toy model's nameless labels are read, then progress, and nothing else.
    told, labels, *progress = done.stderr.splitlines()
    assert told == "toy: pack toy, model tiny"
    assert labels.endswith("model tiny: its labels have no names; assumed: REFUTES, SUPPORTS")
    stages = ("base answers (test): ", "edit identity: ", "edit oracle: ")
    assert all(line.startswith(stages) for line in progress), done.stderr
    assert {line.split(":")[0] for line in progress} >= {"edit identity", "edit oracle"}
    assert "\r" not in done.stderr


FLAGS: dict[str, Any] = {
    "limit": 5, "precision": 30.0, "seed": 3, "protocol": "decao2021", "targets": "alternative", "retain": 7,
    "device": "cpu", "dtype": "bfloat16", "batch_size": 5,
}  # fmt: skip


def test_a_config_file_is_the_same_as_flags(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    flags = [word for name, value in FLAGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ("--editor", "identity, oracle", "--task", classifier.task, "--model", classifier.model)
    assert kebench("run", *words, *flags, "--output", tmp_path / "flags")[0] == 0
    config = {
        "editors": ["identity", "oracle"], "task": str(classifier.task), "model": str(classifier.model),
        "output": str(tmp_path / "file"), **FLAGS,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert kebench("run", "--config", tmp_path / "run.yaml")[0] == 0
    first, second = scored(tmp_path / "flags"), scored(tmp_path / "file")
    assert first.keys() == second.keys() == {"identity", "oracle"}
    for name, record in first.items():
        assert record.setting == second[name].setting
        assert record.scores == second[name].scores
    setting = first["oracle"].setting
    assert (setting.edits, setting.seed, setting.protocol["name"]) == (5, 3, "decao2021")
    assert setting.precision == 30
    assert setting.retain == "sample of 7"
    assert setting.model == "tiny (bfloat16)"
    assert first["oracle"].hardware["batch_limit"] == "5 rows"


def test_flags_win_over_the_file(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    config = {"editors": "identity,oracle", "task": str(classifier.task), "limit": 5, "seed": 3}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    words = ("--config", tmp_path / "run.yaml", "--limit", "2", "--editor", "oracle", "--retain", "exact")
    assert kebench("run", *words, "--seed", "0", "--output", tmp_path / "run")[0] == 0
    ((name, record),) = scored(tmp_path / "run").items()
    assert (name, record.setting.edits, record.setting.seed) == ("oracle", 2, 0)
    assert record.setting.retain == "exact"


def test_settings_given_on_the_command_line_and_in_the_file(
    classifier: World, kebench: Kebench, tmp_path: Path
) -> None:
    config = {
        "editors": "fine_tuning", "task": str(classifier.task), "limit": 1, "output": str(tmp_path / "run"),
        "settings": {"max_steps": 2, "learning_rate": 1.0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    status, out, err = kebench("run", "--config", tmp_path / "run.yaml", "-s", "learning_rate=1e-3")
    assert status == 0, err
    (record,) = scored(tmp_path / "run").values()
    assert record.editor == "fine_tuning_first (learning_rate=0.001, max_steps=2)"
    assert record.editor_settings == {"layers": "first", "learning_rate": 1e-3, "max_steps": 2}
    assert "fine_tuning_first" in out


def test_code_from_elsewhere_is_told(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    words = ("--task", classifier.task, "--limit", "1")
    status, _, err = kebench("run", "--editor", "doubles:Vandal", *words, "--output", tmp_path / "a")
    assert status == 0, err
    assert err.splitlines()[0] == "loading doubles: an editor is code, run only what you trust"
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file in files:
        file.write_text("editor: doubles:Vandal\n")
    status, _, err = kebench("run", "--editor", f"{files[0]},{files[1]}", *words, "--output", tmp_path / "c")
    assert status == 0, err
    assert [line for line in err.splitlines() if "loading" in line] == [
        "loading doubles: an editor is code, run only what you trust"
    ]
    status, _, err = kebench("run", "--editor", "identity", *words, "--output", tmp_path / "b")
    assert status == 0, err
    assert "loading" not in err
