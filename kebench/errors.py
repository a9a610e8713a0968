"""The mistakes a user can make, each told in one line.

    KebenchError
    ├── BadFile      a file does not hold what it should: `file:place: found, wanted`
    ├── BadSetting   an option or a combination of options that cannot work
    ├── BrokenEditor an editor that did what no editor may do
    ├── NotFound     a name or path that leads nowhere, with the nearest one that does
    └── Busy         another process is writing the same thing

`cli.py` catches `KebenchError` in one place, prints its text and exits with status 2. A programmer's
mistake stays a plain `ValueError` or `TypeError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class KebenchError(Exception):
    """A user's mistake; `str()` of it is the one line to show."""


class BadFile(KebenchError):
    """A file does not hold what it should."""

    def __init__(self, path: Path | str, problem: str, *, place: str | int | None = None) -> None:
        where = f"{path}:{place}" if place is not None else str(path)
        super().__init__(f"{where}: {problem}")


class BadSetting(KebenchError):
    """An option, or a combination of them, that cannot work."""


class BrokenEditor(KebenchError):
    """An editor did what no editor may do, such as writing to the base model."""


class NotFound(KebenchError):
    """A name or a path that leads nowhere."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"no {kind} named '{name}'{did_you_mean(name, known)}")


class Busy(KebenchError):
    """Another process is writing the same thing."""


def check_positive(settings: object, *names: str, or_zero: bool = False) -> None:
    """Refuses a setting, given by its name, that is not a number above 0 (or 0 itself, `or_zero`).

    Raises:
        BadSetting: with the first such setting's name and value.
    """
    for name in names:
        found = getattr(settings, name)
        if not (found > 0 or (or_zero and found == 0)):  # NaN is neither
            wanted = "0 or more" if or_zero else "a number above 0"
            raise BadSetting(f"{name}: found {found}, wanted {wanted}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, else the known names, else nothing."""
    choices = sorted(known)
    nearest = get_close_matches(name, choices, n=1)
    if nearest:
        return f"; did you mean '{nearest[0]}'?"
    return f"; known: {', '.join(choices)}" if choices else ""
