"""One row of a source. Fields are checked when they are read; errors say where, what was found and wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kebench.errors import BadFile, shown

MOST_NAMED = 12
"""The largest number of fields that an error about a missing one names."""


@dataclass(frozen=True)
class Row:
    """A JSON object, and where it was found.

    Attributes:
        path: the path of the file, or the name of the Hub data set.
        place: the line of the file, the row of the table, or a text such as `record 3`.
        value: the fields of the object.
        prefix: for an object inside another one, the field that holds it; used in errors.
    """

    path: Path | str
    place: int | str
    value: Mapping[str, Any]
    prefix: str = ""

    def wrong(self, name: str, found: Any, wanted: str) -> NoReturn:
        """Raises BadFile with what was found in the field `name` and what was wanted."""
        raise BadFile(
            self.path, f"{self.prefix}{name}: found {shown(found)}, wanted {wanted}", place=self.place
        )

    def get(self, name: str, wanted: str) -> Any:
        """Returns the field `name`.

        Args:
            name: the name of the field.
            wanted: what the field should hold, for the error.

        Raises:
            BadFile: the field is missing.
        """
        if name not in self.value:
            names = [str(each) for each in self.value]
            there = ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
            problem = f"{self.prefix}{name}: missing, wanted {wanted}{f'; found: {there}' if there else ''}"
            raise BadFile(self.path, problem, place=self.place)
        return self.value[name]

    def text(self, name: str) -> str:
        """Returns the field `name`, a text that is not blank, without surrounding spaces.

        Raises:
            BadFile: the field is missing, has another type, is blank, or is not valid Unicode.
        """
        return self._text(name, self.get(name, "text"))

    def said(self, name: str) -> str:
        """Returns the field `name`, a model's answer, without surrounding spaces; it may be empty.

        Raises:
            BadFile: the field is missing, has another type, or is not valid Unicode.
        """
        found = self.get(name, "text")
        return "" if isinstance(found, str) and not found.strip() else self._text(name, found)

    def number(self, name: str) -> float:
        """Returns the field `name`, a number.

        Raises:
            BadFile: the field is missing or has another type.
        """
        found = self.get(name, "a number")
        if isinstance(found, bool) or not isinstance(found, int | float):
            self.wrong(name, found, "a number")
        return float(found)

    def texts(self, name: str, *, blank: bool = False) -> tuple[str, ...]:
        """Returns the field `name`, a list of texts, which may be empty; with `blank`, a text may be blank.

        Raises:
            BadFile: as for `text`, for the list or for one of its items.
        """
        return tuple(
            "" if blank and isinstance(item, str) and not item.strip() else self._text(f"{name}[{i}]", item)
            for i, item in enumerate(self.items(name))
        )

    def one_or_more(self, name: str) -> tuple[str, ...]:
        """Returns the field `name`, a text or a list of texts, without repetitions; none if it is missing.

        A whole number counts as a text, because tables store years as numbers.

        Raises:
            BadFile: the field has another type, or a text is blank or is not valid Unicode.
        """
        found = self.value.get(name)
        if found is None:
            return ()
        if not isinstance(found, list):
            return (self.identifier(name),)
        texts = (
            str(item)
            if isinstance(item, int) and not isinstance(item, bool)
            else self._text(f"{name}[{i}]", item)
            for i, item in enumerate(found)
        )
        return tuple(dict.fromkeys(texts))

    def items(self, name: str) -> list[Any]:
        """Returns the field `name`, a list.

        Raises:
            BadFile: the field is missing or has another type.
        """
        found = self.get(name, "a list")
        if not isinstance(found, list):
            self.wrong(name, found, "a list")
        return found

    def rows(self, name: str) -> list[Row]:
        """Returns the field `name`, a list of objects.

        Raises:
            BadFile: the field is missing or has another type.
        """
        for i, item in enumerate(self.items(name)):
            if not isinstance(item, dict):
                self.wrong(f"{name}[{i}]", item, "an object")
        return [
            Row(self.path, self.place, item, f"{self.prefix}{name}[{i}].")
            for i, item in enumerate(self.items(name))
        ]

    def row(self, name: str) -> Row:
        """Returns the field `name`, an object.

        Raises:
            BadFile: the field is missing or has another type.
        """
        found = self.get(name, "an object")
        if not isinstance(found, dict):
            self.wrong(name, found, "an object")
        return Row(self.path, self.place, found, f"{self.prefix}{name}.")

    def has(self, name: str) -> bool:
        """Returns True if the field exists and is not null (in a table, a missing field is null)."""
        return self.value.get(name) is not None

    def flag(self, name: str) -> bool:
        """Returns the field `name`, true or false; False if it is missing.

        Raises:
            BadFile: the field has another type.
        """
        found = self.value.get(name, False)
        if not isinstance(found, bool):
            self.wrong(name, found, "true or false")
        return found

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """Returns the field `name`, one of the known words.

        Raises:
            BadFile: the field is missing or holds something else.
        """
        found = self.get(name, one_of(known))
        if found not in known:
            self.wrong(name, found, one_of(known))
        return str(found)

    def identifier(self, name: str) -> str:
        """Returns the field `name`, a number or a text, as text.

        Raises:
            BadFile: the field is missing, is blank or has another type.
        """
        found = self.get(name, "a number or text")
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
        return self._text(name, found)

    def _text(self, name: str, found: Any) -> str:
        if not isinstance(found, str) or not found.strip():
            self.wrong(name, found, "text")
        if any("\ud800" <= letter <= "\udfff" for letter in found):  # JSON can spell them, UTF-8 cannot
            self.wrong(name, found, "text without lone surrogates")
        return found.strip()


def one_of(known: tuple[str, ...]) -> str:
    """Returns a text such as `a, b or c`."""
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"
