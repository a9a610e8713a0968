"""Writes JSON files, all in one format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kebench.files.writing import write_text


def write_json(value: Any, path: Path) -> None:
    """Writes a value to a JSON file atomically (`kebench.files.writing`).

    Raises:
        ValueError: the value holds NaN or an infinite number, which JSON does not have.
    """
    write_text(as_text(value), path)


def as_text(value: Any) -> str:
    """Returns the text of a JSON file.

    Raises:
        ValueError: the value holds NaN or an infinite number, which JSON does not have.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
