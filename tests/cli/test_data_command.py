"""`kebench data verify`, `lint` and `formats`."""

from __future__ import annotations

from pathlib import Path

from commands import Kebench, mistaken
from worlds import World


def test_verify(classifier: World, kebench: Kebench) -> None:
    status, out, err = kebench("data", "verify", classifier.pack.folder)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "ok"
    assert "licence: CC0" in out


def test_formats(kebench: Kebench) -> None:
    assert "mend_zsre" in kebench("data", "formats")[1].split()


def imported(kebench: Kebench, folder: Path, *lines: str) -> tuple[int, str, str]:
    (folder / "mine.csv").write_text("\n".join(("prompt,label,paraphrases,split", *lines)))
    return kebench("data", "import", "--format", "records", folder / "mine.csv", "--out", folder / "pack")


def test_lint_reports_and_fails_only_if_something_is_found(kebench: Kebench, tmp_path: Path) -> None:
    sound = [
        f"Claim {n} is {label}.,{label},It is {label}: {n},test" for n in range(5) for label in ("so", "not")
    ]
    assert imported(kebench, tmp_path, *sound)[0] == 0
    status, out, err = kebench("data", "lint", tmp_path / "pack")
    assert (status, err) == (0, "")
    assert out.splitlines()[-3:] == [
        "  label not: train 0, dev 0, test 5", "  label so: train 0, dev 0, test 5", "nothing found",
    ]  # fmt: skip

    imported(kebench, tmp_path, *sound, sound[0], sound[1].replace("not,", "so,"))
    status, out, err = kebench("data", "lint", tmp_path / "pack", "--show", "1")
    assert (status, err) == (1, "")
    assert "contradiction: 1" in out.splitlines()
    assert "duplicate: 2" in out.splitlines()
    assert out.count("has the prompt of") == 1
    assert out.splitlines()[-1].endswith(" findings")


def test_lint_needs_a_pack(kebench: Kebench, tmp_path: Path) -> None:
    mistaken(kebench("data", "lint", tmp_path), f"no pack named '{tmp_path}'")
