"""Finds the packs, base models and editor states that are shipped with kebench, in folders below `tasks/`."""

from __future__ import annotations

import json
from pathlib import Path

from kebench.files.yaml import folder_of

MODEL_CARD = "kebench.json"
STATE, STATE_CARD = "state.safetensors", "state.json"


def shipped_root() -> Path:
    """Returns the folder to which the `shipped` paths of recipes are relative."""
    return folder_of("kebench.tasks")


def shipped_folder(path: str | None, marker: str) -> Path | None:
    """Returns the folder of something shipped with kebench.

    Args:
        path: the recipe's `shipped` path; None if it has none.
        marker: a file that is in the folder if it is complete.

    Returns:
        None if nothing is shipped, or if it has not been made yet.
    """
    if path is None or not (shipped_root() / path / marker).is_file():
        return None
    return shipped_root() / path


def shipped_state(digest: str) -> Path | None:
    """Returns the folder of the shipped editor state with this `preparation.state_digest`, or None."""
    for card in sorted(shipped_root().glob(f"*/editors/*/{STATE_CARD}")):
        if json.loads(card.read_text(encoding="utf-8")).get("digest") == digest:
            return card.parent
    return None
