"""The rows of a long run are checked, scored and tabled in memory that hardly grows with their number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from doubles import Oracle
from worlds import World

from kebench.files.checked import sealed
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.scoring.rows import RowsTally, Trial, read_base, read_trials, rows_key, to_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc"),
]

FEW, MANY = 500, 3000
ROW_BYTES = 5000
BYTES_AN_EDIT = 1500
"""More than the id, the fact and the scores of an edit take, and much less than its row."""

COMMAND = """
import sys
from kebench.cli import main
{also}
try:
    main()
finally:
    print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""
KEEPS_ALL_ROWS = """
from kebench.leaderboard import runs
plain = runs.read_trials
runs.read_trials = lambda *given, **named: iter(list(plain(*given, **named)))
"""


def many_of(trials: Iterable[Trial], count: int) -> Iterator[Trial]:
    """Other edits with the same answers, and with long prompts."""
    kept = list(trials)
    for number in range(count):
        trial = kept[number % len(kept)]
        prompt = f"{number} " + "x" * ROW_BYTES
        yield replace(
            trial,
            answers=replace(trial.answers, id=f"e{number}", fact=f"fact {number}", prompt=prompt),
        )


@pytest.fixture
def with_rows(classifier: World, tmp_path: Path) -> Callable[[int], Path]:
    """A function that gives the folder of a run with some number of rows."""

    def made(count: int) -> Path:
        settings = classifier.settings(tmp_path / f"run of {count}", "oracle")
        folder, (record,) = run(settings, editors={"oracle": Oracle()}, progress=Silent())
        rows, setting = folder / "oracle" / "edits.jsonl", replace(record.setting, edits=count)
        key = rows_key(setting, record.editor_path, record.editor_settings)
        tally = RowsTally(read_base(folder), setting)
        trials = list(read_trials(rows))
        with rows.open("w", encoding="utf-8") as lines:
            for trial in many_of(trials, count):
                tally.add(trial)
                lines.write(to_line(trial, key))
        saved = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        del saved["sha256"]
        saved["setting"] = json.loads(json.dumps(setting.to_json()))
        (folder / "run.json").write_text(json.dumps(sealed(saved)), encoding="utf-8")
        scores = tally.scores()["final"]
        replace(record, setting=setting, scores=scores).sealed().write(folder / "oracle" / "record.json")
        return folder

    return made


def peak_bytes(run_folder: Path, also: str) -> int:
    """Returns the peak memory of `kebench leaderboard`, which adds a run."""
    words = ["leaderboard", str(run_folder), "--folder", str(run_folder.with_name(f"{run_folder.name}'s"))]
    command = [sys.executable, "-c", COMMAND.format(also=also), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout.split()[-1])


def test_a_row_takes_little_memory_until_it_is_in_a_table(with_rows: Callable[[int], Path]) -> None:
    few, many = with_rows(FEW), with_rows(MANY)
    assert peak_bytes(many, "") - peak_bytes(few, "") < BYTES_AN_EDIT * (MANY - FEW)
    kept = peak_bytes(many, KEEPS_ALL_ROWS) - peak_bytes(few, KEEPS_ALL_ROWS)
    assert kept > 2 * BYTES_AN_EDIT * (MANY - FEW), "rows that are kept would not be noticed"
