"""A line of the table: what was measured, what was wanted, and how far from the floor it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from benchmarks.timing import Ratio


@dataclass(frozen=True)
class Target:
    """What a number should be, on a processor and on an H200."""

    bound: Literal["≤", "≥"]
    cpu: float | None = None
    cuda: float | None = None

    def of(self, device: str) -> float | None:
        """The number for a device."""
        return self.cpu if device == "cpu" else self.cuda

    def met(self, value: float, device: str) -> bool | None:
        """Whether a value is on the right side; None where nothing is wanted."""
        limit = self.of(device)
        if limit is None:
            return None
        return value <= limit if self.bound == "≤" else value >= limit


@dataclass(frozen=True)
class Line:
    """One measured number.

    Attributes:
        item: the letter of `benchmarks/README.md`.
        what: in words.
        ratio: the median, and the range over rounds.
        unit: `x`, or what `ratio` is in.
        target: what it should be.
        seconds: what the thing measured takes, a unit of it.
        unit_of_seconds: what takes them: a row, an edit, …
        floor: the seconds that the same would take at the machine's rate of matrix products.
        note: what else a reader should know.
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
        """The line as a row of the table."""
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
    """The lines in Markdown."""
    rows = [line.cells(device) for line in lines]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    scale, name = next(((s, n) for s, n in ((1, "s"), (1e-3, "ms")) if value >= s), (1e-6, "µs"))
    return f"{value / scale:,.3g} {name}{f' a {unit}' if unit else ''}"
