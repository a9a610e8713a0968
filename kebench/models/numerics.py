"""What decides the last bits of a number on an accelerator: set here, and put back afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def numerics(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Deterministic kernels, and TF32 only where it is asked for; a CPU needs neither.

    An operation that has no deterministic kernel warns, and runs all the same: an editor may need it.

    Args:
        device: where the numbers are computed.
        tf32: let float32 products be rounded to TF32, 10 bits of mantissa; cuDNN would by default, so that
            not even `float32` were float32.
    """
    if device.type != "cuda":
        yield
        return
    # Read when cuBLAS is first used; without it, not even a matrix product is deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        products.allow_tf32,
        cudnn.allow_tf32,
    )
    _set(True, True, tf32, tf32)
    try:
        yield
    finally:
        _set(*before)


def _set(deterministic: bool, warn_only: bool, products_tf32: bool, cudnn_tf32: bool) -> None:
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.backends.cuda.matmul.allow_tf32 = products_tf32
    torch.backends.cudnn.allow_tf32 = cudnn_tf32
