"""A line of the table: a measured number, its target, and how it compares with the floor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from benchmarks.timing import Ratio


@dataclass(frozen=True)
class Target:
    """The bound that a number should keep, on a CPU and on an H200."""

    bound: Literal["≤", "≥"]
    cpu: float | None = None
    cuda: float | None = None

    def of(self, device: str) -> float | None:
        """Returns the bound for a device, or None."""
        return self.cpu if device == "cpu" else self.cuda

    def met(self, value: float, device: str) -> bool | None:
        """Returns True if a value keeps the bound; None if there is no bound for the device."""
        limit = self.of(device)
        if limit is None:
            return None
        return value <= limit if self.bound == "≤" else value >= limit


@dataclass(frozen=True)
class Line:
    """One measured number.

    Attributes:
        item: the letter of the item in `benchmarks/README.md`.
        what: the description of the number.
        ratio: its median and range over rounds.
        unit: the unit of `ratio`; `x` if it is a ratio.
        target: the bound that the number should keep.
        seconds: the time that kebench needs for one unit of work.
        unit_of_seconds: the unit of work, such as a row or an edit.
        floor: the time in seconds of its matrix products, at the machine's rate.
        note: other information for the reader.
    """

    item: str
    what: str
    ratio: Ratio
    unit: str = "x"
    target: Target | None = None
    seconds: float | None = None
    unit_of_seconds: str = ""
    floor: float | None = None
    note: str = ""

    def cells(self, device: str) -> dict[str, str]:
        """Returns the line as a row of the table: heading → text."""
        limit = self.target.of(device) if self.target else None
        met = self.target.met(self.ratio.value, device) if self.target else None
        return {
            "": self.item,
            "what": self.what,
            "measured": f"{_number(self.ratio.value)} {self.unit}",
            "range": f"{_number(self.ratio.low)} to {_number(self.ratio.high)}",
            "target": f"{self.target.bound} {_number(limit)}" if self.target and limit is not None else "",
            "met": {None: "", True: "yes", False: "no"}[met],
            "takes": _seconds(self.seconds, self.unit_of_seconds),
            "floor": _seconds(self.floor, self.unit_of_seconds),
            "of floor": f"{self.seconds / self.floor:.2f} x" if self.seconds and self.floor else "",
            "note": self.note,
        }


def table(lines: Sequence[Line], device: str) -> str:
    """Returns the lines as a table in Markdown."""
    rows = [line.cells(device) for line in lines]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    scale, name = next(((s, n) for s, n in ((1, "s"), (1e-3, "ms")) if value >= s), (1e-6, "µs"))
    return f"{value / scale:,.3g} {name}{f' a {unit}' if unit else ''}"
