"""`kebench leaderboard`."""

from __future__ import annotations

from pathlib import Path

from commands import Kebench
from worlds import World


def test_from_run_to_leaderboard(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    run, boards = tmp_path / "run", tmp_path / "boards"
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task, "--output", run)
    assert kebench(*words)[0] == 0
    status, out, err = kebench("leaderboard", run, "--folder", boards)
    assert (status, err) == (0, "")
    assert all(Path(line).is_file() for line in out.splitlines())
    assert kebench("leaderboard", "--check", "--folder", boards)[0] == 0
    (table,) = (path for path in boards.rglob("*.md") if path.name != "README.md")
    table.write_text(table.read_text().replace("100.00", "99.00"))
    status, out, err = kebench("leaderboard", "--check", "--folder", boards)
    assert status == 2
    assert str(table.name) in out
    assert len(err.splitlines()) == 1
