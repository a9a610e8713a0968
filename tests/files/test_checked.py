"""Files that carry a checksum: what is damaged, or made from something else, is not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kebench.files.checked import (
    Damaged,
    is_sealed,
    read_lines,
    read_or_none,
    read_sealed,
    sealed,
    sha256_of,
    write_lines,
    write_sealed,
)
from kebench.files.tensors import load_tensors, save_tensors


def write_object(path: Path, made_of: str) -> None:
    write_sealed({"a": 1.5, "b": ["é"]}, path, made_of)


def write_two_lines(path: Path, made_of: str) -> None:
    write_lines(['{"a": 1}', '{"b": "é"}'], path, made_of)


def write_tensors(path: Path, made_of: str) -> None:
    tensors = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "h": torch.ones(0, 2)}
    save_tensors(tensors, path, {"step": "1"}, made_of=made_of)


FORMS: dict[str, tuple[Callable[[Path, str], None], Callable[[Path, str], object]]] = {
    "object": (write_object, read_sealed),
    "lines": (write_two_lines, read_lines),
    "tensors": (write_tensors, load_tensors),
}
FORM = pytest.mark.parametrize("form", FORMS)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_object(tmp_path / "o", "x")
    assert read_sealed(tmp_path / "o", "x") == {"a": 1.5, "b": ["é"]}
    write_two_lines(tmp_path / "l", "x")
    assert read_lines(tmp_path / "l", "x") == ['{"a": 1}', '{"b": "é"}']
    write_tensors(tmp_path / "t", "x")
    tensors, texts = load_tensors(tmp_path / "t", "x")
    assert torch.equal(tensors["w"], torch.arange(6.0).view(2, 3))
    assert (tensors["n"].shape, tensors["h"].shape, texts) == ((), (0, 2), {"step": "1"})


@FORM
def test_what_was_made_from_something_else_is_refused(form: str, tmp_path: Path) -> None:
    write, read = FORMS[form]
    write(tmp_path / "f", "x")
    with pytest.raises(Damaged, match=r"checksum|something else"):
        read(tmp_path / "f", "y")


@FORM
def test_no_byte_can_change_and_no_end_can_be_lost(form: str, tmp_path: Path) -> None:
    """A change that is believed all the same leaves the content as it was, such as a space between fields."""
    write, read = FORMS[form]
    file = tmp_path / "f"
    write(file, "x")
    content, wanted = file.read_bytes(), str(read(file, "x"))
    damaged = [content[:end] for end in range(len(content))]
    damaged += [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    refused = 0
    for each in damaged:
        file.write_bytes(each)
        try:
            assert str(read(file, "x")) == wanted
        except Damaged:
            refused += 1
    assert refused >= len(damaged) - 3


def test_a_checksum_covers_every_field_and_what_it_was_made_from() -> None:
    fields = sealed({"a": 1, "b": {"c": None}}, "x")
    assert is_sealed(fields, "x")
    assert is_sealed(dict(reversed(fields.items())), "x")
    assert not is_sealed(fields, "y")
    assert not is_sealed({**fields, "a": 2}, "x")
    assert not is_sealed({**fields, "d": 2}, "x")
    assert not is_sealed({"a": 1}, "x")
    assert sealed(fields, "x") == fields
    assert sha256_of(b"ab", b"c") != sha256_of(b"a", b"bc")


def test_a_damaged_file_is_one_warning_and_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "f"
    assert read_or_none(file, lambda: read_sealed(file)) is None
    assert caplog.messages == []
    file.write_text(json.dumps({"a": 1}))
    assert read_or_none(file, lambda: read_sealed(file)) is None
    assert caplog.messages == [f"{file}: its checksum is not right; it is made again"]
    file.unlink()
    file.mkdir()
    assert read_or_none(file, lambda: read_sealed(file)) is None
    assert caplog.messages[1:] == [f"{file}: cannot be read (IsADirectoryError); it is made again"]
