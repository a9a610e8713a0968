"""`kebench data verify` and `formats`."""

from __future__ import annotations

from commands import Kebench
from worlds import World


def test_verify(classifier: World, kebench: Kebench) -> None:
    status, out, err = kebench("data", "verify", classifier.pack.folder)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "ok"
    assert "licence: CC0" in out


def test_formats(kebench: Kebench) -> None:
    assert "mend_zsre" in kebench("data", "formats")[1].split()
