"""Ways of doing the same work, timed in turn: A, B, A, B, …, so that a machine's moods meet all of them."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

Way = Callable[[], float]
"""Does the work once; the seconds it took, whatever was only prepared for it left out."""


@dataclass(frozen=True)
class Contest:
    """Ways of doing the same work.

    Attributes:
        ways: name → way; ours first, what the others are compared with last.
        units: how many rows, or edits, each way does in a run; 1 where it is left out.
        operations: what a unit costs at least: multiplications and additions of matrix products.
        check: looks at what the ways came to; a few words for the table. Raises where they must agree and do
            not.
    """

    ways: Mapping[str, Way]
    operations: float
    units: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[], str] = lambda: ""

    @property
    def reference(self) -> str:
        """The way the others are compared with."""
        return list(self.ways)[-1]


@dataclass(frozen=True)
class Ratio:
    """A median over rounds, and the least and the largest."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> "Ratio":
        """The median of the values, and their range."""
        return Ratio(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timings:
    """The seconds a unit took each way, round by round.

    Attributes:
        seconds: way → one number a round.
        contest: what was timed.
        note: what `Contest.check` said.
    """

    seconds: Mapping[str, list[float]]
    contest: Contest
    note: str

    def median(self, way: str) -> float:
        """The median seconds a unit."""
        return statistics.median(self.seconds[way])

    def ratio(self, way: str, to: str) -> Ratio:
        """How many times the seconds of `to` a way takes: within each round, then the median over rounds."""
        pairs = zip(self.seconds[way], self.seconds[to], strict=True)
        return Ratio.of([one / other for one, other in pairs])


def take_turns(name: str, contest: Contest, runs: int) -> Timings:
    """Times each way `runs` times, after one round that does not count (caches, allocators, kernels)."""
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
    """The seconds a piece of work takes, the accelerator's part included."""
    started = clock(device)
    work()
    return clock(device) - started


def clock(device: torch.device) -> float:
    """The time in seconds, once everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
