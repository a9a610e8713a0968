"""What tests of the commands share: a command in a process of its own, and what it gave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def assert_usual_modes(folder: Path) -> None:
    """Every file of a folder has the mode of a file that is simply written there."""
    plain = folder / "plain"
    plain.touch()
    modes = {path.name: oct(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}
    plain.unlink()
    assert set(modes.values()) == {modes["plain"]}, modes


CLOCK = ("edit_seconds", "answer_seconds", "sha256", "cost", "seconds", "files")
"""The fields that differ from one run to the next, and the checksums of them."""


def contents(folder: Path) -> dict[str, Any]:
    """The files of a folder: bytes, or the texts of JSON values without what the clock says."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        name, content = str(file.relative_to(folder)), file.read_bytes()
        if file.suffix == ".jsonl":
            found[name] = [_timeless(line) for line in content.splitlines()]
        elif file.suffix == ".json":
            found[name] = _timeless(content)
        elif file.name != "README.md" or "boards" in str(file):  # a card's tells the seconds
            found[name] = content
    return found


def _timeless(content: bytes) -> str:
    value = json.loads(content)
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name not in CLOCK}
    return json.dumps(value)
