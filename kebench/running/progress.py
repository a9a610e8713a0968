"""Shows progress and the time left: as a bar on a terminal, elsewhere as a line every 20 seconds."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """Shows the progress of the stages of a run. Call it with the steps done, all steps, and a few words."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._bar: Any = None
        self._stage = ""
        self._started = self._told = 0.0
        self._first = 0

    def stage(self, name: str) -> None:
        """Ends the stage before, and begins another."""
        self.close()
        self._stage, self._started, self._told, self._first = name, time.monotonic(), 0.0, -1

    def __call__(self, done: int, total: int, words: str = "") -> None:
        """Shows that `done` of `total` steps of the stage are done."""
        now = time.monotonic()
        if self._first < 0:  # a resumed stage does not start at 0, and its rate is measured from here
            self._first, self._started = done, now
        if self._stream.isatty():
            self._draw(done, total, words)
        elif now - self._told >= SECONDS_BETWEEN_LINES or done >= total:
            self._told = now
            rate = (done - self._first) / (now - self._started) if now > self._started else 0.0
            left = f", {_clock((total - done) / rate)} left" if rate > 0 and done < total else ""
            self._stream.write(f"{self._stage}: {done}/{total}{left}{'  ' + words if words else ''}\n")
            self._stream.flush()

    def _draw(self, done: int, total: int, words: str) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, desc=self._stage, file=self._stream, leave=False, initial=done)
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Ends the stage and removes its bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Silent(Progress):
    """Shows nothing."""

    def __call__(self, done: int, total: int, words: str = "") -> None:
        """Does nothing."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
