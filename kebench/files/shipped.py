"""What comes with kebench ready-made, below `tasks/`: packs, base models, and editors' states."""

from __future__ import annotations

import json
from pathlib import Path

from kebench.files.yaml import folder_of

MODEL_CARD = "kebench.json"
STATE, STATE_CARD = "state.safetensors", "state.json"


def shipped_root() -> Path:
    """The folder that recipes' `shipped` paths are below."""
    return folder_of("kebench.tasks")


def shipped_folder(path: str | None, marker: str) -> Path | None:
    """The folder of something that comes with kebench; None where it does not, or is yet to be made."""
    if path is None or not (shipped_root() / path / marker).is_file():
        return None
    return shipped_root() / path


def shipped_state(digest: str) -> Path | None:
    """The folder of the editor's state that was trained on exactly this (`preparation.state_digest`)."""
    for card in sorted(shipped_root().glob(f"*/editors/*/{STATE_CARD}")):
        if json.loads(card.read_text(encoding="utf-8")).get("digest") == digest:
            return card.parent
    return None
