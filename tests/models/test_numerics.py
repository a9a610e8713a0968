"""What is set while numbers are computed on an accelerator, and put back. The flags need none to be set."""

from __future__ import annotations

import pytest
import torch

from kebench.models.numerics import numerics

State = tuple[bool, ...]


def state() -> State:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
    )


PLAIN_ATTENTION = (False, False, False)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_deterministic_and_tf32_only_where_asked_for(
    device: str, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # a user's own stays
    before = state()
    with numerics(torch.device(device), tf32=tf32):
        assert state() == (True, True, tf32, tf32, *PLAIN_ATTENTION)
        with numerics(torch.device(device)):  # an editor that learns, in a run in TF32
            assert state() == (True, True, False, False, *PLAIN_ATTENTION)
        assert state() == (True, True, tf32, tf32, *PLAIN_ATTENTION)
    assert state() == before


def test_they_are_put_back_after_an_error_too() -> None:
    before = state()
    with pytest.raises(KeyError), numerics(torch.device("cuda"), tf32=True):
        raise KeyError
    assert state() == before


def test_a_cpu_is_left_alone() -> None:
    before = state()
    with numerics(torch.device("cpu"), tf32=True):
        assert state() == before


def test_what_cublas_needs_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with numerics(torch.device("cuda")):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
