"""What tests of the commands share: a command in a process of its own, and what it gave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from worlds import World

from kebench.scoring.record import RunRecord

Kebench = Callable[..., tuple[int, str, str]]


def mistaken(result: tuple[int, str, str], said: str) -> None:
    """Status 2, nothing on stdout, one line on stderr; lines of progress may come before it."""
    status, out, err = result
    *before, line = err.splitlines()
    assert (status, out) == (2, "")
    assert line.startswith("kebench: ")
    assert said in line
    assert "Traceback" not in err
    told = [each for each in before if not each.startswith("loading ")]  # a plug-in is code
    told = [each for each in told if ": pack " not in each]  # what is run, in one line
    assert all("/" in each and not each.startswith("kebench") for each in told)


def in_a_process(world: World | None, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = world.environment() if world else None
    command = [sys.executable, "-m", "kebench", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120, check=False
    )


def scored(folder: Path) -> dict[str, RunRecord]:
    return {path.parent.name: RunRecord.read(path) for path in folder.glob("*/record.json")}
