"""Where kebench keeps what it makes: packs, models, base answers, editors' states."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$KEBENCH_HOME`, or `~/.cache/kebench`."""
    return Path(os.environ.get("KEBENCH_HOME") or Path.home() / ".cache" / "kebench")


def pack_folder(task: str, pack: str) -> Path:
    """Where one of a task's packs lies once it is built."""
    return home() / "packs" / f"{task}--{pack}"
