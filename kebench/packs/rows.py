"""One row of a source, with checked access: errors say where, what was found and what was wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kebench.errors import BadFile


@dataclass(frozen=True)
class Row:
    """A JSON object and its place.

    Attributes:
        path: of the file, or the name of the Hub data set.
        place: the line of the file, or the row of the table.
        value: the object's fields.
        prefix: the field that holds this object, for objects inside objects.
    """

    path: Path | str
    place: int
    value: Mapping[str, Any]
    prefix: str = ""

    def wrong(self, name: str, found: Any, wanted: str) -> NoReturn:
        """Raises BadFile about the field `name`."""
        raise BadFile(
            self.path, f"{self.prefix}{name}: found {shown(found)}, wanted {wanted}", place=self.place
        )

    def get(self, name: str, wanted: str) -> Any:
        """The field `name`, which must be there.

        Raises:
            BadFile: it is missing.
        """
        if name not in self.value:
            raise BadFile(self.path, f"{self.prefix}{name}: missing, wanted {wanted}", place=self.place)
        return self.value[name]

    def text(self, name: str) -> str:
        """The field `name`, a text with something in it, without the spaces around it.

        Raises:
            BadFile: it is missing, of another type, blank, or no valid Unicode.
        """
        return self._text(name, self.get(name, "text"))

    def said(self, name: str) -> str:
        """The field `name`, a model's answer: a text without the spaces around it, or nothing.

        Raises:
            BadFile: it is missing, of another type, or no valid Unicode.
        """
        found = self.get(name, "text")
        return "" if isinstance(found, str) and not found.strip() else self._text(name, found)

    def number(self, name: str) -> float:
        """The field `name`, a number.

        Raises:
            BadFile: it is missing or of another type.
        """
        found = self.get(name, "a number")
        if isinstance(found, bool) or not isinstance(found, int | float):
            self.wrong(name, found, "a number")
        return float(found)

    def texts(self, name: str, *, blank: bool = False) -> tuple[str, ...]:
        """The field `name`, a list (it may be empty) of texts; with `blank`, they may be blank.

        Raises:
            BadFile: as `text` says, for the list or for one of its items.
        """
        return tuple(
            "" if blank and isinstance(item, str) and not item.strip() else self._text(f"{name}[{i}]", item)
            for i, item in enumerate(self.items(name))
        )

    def items(self, name: str) -> list[Any]:
        """The field `name`, a list.

        Raises:
            BadFile: it is missing or of another type.
        """
        found = self.get(name, "a list")
        if not isinstance(found, list):
            self.wrong(name, found, "a list")
        return found

    def rows(self, name: str) -> list[Row]:
        """The field `name`, a list of objects.

        Raises:
            BadFile: it is missing or of another type.
        """
        for i, item in enumerate(self.items(name)):
            if not isinstance(item, dict):
                self.wrong(f"{name}[{i}]", item, "an object")
        return [
            Row(self.path, self.place, item, f"{self.prefix}{name}[{i}].")
            for i, item in enumerate(self.items(name))
        ]

    def row(self, name: str) -> Row:
        """The field `name`, an object.

        Raises:
            BadFile: it is missing or of another type.
        """
        found = self.get(name, "an object")
        if not isinstance(found, dict):
            self.wrong(name, found, "an object")
        return Row(self.path, self.place, found, f"{self.prefix}{name}.")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null (tables give null where JSON has no field)."""
        return self.value.get(name) is not None

    def flag(self, name: str) -> bool:
        """The field `name`, true or false; false where it is missing.

        Raises:
            BadFile: it is of another type.
        """
        found = self.value.get(name, False)
        if not isinstance(found, bool):
            self.wrong(name, found, "true or false")
        return found

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """The field `name`, one of the known words.

        Raises:
            BadFile: it is missing or none of them.
        """
        found = self.get(name, one_of(known))
        if found not in known:
            self.wrong(name, found, one_of(known))
        return str(found)

    def identifier(self, name: str) -> str:
        """The field `name`, a number or a text, as text.

        Raises:
            BadFile: it is missing, blank or of another type.
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
    """`a, b or c`."""
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"


def shown(found: Any) -> str:
    """`found` in a few characters, on one line, in ASCII where it must be escaped anyway."""
    text = repr(found)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        text = ascii(found)
    return text if len(text) <= 60 else text[:57] + "..."
