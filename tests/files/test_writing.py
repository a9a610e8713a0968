"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from kebench.files.json import write_json
from kebench.files.writing import replacing, write_text


def test_a_text_is_written_in_utf_8_with_its_own_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "a.txt"
    write_text("é\r\nb\n", file)
    assert file.read_bytes() == b"\xc3\xa9\r\nb\n"
    assert list(file.parent.iterdir()) == [file]


def test_json_has_one_format(tmp_path: Path) -> None:
    write_json({"b": ["é"], "a": None}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": [\n    "é"\n  ],\n  "a": null\n}\n'


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    file = tmp_path / "a.txt"
    write_text("old", file)
    with pytest.raises(error):
        _write_half(file, error)
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def _write_half(file: Path, error: type[BaseException]) -> None:
    with replacing(file) as partial:
        partial.write_text("ne", encoding="utf-8")
        raise error


@pytest.mark.parametrize("value", ["\ud800", float("nan")])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, value: object) -> None:
    file = tmp_path / "a.json"
    write_json("old", file)
    with pytest.raises(ValueError):  # noqa: PT011
        write_json(value, file)
    assert file.read_text(encoding="utf-8") == '"old"\n'
    assert list(tmp_path.iterdir()) == [file]
