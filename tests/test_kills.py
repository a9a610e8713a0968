"""Commands that are killed at random times and repeated: they end in the bytes of an undisturbed command.

Each kill is a SIGKILL, which no process can handle. A round begins with empty folders; the command is killed
one to three times, and then repeated until it ends. What it wrote is compared with what a command wrote that
was not killed: all files, without the measured times. A few kills are tried in the suite. More are tried by

    KEBENCH_KILLS=100 pytest -n 0 -m slow -s tests/test_kills.py

which kills at other times each time, and prints how many kills there were.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import yaml
from commands import contents
from worlds import World, make, task_fields

from kebench.cli import main

KILLS = int(os.environ.get("KEBENCH_KILLS", "12"))
SEED = 0 if "KEBENCH_KILLS" not in os.environ else time.time_ns()
PATIENCE_SECONDS = 120

# Processes -------------------------------------------------------------------------------------------

PROCESSES: Any = multiprocessing.get_context("forkserver")
"""Each command runs in a process that has imported its modules already, so that kills hit its work."""
PROCESSES.set_forkserver_preload(
    ["kebench.cli.run", "kebench.cli.train", "kebench.baselines.knowledge_editor"]
)


class Ended(NamedTuple):
    """How a command ended, and how long it took."""

    killed: bool
    seconds: float


def command(words: tuple[str, ...], home: Path, log: Path, begun: Connection) -> None:
    """Runs a command in a process of its own. Its output goes to a file."""
    os.environ["KEBENCH_HOME"] = str(home)
    sys.argv = ["kebench", *words]
    with log.open("a") as text, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        begun.send(None)
        main()


def run(words: tuple[str, ...], home: Path, log: Path, *, kill_after: float | None = None) -> Ended:
    """Runs a command, and kills it after some seconds if it has not ended."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=command, args=(words, home, log, there))
    process.start()
    there.close()
    here.recv()
    began = time.monotonic()
    process.join(PATIENCE_SECONDS if kill_after is None else kill_after)
    if process.is_alive():
        process.kill()
        process.join()
    ended = Ended(process.exitcode == -signal.SIGKILL, time.monotonic() - began)
    assert process.exitcode == 0 or (ended.killed and kill_after is not None), log.read_text()
    return ended


# Commands --------------------------------------------------------------------------------------------

CLAIMS = "".join(
    f'{{"id": {n}, "label": "{("SUPPORTS", "REFUTES")[n % 2]}", "claim": "Person {n} lives in town {n}.",'
    f' "evidence": [[[{n}, {n}, "Person_{n}", 0]]]}}\n'
    for n in range(40)
)
EDITOR = """
editor: kebench.baselines.knowledge_editor:KnowledgeEditor
settings: {steps: 12, edits_per_step: 2, retain_per_edit: 2, lstm_size: 4, condition_size: 8,
  head_size: 4, validate_every: 2, validate_edits: 2, scale: 9}
"""
IN_SEQUENCE = ("--regime", "sequential", "--edits", "12", "--batch", "2", "--ask-after", "4,8")
COMMANDS = ("run", "run in sequence", "train an editor", "train a base model", "import", "leaderboard")


def words_of(name: str, world: World, place: Path) -> tuple[str, ...]:
    """Returns a command that writes to a folder. Its home has the model and the pack, and no cache."""
    for room in ("packs", "models"):
        shutil.copytree(world.home / room, place / "home" / room)
    edit = ("run", "--editor", "fine_tuning_first", "--task", str(world.task), "--output", str(place / "run"))
    match name:
        case "run":
            return edit
        case "run in sequence":
            return (*edit, *IN_SEQUENCE)
        case "train an editor":
            file = place / "small.yaml"
            file.write_text(EDITOR)
            return ("train", "--editor", str(file), "--task", str(world.task))
        case "train a base model":
            training = {"max_steps": 12, "batch_size": 2, "evaluate_every": 2}
            recipe = {"start": str(world.model), "training": training}
            file = place / "toy.yaml"
            file.write_text(yaml.safe_dump(task_fields(world.kind, models={"tiny": recipe})))
            return ("train", "--base", "tiny", "--task", str(file), "--out", str(place / "model"))
        case "import":
            (place / "toy.jsonl").write_text(CLAIMS)
            claims, pack = str(place / "toy.jsonl"), str(place / "pack")
            return ("data", "import", "--format", "fever", claims, "--out", pack)
        case _:
            shutil.copytree(world.home.parent / "done", place / "done")
            return ("leaderboard", str(place / "done"), "--folder", str(place / "boards"))


def written(place: Path) -> dict[str, Any]:
    """Returns what a command wrote, without the files that lie there before and the log."""
    found = contents(place)
    return {name: value for name, value in found.items() if name != "log"}


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A toy world of questions, in a folder that also has a finished run (`done`)."""
    folder = tmp_path_factory.mktemp("questions")
    world = make("bart", folder)
    edit = ("run", "--editor", "identity,oracle", "--task", str(world.task), "--output", str(folder / "done"))
    run(edit, world.home, folder / "log")
    shutil.rmtree(world.home / "answers")
    return world


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_and_repeated_ends_in_the_same_bytes(
    name: str, questions: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random, counted = Random(f"{SEED} {name}"), Counter[str]()
    wanted = KILLS // len(COMMANDS) + (COMMANDS.index(name) < KILLS % len(COMMANDS))

    def repeated(kills: int, seconds: float) -> tuple[dict[str, Any], float]:
        """Kills a command some times, repeats it until it ends; what it wrote, and the seconds of the end."""
        place = tmp_path / "round"
        place.mkdir()
        words, home, log = words_of(name, questions, place), place / "home", place / "log"
        for _ in range(kills):
            killed = run(words, home, log, kill_after=random.uniform(0, seconds)).killed
            counted["kills" if killed else "ended before the kill"] += 1
            counted["half-written files"] += killed and any(place.rglob("*.partial"))
        counted["rounds"] += 1
        end = run(words, home, log)
        assert "Traceback" not in log.read_text()
        found = written(place)
        shutil.rmtree(place)
        return found, end.seconds

    whole, seconds = repeated(0, 0)
    while counted["kills"] < wanted:
        again, _ = repeated(min(random.randint(1, 3), wanted - counted["kills"]), seconds)
        assert again.keys() == whole.keys()
        for file in whole:
            assert again[file] == whole[file], file
    with capsys.disabled():
        sys.stdout.write(f"\n{name}, {seconds:.1f} s: {dict(counted)}\n")
