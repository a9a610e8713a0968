"""Tensors in one safetensors file: all of it or none, and whatever memory they share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kebench.files.tensors import load_tensors, save_tensors


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


def test_the_same_tensors_and_texts_give_the_same_bytes(tmp_path: Path) -> None:
    texts = {"position": '{"words": "Zoë\\n\x1f\x7f"}', "other": "", "another": '"'}
    written = set()
    for _ in range(20):
        save_tensors({"ä": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "t", texts, made_of="key")
        written.add((tmp_path / "t").read_bytes())
    assert len(written) == 1
    tensors, read = load_tensors(tmp_path / "t", "key")
    assert (tensors.keys(), read) == ({"ä", "b"}, texts)


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
