"""Files that say what they were made from, and carry a checksum of their content.

A cache may be cut off, altered or copied from elsewhere. What is kept here is believed only if its checksum
is right and it was made from what the reader expects; otherwise it is made again.

An object of JSON carries its checksum in a field, `sha256`. A file of lines has a first line that holds it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kebench.files.json import write_json
from kebench.files.writing import write_text

T = TypeVar("T")
logger = logging.getLogger(__name__)
SHA256 = "sha256"
"""The field that holds a checksum."""


class Damaged(ValueError):
    """A file does not hold what was written to it, or was made from something else; the message says why."""


def sha256_of(*parts: bytes) -> str:
    """Returns the SHA-256 of some parts, as 64 hex digits; how bytes are divided into parts matters."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def read_or_none(path: Path, read: Callable[[], T]) -> T | None:
    """Reads a file that can be made again.

    Args:
        path: the file.
        read: reads it, and raises `Damaged` if it must not be believed.

    Returns:
        What was read. None if there is no file, or, after one warning that names it, if it is damaged.
    """
    if not path.exists():
        return None
    try:
        return read()
    except (Damaged, OSError) as error:
        problem = error if isinstance(error, Damaged) else f"cannot be read ({type(error).__name__})"
        logger.warning("%s: %s; it is made again", path, problem)
        return None


# A JSON object ---------------------------------------------------------------------------------------


def sealed(fields: Mapping[str, Any], made_of: str = "") -> dict[str, Any]:
    """Returns an object of JSON with its checksum in its last field.

    Args:
        fields: the object. A checksum that it has is replaced.
        made_of: what it was made from. It enters the checksum and is not written.
    """
    plain = {name: value for name, value in fields.items() if name != SHA256}
    return {**plain, SHA256: _of_fields(plain, made_of)}


def is_sealed(fields: Mapping[str, Any], made_of: str = "") -> bool:
    """Returns True if an object has the checksum of its other fields and of what it was made from."""
    plain = {name: value for name, value in fields.items() if name != SHA256}
    return bool(fields.get(SHA256) == _of_fields(plain, made_of))


def _of_fields(fields: Mapping[str, Any], made_of: str) -> str:
    return sha256_of(made_of.encode(), json.dumps(fields, sort_keys=True).encode())


def write_sealed(fields: Mapping[str, Any], path: Path, made_of: str = "") -> None:
    """Writes an object of JSON with its checksum, atomically."""
    write_json(sealed(fields, made_of), path)


def read_sealed(path: Path, made_of: str = "") -> dict[str, Any]:
    """Reads what `write_sealed` wrote, and returns it without the checksum.

    Raises:
        Damaged: the file is no such object, or its checksum is not right.
    """
    fields = read_object(path)
    if not is_sealed(fields, made_of):
        raise Damaged("its checksum is not right")
    return {name: value for name, value in fields.items() if name != SHA256}


def read_object(path: Path) -> dict[str, Any]:
    """Reads an object of JSON, with or without a checksum.

    Raises:
        Damaged: the file holds something else.
    """
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise Damaged("it is not JSON") from None
    if not isinstance(fields, dict):
        raise Damaged("it is not an object of JSON")
    return fields


# Lines -----------------------------------------------------------------------------------------------


def write_lines(lines: Iterable[str], path: Path, made_of: str) -> None:
    """Writes lines atomically, after a first line with their checksum.

    Args:
        lines: without line ends; none of them holds one.
        path: the file.
        made_of: what the lines were made from.
    """
    body = "".join(f"{line}\n" for line in lines)
    first = {"made_of": made_of, SHA256: sha256_of(made_of.encode(), body.encode())}
    write_text(f"{json.dumps(first)}\n{body}", path)


def read_lines(path: Path, made_of: str) -> list[str]:
    """Reads what `write_lines` wrote.

    Raises:
        Damaged: the lines are not those that were written, or were made from something else.
    """
    first, _, body = path.read_bytes().partition(b"\n")
    try:
        fields = json.loads(first)
        told, checksum = fields["made_of"], fields[SHA256]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damaged("its first line holds no checksum") from None
    if told != made_of:
        raise Damaged("it was made from something else")
    if checksum != sha256_of(made_of.encode(), body):
        raise Damaged("its checksum is not right")
    return body.decode().split("\n")[:-1]


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
