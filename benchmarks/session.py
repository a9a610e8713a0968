"""One run of the benchmarks. Each contest is timed once, even if several lines use its timings."""

from collections.abc import Callable, Mapping
from functools import cached_property

from benchmarks.lines import Line, Target
from benchmarks.machine import machine
from benchmarks.settings import Settings
from benchmarks.timing import Contest, Timings, take_turns

Contests = Mapping[str, Callable[[Settings], Contest]]
"""The name of each contest, which begins with the letter of its item → a function that makes the contest."""


class Session:
    """The settings and timings that the items share.

    Attributes:
        settings: the settings of the run.
        contests: all contests.
    """

    def __init__(self, settings: Settings, contests: Contests) -> None:
        self.settings = settings
        self.contests = contests
        self._timings: dict[str, Timings] = {}

    @cached_property
    def machine(self) -> dict[str, str | int | float]:
        """The description of the machine (`benchmarks.machine`)."""
        return machine(self.settings)

    @property
    def rate(self) -> float:
        """The number of operations in a second of a large matrix product."""
        return float(self.machine["matmul_flops"])

    def timings(self, name: str) -> Timings:
        """Returns the timings of a contest. The first call measures them."""
        if name not in self._timings:
            self._timings[name] = take_turns(name, self.contests[name](self.settings), self.settings.runs)
        return self._timings[name]

    def line(
        self,
        name: str,
        what: str,
        ratio: tuple[str, str],
        *,
        takes: str,
        unit: str,
        target: Target | None = None,
        note: str | None = None,
    ) -> Line:
        """Returns a line about a contest.

        Args:
            name: the name of the contest.
            what: the description of the line.
            ratio: two ways; the line shows the seconds of the first divided by those of the second.
            takes: the way whose seconds are shown beside the floor.
            unit: the unit of work.
            target: the bound that the ratio should keep.
            note: the note of the line; if it is None, that of the contest.
        """
        timings = self.timings(name)
        return Line(
            name[0],
            f"{name[2:]}{what}",
            timings.ratio(*ratio),
            target=target,
            seconds=timings.median(takes),
            unit_of_seconds=unit,
            floor=self.floor(name),
            note=timings.note if note is None else note,
        )

    def floor(self, name: str) -> float:
        """Returns the seconds that one unit of a contest takes at the machine's rate of matrix products."""
        return self.timings(name).contest.operations / self.rate
