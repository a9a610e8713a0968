"""Errors that are the user's mistakes. Each has a message of one line.

    KebenchError
    ├── BadFile      the contents of a file are wrong; message: `file:place: found …, wanted …`
    ├── BadSetting   an option, or a combination of options, is not possible
    ├── BrokenEditor an editor broke a rule that all editors must keep
    ├── NotFound     a name or a path does not exist; the message suggests the most similar one
    └── Busy         another process is writing the same file or folder

`kebench/cli/errors.py` catches `KebenchError`, prints its message and exits with status 2. A programmer's
mistake is raised as a plain `ValueError` or `TypeError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class KebenchError(Exception):
    """A user's mistake. `str(error)` is the one line to print."""


class BadFile(KebenchError):
    """The contents of a file are wrong, or the file cannot be read or written."""

    def __init__(self, path: Path | str, problem: str, *, place: str | int | None = None) -> None:
        where = f"{path}:{place}" if place is not None else str(path)
        super().__init__(f"{where}: {problem}")


class BadSetting(KebenchError):
    """An option, or a combination of options, is not possible."""


class BrokenEditor(KebenchError):
    """An editor broke a rule that all editors must keep, for example by writing to the base model.

    Attributes:
        details: the traceback, where the editor raised an error; else empty.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class DependentEdits(BrokenEditor):
    """An edit of a group differs from the same edit alone.

    The editor lets the edits of a group depend on each other. Or its settings let rounding decide what an
    edit becomes, as a very large learning rate does.
    """


class NotFound(KebenchError):
    """A name or a path does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"no {kind} named '{name}'{did_you_mean(name, known)}")


class Busy(KebenchError):
    """Another process is writing the same file or folder."""


def check_positive(settings: object, *names: str, or_zero: bool = False) -> None:
    """Checks that the named attributes of `settings` are above 0, or with `or_zero` at least 0.

    Raises:
        BadSetting: an attribute is not. The message holds the name and value of the first one.
    """
    for name in names:
        found = getattr(settings, name)
        if not (found > 0 or (or_zero and found == 0)):  # NaN is neither
            wanted = "0 or more" if or_zero else "a number above 0"
            raise BadSetting(f"{name}: found {found}, wanted {wanted}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` with the most similar known name, to be added to an error message.

    If no known name is similar, it returns the list of all known names; if none is known, an empty text.
    """
    choices = sorted(known)
    nearest = get_close_matches(name, choices, n=1)
    if nearest:
        return f"; did you mean '{nearest[0]}'?"
    return f"; known: {', '.join(choices)}" if choices else ""


def shown(found: Any) -> str:
    """Returns `found` as at most 60 characters on one line, for an error message."""
    text = repr(found)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        text = ascii(found)
    return text if len(text) <= 60 else text[:57] + "..."
