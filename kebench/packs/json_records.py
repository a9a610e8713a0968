"""Reads JSON objects from JSON Lines files and from files with one array, with the line of each object.

The first character of a file shows which of the two it is. So a `.json` file that holds JSON Lines, as
several published files do, needs no option.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kebench.errors import BadFile
from kebench.packs.rows import Row, shown

SPACE = " \t\r\n"


def json_rows(path: Path) -> Iterator[Row]:
    """Returns the objects in the file `path`, in order.

    Raises:
        BadFile: the file cannot be read, is not UTF-8, is not JSON, ends too early, repeats a key within an
            object, or holds a value that is not an object. The message names the line.
    """
    text = _text(path)
    return _array(path, text) if text.lstrip(SPACE).startswith("[") else _lines(path, text)


def json_row(path: Path) -> Row:
    """Returns the object in a file that holds exactly one.

    Raises:
        BadFile: as for `json_rows`.
    """
    text = _text(path)
    value, end = _value(path, text, _skip(text, 0), 1)
    if rest := text[end:].strip(SPACE):
        raise BadFile(path, f"found {shown(rest)} after the object", place=text.count("\n", 0, end) + 1)
    return _object(path, value, 1)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error.__class__.__name__})") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFile(
            path, f"found the byte 0x{content[error.start]:02x}, wanted UTF-8", place=line
        ) from None
    if not text.strip(SPACE):
        raise BadFile(path, "found nothing, wanted JSON objects")
    return text


def _lines(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines(): it also splits at U+2028 and form feeds, which may be inside a text of JSON Lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip(SPACE):
            value, end = _value(path, stripped, 0, number)
            if end != len(stripped):
                raise BadFile(path, f"found {shown(stripped[end:])} after the object", place=number)
            yield _object(path, value, number)


def _array(path: Path, text: str) -> Iterator[Row]:
    position = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        value, position = _value(path, text, position, line)
        yield _object(path, value, line)
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
            if text[position : position + 1] != "]":
                continue
        elif text[position : position + 1] == "]":
            break
        line += text.count("\n", counted, position)
        found = shown(text[position]) if position < len(text) else "the end of the file"
        raise BadFile(path, f"found {found}, wanted ',' and an object, or ']'", place=line)
    if rest := text[position + 1 :].strip(SPACE):
        line += text.count("\n", counted, position)
        raise BadFile(path, f"found {shown(rest)} after the array", place=line)


def _value(path: Path, text: str, position: int, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        line += text.count("\n", position, error.pos)
        found = shown(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        raise BadFile(path, f"not JSON: {error.msg.lower()}; found {found}", place=line) from None
    except ValueError as error:  # from the two hooks below, or a number with more digits than Python reads
        raise BadFile(path, str(error), place=line) from None
    except RecursionError:
        raise BadFile(path, "not readable JSON: nested too deeply", place=line) from None


def _object(path: Path, value: Any, line: int) -> Row:
    if not isinstance(value, dict):
        raise BadFile(path, f"found {shown(value)}, wanted an object", place=line)
    return Row(path, line, value)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} appears twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"found {name}, wanted a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
