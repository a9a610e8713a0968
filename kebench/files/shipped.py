"""Finds the packs, base models and editor states that are shipped with kebench, in folders below `tasks/`."""

from __future__ import annotations

import json
from pathlib import Path

from kebench.errors import BadFile
from kebench.files.checked import file_sha256
from kebench.files.yaml import folder_of

MODEL_CARD = "kebench.json"
STATE, STATE_CARD = "state.safetensors", "state.json"
SUMS = "sha256sums.txt"
"""The file with the checksums of the models and states below its folder, in the format of `sha256sum`."""


def shipped_root() -> Path:
    """Returns the folder to which the `shipped` paths of recipes are relative."""
    return folder_of("kebench.tasks")


def shipped_folder(path: str | None, marker: str) -> Path | None:
    """Returns the folder of something shipped with kebench.

    Args:
        path: the recipe's `shipped` path; None if it has none.
        marker: a file that is in the folder only if the folder is complete.

    Returns:
        None if nothing is shipped, or if it has not been made yet.

    Raises:
        BadFile: a file of it differs from the shipped one.
    """
    if path is None or not (shipped_root() / path / marker).is_file():
        return None
    _check_sums(shipped_root() / path)
    return shipped_root() / path


def shipped_state(digest: str) -> Path | None:
    """Returns the folder of the shipped editor state with this `preparation.state_digest`, or None.

    Raises:
        BadFile: a file of it differs from the shipped one, or a card of shipped states cannot be read.
    """
    for card in sorted(shipped_root().glob(f"*/editors/*/{STATE_CARD}")):
        try:
            found = dict(json.loads(card.read_bytes())).get("digest")
        except (ValueError, TypeError):
            raise BadFile(card, f"not the card of a state; {_REMEDY}") from None
        if found == digest:
            _check_sums(card.parent)
            return card.parent
    return None


_REMEDY = "install kebench again"


def _check_sums(folder: Path) -> None:
    """Compares the files of a shipped folder with the list of checksums above it, if that lists them.

    Raises:
        BadFile: a file is missing or differs.
    """
    for above in folder.parents:
        if (above / SUMS).is_file():
            break
    else:
        return
    for line in (above / SUMS).read_text(encoding="utf-8").splitlines():
        checksum, _, name = line.partition("  ")
        file = above / name
        if file.parent != folder:
            continue
        if not file.is_file():
            raise BadFile(file, f"missing; {_REMEDY}")
        if file_sha256(file) != checksum:
            raise BadFile(file, f"differs from the shipped file (checksum in {above / SUMS}); {_REMEDY}")
