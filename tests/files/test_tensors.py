"""Tensors in one safetensors file: all of it or none, and whatever memory they share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kebench.files.tensors import save_tensors


def test_a_write_cut_off_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_tensors({"a": torch.ones(2)}, path)

    def cut_off(_tensors: object, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("kebench.files.tensors.save_file", cut_off)
    with pytest.raises(OSError, match="disk full"):
        save_tensors({"a": torch.zeros(2)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_that_share_or_are_views_are_written_whole(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    save_tensors(
        {"a": whole, "b": whole, "c": whole.T, "d": whole[1], "e": torch.tensor(2.0)}, tmp_path / "t"
    )
    read = load_file(tmp_path / "t")
    assert torch.equal(read["c"], whole.T)
    assert torch.equal(read["d"], whole[1])
    assert torch.equal(read["a"], read["b"])
    assert read["e"].shape == ()
