from __future__ import annotations

import io

import pytest

from kebench.running import progress as module
from kebench.running.progress import Progress, Silent


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_plain_lines_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    tell = Progress(stream)
    tell.stage("edit identity")
    for done in range(0, 101, 10):
        tell(done, 100)
        clock.now += 15
    # One line at once, then one every 20 s at the earliest, and one at the end. 10 steps take 15 s.
    assert stream.getvalue().splitlines() == [
        "edit identity: 0/100",
        "edit identity: 20/100, 2 min 00 s left",
        "edit identity: 40/100, 1 min 30 s left",
        "edit identity: 60/100, 1 min 00 s left",
        "edit identity: 80/100, 30 s left",
        "edit identity: 100/100",
    ]


def test_what_was_done_before_an_interruption_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    tell = Progress(stream)
    tell.stage("edit identity")
    tell(90, 100)
    clock.now += 30
    tell(95, 100, "loss 1")
    assert stream.getvalue().splitlines()[-1] == "edit identity: 95/100, 30 s left  loss 1"


def test_a_new_stage_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    tell = Progress(stream)
    for stage in ("one", "two"):
        tell.stage(stage)
        tell(0, 10)
        clock.now += 1
        tell(1, 10)
    assert stream.getvalue().splitlines() == ["one: 0/10", "two: 0/10"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_is_cleared() -> None:
    stream = Terminal()
    tell = Progress(stream)
    tell.stage("edit identity")
    tell(0, 4)
    tell(4, 4, "words")
    tell.close()
    tell.close()
    assert "edit identity" in stream.getvalue()
    assert "0/4" in stream.getvalue()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_silence() -> None:
    stream = io.StringIO()
    tell = Silent(stream)
    tell.stage("x")
    tell(1, 1)
    tell.close()
    assert stream.getvalue() == ""


def test_it_goes_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    tell = Progress()
    tell.stage("x")
    tell(1, 1)
    assert capsys.readouterr() == ("", "x: 1/1\n")
