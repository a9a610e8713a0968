"""Reads records from JSON files: from JSON Lines, from one array, and from an object around either.

The contents show which of them a file is. So a `.json` file that holds JSON Lines, as several published files
do, needs no option. These objects are recognised as wrappers and taken off:

    {"data": [{…}, {…}]}               one list of records; beside it, texts and numbers about the file
    {"12": {…}, "13": {…}}             records by their ids; the key becomes `id` where a record has none
    {"en": …}                          one key, around a whole file or around each record
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kebench.errors import BadFile, shown
from kebench.packs.rows import Row

SPACE = " \t\r\n"
WRAPPERS = ("data", "records", "rows", "examples", "instances", "items", "questions", "claims")
"""The keys under which published files hold their list of records beside other fields."""


def json_rows(path: Path) -> Iterator[Row]:
    """Returns the records in the file `path`, in order.

    Raises:
        BadFile: the file cannot be read, is not UTF-8, is not JSON, ends too early, repeats a key within an
            object, or holds something that is not a record. The message names the line, or the number of the
            record if all records are on one line or in a wrapper.
    """
    text = text_of(path)
    start = _skip(text, 0)
    if text[start] == "[":
        return _array(path, text)
    text = text.rstrip(SPACE)
    first, _, rest = text[start:].partition("\n")
    if rest and _is_object(first):
        return (_record(path, value, line) for line, value in _lines(path, text))
    value, end = _value(path, text, start, 1 + text.count("\n", 0, start))
    if end < len(text):
        return (
            _record(path, value, line) for line, value in _lines(path, text)
        )  # tells in which line the first object is followed by something else
    return _unwrapped(path, value)


def json_lines(path: Path) -> Iterator[Row]:
    """Returns the objects in a file of JSON Lines, in order; no wrapper is taken off.

    Raises:
        BadFile: as for `json_rows`.
    """
    return (_object(path, value, line) for line, value in _lines(path, text_of(path)))


def json_row(path: Path) -> Row:
    """Returns the object in a file that holds exactly one.

    Raises:
        BadFile: as for `json_rows`.
    """
    text = text_of(path)
    value, end = _value(path, text, _skip(text, 0), 1)
    if rest := text[end:].strip(SPACE):
        raise BadFile(path, f"found {shown(rest)} after the object", place=text.count("\n", 0, end) + 1)
    return _object(path, value, 1)


def text_of(path: Path) -> str:
    """Returns the text of a file, without a byte order mark.

    Raises:
        BadFile: the file cannot be read, is not UTF-8 or is blank.
    """
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
        raise BadFile(path, "found nothing, wanted records")
    return text


def _is_object(line: str) -> bool:
    """Returns True if a line is a whole object, as in JSON Lines."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _unwrapped(path: Path, value: Any) -> Iterator[Row]:
    """Yields the records in the only value of a file."""
    while isinstance(value, dict) and (name := _wrapping(path, value)) is not None:
        value = value[name]
    if isinstance(value, dict) and value and all(isinstance(each, dict) for each in value.values()):
        value = [{"id": key, **_record(path, each, key).value} for key, each in value.items()]
    if not isinstance(value, list):
        yield _record(path, value, 1)
        return
    for number, each in enumerate(value, start=1):
        yield _record(path, each, f"record {number}")


def _wrapping(path: Path, value: Mapping[str, Any]) -> str | None:
    """Returns the key under which a wrapper holds its records; None if it is no such wrapper."""
    if len(value) == 1:
        return next((name for name, each in value.items() if isinstance(each, dict | list)), None)
    lists = [name for name, each in value.items() if isinstance(each, list) and each]
    lists = [name for name in lists if all(isinstance(each, dict) for each in value[name])]
    if len(lists) == 1 and lists[0] in WRAPPERS:
        return lists[0]
    if len(lists) > 1 and len(lists) == len(value):
        found = ", ".join(map(shown, lists))
        raise BadFile(path, f"found lists of records under {found}, wanted one list: a file for each")
    return None


def _lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): it also splits at U+2028 and form feeds, which may be inside a text of JSON Lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip(SPACE):
            value, end = _value(path, stripped, 0, number)
            if end != len(stripped):
                raise BadFile(path, f"found {shown(stripped[end:])} after the object", place=number)
            yield number, value


def _array(path: Path, text: str) -> Iterator[Row]:
    position = _skip(text, text.index("[") + 1)
    line, counted, number = 1, 0, 0
    has_lines = "\n" in text.strip(SPACE)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        number += 1
        value, position = _value(path, text, position, line)
        yield _record(path, value, line if has_lines else f"record {number}")
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


def _record(path: Path, value: Any, place: int | str) -> Row:
    """Returns a record, without the wrappers of one key around it."""
    prefix = ""
    while isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        if not isinstance(inner, dict):
            break
        prefix, value = f"{prefix}{name}.", inner
    return _object(path, value, place, prefix)


def _object(path: Path, value: Any, place: int | str, prefix: str = "") -> Row:
    if not isinstance(value, dict):
        raise BadFile(path, f"found {shown(value)}, wanted an object", place=place)
    return Row(path, place, value, prefix)


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
