"""Every file of a run, a cache and a leaderboard is damaged in many ways; then the command runs again.

The outcome is what there was before, or one line and status 2: nothing is changed silently, and no traceback.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Kebench, contents
from worlds import World

pytestmark = pytest.mark.slow

Damage = Callable[[bytes, bytes | None], bytes | None]
IN_SEQUENCE = ("--regime", "sequential", "--edits", "4", "--batch", "2", "--ask-after", "2")


def cut(share: float) -> Damage:
    return lambda content, _: content[: int(share * len(content))]


def flip(share: float, bit: int) -> Damage:
    def flipped(content: bytes, _: bytes | None) -> bytes:
        place = min(int(share * len(content)), len(content) - 1)
        return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]

    return flipped


WAYS: dict[str, Damage] = {
    "emptied": cut(0),
    **{f"cut at {share:.0%}": cut(share) for share in (0.01, 0.3, 0.6, 0.9)},
    "without its last byte": lambda content, _: content[:-1],
    "without its last line": lambda content, _: b"".join(content.splitlines(keepends=True)[:-1]),
    **{f"a bit flipped at {share:.0%}": flip(share, 1) for share in (0, 0.2, 0.5, 0.7, 0.9, 1)},
    "a high bit flipped": flip(0.4, 128),
    "another's": lambda _, other: other,
    "deleted": lambda _, __: None,
}


def damaged(folder: Path, others: Path) -> Iterator[tuple[Path, str]]:
    """Damages each file of a folder in each way, and puts the folder back as it was afterwards.

    Args:
        folder: the folder.
        others: another folder of the same kind.
    """
    kept = folder.with_name(f"{folder.name} as it was")
    shutil.copytree(folder, kept)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.name.endswith(".lock"):
            continue
        content, other = file.read_bytes(), others / file.relative_to(folder)
        for way, damage in WAYS.items():
            changed = damage(content, other.read_bytes() if other.is_file() else None)
            if changed == content or (changed is None and way != "deleted"):
                continue
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            yield file, way
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)


def try_all(
    folder: Path, others: Path, command: Callable[[Path], tuple[int, str, str]], capsys: Any, what: str
) -> None:
    """Damages, runs, and compares; prints how often the outcome was which."""
    before, outcomes = contents(folder), Counter[str]()
    for file, way in damaged(folder, others):
        status, _, err = command(file)
        where = f"{file.relative_to(folder)} {way}: {err}"
        assert "Traceback" not in err, where
        if status == 0:
            assert contents(folder) == before, where
            outcomes["as before"] += 1
        else:
            assert status == 2, where
            assert err.splitlines()[-1].startswith("kebench: "), where
            outcomes["one line"] += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{what}: {outcomes.total()} damaged files, {dict(outcomes)}\n")
    assert outcomes["as before"]
    assert outcomes["one line"] or what.startswith("cache")


@pytest.mark.parametrize("regime", [(), IN_SEQUENCE], ids=["single", "sequential"])
def test_a_damaged_run(
    regime: tuple[str, ...],
    classifier: World,
    kebench: Kebench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("run", "--editor", "oracle", "--task", classifier.task, "--limit", "12", *regime)
    run, other = tmp_path / "run", tmp_path / "other"
    assert kebench(*words, "--output", run)[0] == 0
    assert kebench(*words, "--seed", "1", "--output", other)[0] == 0
    try_all(run, other, lambda _: kebench(*words, "--output", run), capsys, f"run {' '.join(regime[:2])}")


def test_a_damaged_cache(
    classifier: World,
    kebench: Kebench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    for room in ("packs", "models"):
        shutil.copytree(classifier.home / room, home / room)
    monkeypatch.setenv("KEBENCH_HOME", str(home))
    words = ("run", "--editor", "doubles:Dial", "--task", classifier.task, "--limit", "2")
    assert kebench(*words, "--output", tmp_path / "run")[0] == 0
    others = tmp_path / "others"
    for room in ("answers", "states"):
        files = sorted(path for path in (home / room).rglob("*") if path.is_file() and path.name != ".lock")
        for file in files:  # another file of the same folder
            beside = [each for each in files if each.suffix == file.suffix and each != file]
            if beside:
                (others / room / file.relative_to(home / room)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(beside[0], others / room / file.relative_to(home / room))
        rerun = (*words, "--output", tmp_path / f"again {room}")

        def again(_: Path, rerun: tuple[Any, ...] = rerun, room: str = room) -> tuple[int, str, str]:
            shutil.rmtree(rerun[-1], ignore_errors=True)
            if room == "answers":  # those to train with are read only to train
                shutil.rmtree(home / "states")
            return kebench(*rerun)

        try_all(home / room, others / room, again, capsys, f"cache of {room}")


def test_a_damaged_leaderboard(
    classifier: World, kebench: Kebench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task, "--limit", "8")
    boards, other = tmp_path / "boards", tmp_path / "other boards"
    for folder, seed in ((boards, "0"), (other, "1")):
        run = tmp_path / f"run {seed}"
        assert kebench(*words, "--seed", seed, "--output", run)[0] == 0
        assert kebench("leaderboard", run, "--folder", folder)[0] == 0
    names = sorted(path.relative_to(boards) for path in boards.rglob("*") if path.is_file())
    elsewhere = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for name, from_there in zip(names, elsewhere, strict=True):  # the names hold the setting's key
        if name != from_there:
            (other / from_there).rename(other / name)

    def check_then_rebuild(file: Path) -> tuple[int, str, str]:
        checked = kebench("leaderboard", "--check", "--folder", boards)
        if checked[0] == 0:
            return checked
        rebuilt = kebench("leaderboard", "--folder", boards)
        assert "Traceback" not in rebuilt[2]
        return checked if file.parent.name == "records" else rebuilt  # what was measured cannot be rebuilt

    try_all(boards, other, check_then_rebuild, capsys, "leaderboard")
