"""Names that become parts of paths stay in their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from kebench.errors import BadSetting
from kebench.files.names import unsafe
from kebench.scoring.record import editor_folder


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "...", " ", "../x", "a/b", "/x", "a\\b", "a\nb", "a\0b", "a\x1b[2J", "x" * 101, "\ud800"],
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    assert unsafe(name)


@pytest.mark.parametrize("name", ["zsre", "zsre-mend", "a b", ".hidden", "Prüfung", "x" * 100, "v1.2"])
def test_other_names_are_safe(name: str) -> None:
    assert unsafe(name) is None
    assert unsafe(f"{name[:40]}/{name[:40]}", parts=True) is None


@pytest.mark.parametrize("name", ["../x", "x/../y", "x//y", "/x", "x/"])
def test_no_part_of_a_name_leads_upwards(name: str) -> None:
    assert unsafe(name, parts=True)


@pytest.mark.parametrize("name", ["", ".", "..", "....", "x" * 300])
def test_an_editor_needs_a_folder_of_its_own(name: str) -> None:
    with pytest.raises(BadSetting, match=r"^editor: found '"):
        editor_folder(Path("runs"), name)
    assert editor_folder(Path("runs"), "../../a@b+c") == Path("runs/-..-a-b-c")
