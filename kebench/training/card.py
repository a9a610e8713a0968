"""Writes the card of a trained model or editor: what it is and how it was made.

It is written twice, as `README.md` for people and as JSON for programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kebench.files.json import write_json
from kebench.files.writing import write_text


def write_card(folder: Path, file: str, kind: str, facts: Mapping[str, Any]) -> None:
    """Writes `README.md`, and then the JSON file, whose presence shows that the folder is complete.

    Args:
        folder: the folder of the trained model or editor.
        file: the name of the JSON file.
        kind: what was trained, for example "Base model".
        facts: what the card lists; `name` and `task` are needed.
    """
    lines = [f"# {facts['name']}", "", f"{kind} for the kebench task `{facts['task']}`.", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key != "name"]
    write_text("\n".join(lines) + "\n", folder / "README.md")
    write_json(facts, folder / file)
