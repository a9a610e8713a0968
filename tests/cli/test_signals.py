"""Commands that are interrupted, by Ctrl-C or by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Kebench
from worlds import World

from kebench.running.shard import EDITS_AT_ONCE

STOPS = [
    (signal.SIGINT, 130, "kebench: interrupted; the same command continues from here"),
    (signal.SIGTERM, 143, "kebench: terminated; the same command continues from here"),
]


@pytest.mark.parametrize(("number", "status", "said"), STOPS)
def test_an_interruption_says_how_to_go_on(
    number: int, status: int, said: str, kebench: Kebench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> list[str]:
        os.kill(os.getpid(), number)
        time.sleep(10)  # the signal's handler raises before this is over
        return []

    monkeypatch.setattr("kebench.cli.ls._tasks", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in a background job
    assert kebench("ls", "tasks") == (status, "", f"{said}\n")


WAITING = '''
import time
from dataclasses import dataclass
from pathlib import Path

from doubles import Oracle

from kebench.running.shard import EDITS_AT_ONCE

REACHED = Path(__file__).with_name("reached")
made = set()


@dataclass(frozen=True)
class Waiting(Oracle):
    """Waits in the second group of edits, the first time that it comes there."""

    def remember(self, state, base, batches, memories):
        made.update(edit.id for batch in batches for edit in batch)
        if len(made) > EDITS_AT_ONCE and not REACHED.exists():
            REACHED.touch()
            time.sleep(60)
        return super().remember(state, base, batches, memories)
'''


@pytest.mark.slow
def test_a_terminated_run_continues_to_the_same_bytes(
    classifier: World, kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waiting.py").write_text(WAITING, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("run", "--editor", "waiting:Waiting", "--task", str(classifier.task), "--output")
    reached, run = tmp_path / "reached", tmp_path / "run"

    process = subprocess.Popen(
        [sys.executable, "-m", "kebench", *words, str(run)],
        env=classifier.environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not reached.exists() and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, ""), err
    assert err.splitlines()[-1] == "kebench: terminated; the same command continues from here"
    assert "Traceback" not in err
    made = (run / "Waiting" / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(made) == EDITS_AT_ONCE

    assert kebench(*words, run)[0] == 0
    again = (run / "Waiting" / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    assert again[:EDITS_AT_ONCE] == made  # what was on file is kept
    assert kebench(*words, tmp_path / "whole")[0] == 0
    assert contents(run) == contents(tmp_path / "whole")


def contents(run: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The scores of a run, to the byte, and the answers that they are computed from."""
    rows = [json.loads(line) for line in (run / "Waiting" / "edits.jsonl").read_text().splitlines()]
    seconds = ("edit_seconds", "answer_seconds", "sha256")
    answers = [{name: value for name, value in row.items() if name not in seconds} for row in rows]
    return (run / "Waiting" / "scores.json").read_bytes(), answers
