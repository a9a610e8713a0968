"""The folder in which kebench keeps the packs, models, base answers and editor states that it makes."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Returns `$KEBENCH_HOME`, or `~/.cache/kebench` if that variable is not set."""
    return Path(os.environ.get("KEBENCH_HOME") or Path.home() / ".cache" / "kebench")


def pack_folder(task: str, pack: str) -> Path:
    """Returns the folder that one of a task's packs is built in."""
    return home() / "packs" / f"{task}--{pack}"
