"""A full disk, or one that cannot be written: one line and status 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from commands import Kebench
from worlds import World, task_fields

FREE_KILOBYTES = (0, 4, 12, 40, 120, 400)
CLAIMS = "".join(
    json.dumps({"id": n, "claim": f"{name} was born in Rome.", "label": "SUPPORTS"}) + "\n"
    for n, name in enumerate(("Ann", "Bob", "Cy", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon"))
)
ARCHITECTURE = {
    "model_type": "bert", "vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 32,
}  # fmt: skip
TRAINING = {"max_steps": 2, "evaluate_every": 1, "batch_size": 2, "warmup_steps": 0}
COMMANDS = (
    "run", "run in streams", "run with a new home", "tune", "train an editor", "train a base model",
    "import", "build", "leaderboard", "edit", "edit to an adapter",
)  # fmt: skip


@pytest.fixture
def words(
    classifier: World, kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], list[str | Path]]:
    """Makes what a command needs, and returns its words: what it writes lies in a folder."""

    def found(command: str, disk: Path) -> list[str | Path]:
        task = classifier.task
        run = ["run", "--editor", "identity,doubles:Dial", "--task", task, "--limit", "8"]
        match command:
            case "run":
                return [*run, "--output", disk / "run"]
            case "run in streams":
                return [*run, "--regime", "batch", "--batch", "2", "--output", disk / "run"]
            case "run with a new home":
                monkeypatch.setenv("KEBENCH_HOME", str(disk / "home"))
                for room in ("packs", "models"):
                    if not (disk / "home" / room).exists():
                        shutil.copytree(classifier.home / room, disk / "home" / room)
                return [*run, "--output", tmp_path / "run of a new home"]
            case "tune":
                grid = tmp_path / "grid.yaml"
                grid.write_text("reach: [nothing, prompt]\n")
                editor = ["--editor", "doubles:Dial", "--grid", grid]
                (tmp_path / "tune.yaml").write_text(yaml.safe_dump(task_fields("bert", paraphrases="all")))
                return [
                    "tune",
                    *editor,
                    "--task",
                    tmp_path / "tune.yaml",
                    "--limit",
                    "2",
                    "--output",
                    disk / "tune",
                ]
            case "train an editor":
                words = found("run with a new home", disk)
                assert words
                return ["train", "--editor", "doubles:Dial", "--task", task]
            case "train a base model":
                fields = task_fields(
                    "bert", models={"tiny": {"architecture": ARCHITECTURE, "training": TRAINING}}
                )
                (tmp_path / "train.yaml").write_text(yaml.safe_dump(fields))
                return ["train", "--base", "tiny", "--task", tmp_path / "train.yaml", "--out", disk / "model"]
            case "import":
                (tmp_path / "toy.jsonl").write_text(CLAIMS)
                source = tmp_path / "toy.jsonl"
                return ["data", "import", "--format", "fever", source, "--out", disk / "pack"]
            case "build":
                (tmp_path / "toy.jsonl").write_text(CLAIMS)
                return ["data", "build", task, "--from", tmp_path, "--out", disk / "pack"]
            case "leaderboard":
                if not (tmp_path / "done").exists():
                    assert kebench(*run, "--output", tmp_path / "done")[0] == 0
                return ["leaderboard", tmp_path / "done", "--folder", disk / "boards"]
            case _:
                what = "--save" if command == "edit" else "--lora"
                question = ["--prompt", "Ann Dunn was born in Rome", "--target", "REFUTES"]
                editor = ["--editor", "fine_tuning", "--task", task]
                rank = [] if command == "edit" else ["--rank", "2"]
                return ["edit", *editor, *question, what, disk / "edited", *rank]

    return found


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at a folder, for those who may mount one."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a model's weights may still be mapped


def one_line(result: tuple[int, str, str], *said: str) -> None:
    status, _, err = result
    last = err.splitlines()[-1]
    assert "Traceback" not in err, err
    assert (status, last.startswith("kebench: ")) == (2, True), err
    assert any(each in last for each in said), last


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(
    command: str, words: Callable[[str, Path], list[str | Path]], kebench: Kebench, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=16m"):
        full = 0
        for kilobytes in FREE_KILOBYTES:
            line = words(command, disk)
            fill(disk, kilobytes)
            result = kebench(*line)
            (disk / "filler").unlink()
            if result[0] == 0:
                break
            full += 1
            one_line(result, "No space left on device")
            assert not half_written(disk)
        assert full
        assert kebench(*words(command, disk))[0] == 0  # goes on from there


def fill(disk: Path, kilobytes: int) -> None:
    """Leaves that much space on a disk."""
    free = shutil.disk_usage(disk).free - kilobytes * 1024
    with (disk / "filler").open("wb") as file:
        file.write(b"\0" * free)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_cannot_be_written(
    command: str, words: Callable[[str, Path], list[str | Path]], kebench: Kebench, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=16m"):
        line = words(command, disk)
        before = sorted(disk.rglob("*"))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        one_line(kebench(*line), "Read-only file system")
        assert sorted(disk.rglob("*")) == before


IN_A_FOLDER = [
    pytest.param(each, marks=() if each in ("run", "import", "leaderboard") else pytest.mark.slow)
    for each in COMMANDS
    if "home" not in each and "an editor" not in each
]


@pytest.mark.parametrize("command", IN_A_FOLDER)
@pytest.mark.parametrize("obstacle", ["a file in the way", "a file above", "a long name"])
def test_a_folder_that_cannot_be_made(
    obstacle: str,
    command: str,
    words: Callable[[str, Path], list[str | Path]],
    kebench: Kebench,
    tmp_path: Path,
) -> None:
    line = words(command, tmp_path / "place")
    place = next(word for word in line if isinstance(word, Path) and word.parent == tmp_path / "place")
    other = place
    if obstacle == "a long name":
        other = place.with_name("x" * 300)
    else:
        file = place if obstacle == "a file in the way" else place.parent
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    result = kebench(*(other if word == place else word for word in line))
    one_line(
        result,
        "File exists",
        "Not a directory",
        "File name too long",
        "is a file",
        "exists and is not",
        "no such folder",
    )
    if obstacle != "a long name":
        assert file.read_text() == "mine"
