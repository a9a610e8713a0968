"""Sets how an accelerator computes, because this decides the last bits of the results."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
