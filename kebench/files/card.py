"""Writes and reads the card of a model or a trained editor: what it is and how it was made.

It is written twice, as `README.md` for people and as JSON for programs. The JSON holds a checksum of every
file beside it, and one of itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kebench.files.checked import SHA256, Damaged, file_sha256, is_sealed, read_object, write_sealed
from kebench.files.writing import write_text

logger = logging.getLogger(__name__)
_FILES = "files"
"""The field of a card with the checksum of each file beside it."""


def write_card(folder: Path, file: str, about: str, facts: Mapping[str, Any], *, made_of: str = "") -> None:
    """Writes `README.md`, and then the JSON file, whose presence shows that the folder is complete.

    Args:
        folder: the folder of the model or editor, with all its files.
        file: the name of the JSON file.
        about: what it is, in a sentence.
        facts: what the card lists; `name` is needed.
        made_of: what tells it from one that was made otherwise. `read_card` needs the same.
    """
    lines = [f"# {facts['name']}", "", about, ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key != "name"]
    write_text("\n".join(lines) + "\n", folder / "README.md")
    beside = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    checksums = {each.name: file_sha256(each) for each in beside if each.name != file}
    write_sealed({**facts, _FILES: checksums}, folder / file, made_of)


def read_card(folder: Path, file: str, *, made_of: str = "") -> dict[str, Any]:
    """Reads the card of a folder, and checks every file that it lists.

    A card that is older than checksums is believed, with a warning.

    Raises:
        Damaged: the card or a file is not what was written, is missing, or is of another training.
        OSError: there is no card, or a file cannot be read.
    """
    card = read_object(folder / file)
    if SHA256 not in card and _FILES not in card:
        logger.warning("%s: is older than checksums, and is believed as it is", folder / file)
        return card
    if not is_sealed(card, made_of) or not isinstance(card.get(_FILES), dict):
        raise Damaged("its checksum is not right, or it is of another training")
    for name, checksum in card[_FILES].items():
        if not (folder / name).is_file():
            raise Damaged(f"{name} is missing")
        if file_sha256(folder / name) != checksum:
            raise Damaged(f"{name} is not what was written")
    return card


def is_complete(folder: Path, file: str, *, made_of: str = "") -> bool:
    """Returns True if a folder holds what was made, whole, as `read_card` checks it."""
    try:
        read_card(folder, file, made_of=made_of)
    except (Damaged, OSError):
        return False
    return True


def remove_damaged_card(folder: Path, file: str, *, made_of: str = "") -> bool:
    """Removes the card of a folder if `read_card` does not believe it, with one warning.

    Returns:
        True if the folder is complete.
    """
    try:
        read_card(folder, file, made_of=made_of)
    except FileNotFoundError:
        return False
    except Damaged as problem:
        logger.warning("%s: %s; it is trained again", folder / file, problem)
        (folder / file).unlink()
        return False
    return True
