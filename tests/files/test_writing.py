"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path
from stat import S_ISDIR

import pytest
import torch
from commands import assert_usual_modes
from safetensors import SafetensorError

from kebench.files import writing
from kebench.files.json import write_json
from kebench.files.tensors import save_tensors
from kebench.files.writing import replacing, write_all, write_text


def test_a_text_is_written_in_utf_8_with_its_own_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "a.txt"
    write_text("é\r\nb\n", file)
    assert file.read_bytes() == b"\xc3\xa9\r\nb\n"
    assert list(file.parent.iterdir()) == [file]


def test_json_has_one_format(tmp_path: Path) -> None:
    write_json({"b": ["é"], "a": None}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": [\n    "é"\n  ],\n  "a": null\n}\n'


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    write_text("text", tmp_path / "text")
    write_all({tmp_path / "one of several": "text"})
    save_tensors({"a": torch.ones(2)}, tmp_path / "tensors")  # safetensors writes files for the owner alone
    assert_usual_modes(tmp_path)


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


def _write_half(file: Path, error: type[BaseException] | Exception) -> None:
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


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, done = tmp_path / "a.txt", []
    plain_fsync, plain_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append("folder" if S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        plain_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        done.append("name")
        return plain_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text("new", file)
    assert done == ["file", "name", "folder"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = writing.partial_of(tmp_path / "b.txt")
    left = mine.with_name(mine.name.replace(f"-{os.getpid()}.", f"-{ended.pid}."))
    elsewhere = mine.with_name(f".b.txt.00000000-{ended.pid}.partial")  # of another machine
    for file in (mine, left, elsewhere):
        file.touch()
    write_text("new", tmp_path / "a.txt")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.txt", mine, elsewhere])


def test_a_folder_that_was_being_replaced_gets_its_name_back(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in ("pack.replaced", "pack", "other.replaced", "other"):
        mine = writing.partial_of(tmp_path / name)
        left = mine.with_name(mine.name.replace(f"-{os.getpid()}.", f"-{ended.pid}."))
        left.mkdir()
        (left / "file").write_text(name)
    (tmp_path / "other").mkdir()
    writing.clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "other", tmp_path / "pack"]
    assert (tmp_path / "pack" / "file").read_text() == "pack.replaced"
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(ENOSPC, "no space"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, error: Exception) -> None:
    file = tmp_path / "a.txt"
    write_text("old", file)
    with pytest.raises(OSError, match="No space left on device") as found:
        _write_half(file, error)
    assert (found.value.errno, found.value.filename) == (ENOSPC, str(file))
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="invalid"), writing.naming(tmp_path):
        raise SafetensorError("invalid header")
    with pytest.raises(OSError, match=r"b\.txt") as found, writing.naming(tmp_path / "a.txt"):
        (tmp_path / "b.txt").read_bytes()
    assert found.value.filename == str(tmp_path / "b.txt")


def test_a_name_that_is_too_long_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long") as found:
        write_text("new", tmp_path / ("x" * 300))
    assert found.value.filename == str(tmp_path / ("x" * 300))
