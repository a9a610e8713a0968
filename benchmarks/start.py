"""(i) Measures the time of `kebench --help` in a new process."""

import subprocess
import sys

import torch

from benchmarks.lines import Line, Target
from benchmarks.session import Contests, Session
from benchmarks.settings import Settings
from benchmarks.timing import Contest, Ratio, timed

TARGET = Target("≤", cpu=0.3, cuda=0.3)
HELP, NOTHING = "kebench --help", "python -c pass"


def contest(_settings: Settings) -> Contest:
    """Compares the command with the start of Python alone."""

    def python(*words: str) -> float:
        command = [sys.executable, *words]
        return timed(torch.device("cpu"), lambda: subprocess.run(command, check=True, capture_output=True))

    return Contest(
        {HELP: lambda: python("-m", "kebench", "--help"), NOTHING: lambda: python("-c", "pass")}, operations=0
    )


CONTESTS: Contests = {"i help": contest}


def lines(session: Session) -> list[Line]:
    """Returns one line, in seconds. Its floor is the time that Python needs to start."""
    timings = session.timings("i help")
    return [
        Line(
            "i",
            HELP,
            Ratio.of(timings.seconds[HELP]),
            unit="s",
            target=TARGET,
            seconds=timings.median(HELP),
            floor=timings.median(NOTHING),
            note=f"floor: {NOTHING}",
        )
    ]
