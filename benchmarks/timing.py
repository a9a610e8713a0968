"""Times ways of doing the same work in turn (A, B, A, B, …), so that a slow phase affects all of them."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

Way = Callable[[], float]
"""Does the work once and returns the seconds that it took, without preparation."""


@dataclass(frozen=True)
class Contest:
    """Several ways of doing the same work, to be compared.

    Attributes:
        ways: the name of each way → the way. Kebench's comes first, the one for comparison last.
        operations: the number of operations in the matrix products of one unit of work.
        units: the name of each way → the number of units of work, such as rows or edits, in one run; by
            default 1.
        check: compares the results of the ways and returns a note for the table. It raises an error if they
            differ but must be the same.
    """

    ways: Mapping[str, Way]
    operations: float
    units: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[], str] = lambda: ""

    @property
    def reference(self) -> str:
        """The way with which the others are compared."""
        return list(self.ways)[-1]


@dataclass(frozen=True)
class Ratio:
    """The median, minimum and maximum over rounds."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> "Ratio":
        """Returns the median, minimum and maximum of the values."""
        return Ratio(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timings:
    """The seconds that a unit of work took in each way and round.

    Attributes:
        seconds: the name of each way → one number for each round.
        contest: the contest that was timed.
        note: what `Contest.check` returned.
    """

    seconds: Mapping[str, list[float]]
    contest: Contest
    note: str

    def median(self, way: str) -> float:
        """Returns the median of the seconds that a unit of work took."""
        return statistics.median(self.seconds[way])

    def ratio(self, way: str, to: str) -> Ratio:
        """Returns the seconds of `way` divided by those of `to`, in each round, as median and range."""
        pairs = zip(self.seconds[way], self.seconds[to], strict=True)
        return Ratio.of([one / other for one, other in pairs])


def take_turns(name: str, contest: Contest, runs: int) -> Timings:
    """Times each way in `runs` rounds, after a warm-up round (for caches, allocators and kernels)."""
    seconds: dict[str, list[float]] = {way: [] for way in contest.ways}
    for turn in range(runs + 1):
        sys.stderr.write(f"{name}: {f'round {turn} of {runs}' if turn else 'warm-up'}\n")
        for way, do in contest.ways.items():
            gc.collect()
            taken = do() / contest.units.get(way, 1)
            if turn:
                seconds[way].append(taken)
    return Timings(seconds, contest, contest.check())


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Returns the seconds that `work` takes, including its work on the accelerator."""
    started = clock(device)
    work()
    return clock(device) - started


def clock(device: torch.device) -> float:
    """Waits until the device has finished its work and returns the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
