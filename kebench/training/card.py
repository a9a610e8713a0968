"""The card of something trained: what it is and what it took, for people (README.md) and programs (JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kebench.files.json import write_json
from kebench.files.writing import write_text


def write_card(folder: Path, file: str, kind: str, facts: Mapping[str, Any]) -> None:
    """Writes `README.md` and then `file`, which says that the folder is complete.

    Args:
        folder: of what was trained.
        file: the name of the JSON file.
        kind: of thing, such as "Base model".
        facts: `name` and `task` among them.
    """
    lines = [f"# {facts['name']}", "", f"{kind} for the kebench task `{facts['task']}`.", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key != "name"]
    write_text("\n".join(lines) + "\n", folder / "README.md")
    write_json(facts, folder / file)
