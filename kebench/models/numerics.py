"""Sets how an accelerator computes, because this decides the last bits of the results."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


@contextmanager
def numerics(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Uses deterministic kernels inside the block, and TF32 only if requested. On a CPU it does nothing.

    Afterwards the settings are as before. An operation without a deterministic kernel runs with a warning,
    because an editor may need it.

    Args:
        device: the device on which numbers are computed.
        tf32: if True, float32 products are rounded to TF32, which has 10 bits of mantissa. cuDNN does this by
            default, so it has to be switched off for float32.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads this when it is first used. Without it, even matrix products are not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = _flags()
    # Of the kernels for attention only the plain one has a deterministic gradient while others merely warn.
    _set(_Flags(True, True, tf32, tf32, False, False, False))
    try:
        yield
    finally:
        _set(before)


class _Flags(NamedTuple):
    """The settings of PyTorch that `numerics` changes."""

    deterministic: bool
    warn_only: bool
    products_tf32: bool
    cudnn_tf32: bool
    flash_attention: bool
    memory_efficient_attention: bool
    cudnn_attention: bool


def _flags() -> _Flags:
    cuda = torch.backends.cuda
    return _Flags(
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )


def _set(flags: _Flags) -> None:
    cuda = torch.backends.cuda
    torch.use_deterministic_algorithms(flags.deterministic, warn_only=flags.warn_only)
    cuda.matmul.allow_tf32 = flags.products_tf32
    torch.backends.cudnn.allow_tf32 = flags.cudnn_tf32
    cuda.enable_flash_sdp(flags.flash_attention)
    cuda.enable_mem_efficient_sdp(flags.memory_efficient_attention)
    cuda.enable_cudnn_sdp(flags.cudnn_attention)
