"""What every test relies on: no Hub, no noise, a home of its own, and toy worlds built once."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# Before transformers is imported anywhere; subprocesses inherit it.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow machine is no failure, and the same examples every time are.
settings.register_profile("kebench", deadline=None, derandomize=True)
settings.load_profile("kebench")

if TYPE_CHECKING:
    from worlds import World


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's cache, or another test's."""
    monkeypatch.setenv("KEBENCH_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., "World"]]:
    """Toy worlds by their arguments, each made once, and its model read once."""
    from worlds import World, load_once, make

    made: dict[tuple[object, ...], World] = {}
    monkeypatch = pytest.MonkeyPatch()
    load_once(monkeypatch, made.values())

    def world(kind: str, **options: bool) -> World:
        key = (kind, *sorted(options.items()))
        if key not in made:
            made[key] = make(kind, tmp_path_factory.mktemp(kind), **options)
        return made[key]

    yield world
    monkeypatch.undo()


@pytest.fixture
def seq2seq(make_world: Callable[..., "World"], monkeypatch: pytest.MonkeyPatch) -> "World":
    """A toy world of questions, entered."""
    world = make_world("bart")
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    return world


@pytest.fixture
def classifier(make_world: Callable[..., "World"], monkeypatch: pytest.MonkeyPatch) -> "World":
    """A toy world of claims, entered."""
    world = make_world("bert")
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    return world


@pytest.fixture
def kebench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """The command, in this process: `kebench("ls", "tasks")` gives (exit status, stdout, stderr)."""
    from kebench.cli import main

    def command(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kebench", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        code = exit_.value.code
        return (code if isinstance(code, int) else 0), out, err

    return command
