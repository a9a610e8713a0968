"""One run of the benchmarks: each contest is timed once, whichever lines are made of it."""

from collections.abc import Callable, Mapping
from functools import cached_property

from benchmarks.lines import Line, Target
from benchmarks.machine import machine
from benchmarks.settings import Settings
from benchmarks.timing import Contest, Timings, take_turns

Contests = Mapping[str, Callable[[Settings], Contest]]
"""Name, its item's letter first → what makes it."""


class Session:
    """What the items share.

    Attributes:
        settings: what was asked for.
        contests: all there are.
    """

    def __init__(self, settings: Settings, contests: Contests) -> None:
        self.settings = settings
        self.contests = contests
        self._timings: dict[str, Timings] = {}

    @cached_property
    def machine(self) -> dict[str, str | int | float]:
        """What is measured on."""
        return machine(self.settings)

    @property
    def rate(self) -> float:
        """Operations a second of a large matrix product."""
        return float(self.machine["matmul_flops"])

    def timings(self, name: str) -> Timings:
        """A contest's, made on the first call."""
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
        """A line on a contest: the ratio of two ways' seconds, and what one way takes beside the floor.

        Without a `note`, the contest's own stands there.
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
        """The seconds of a contest's unit at the machine's rate of matrix products."""
        return self.timings(name).contest.operations / self.rate
