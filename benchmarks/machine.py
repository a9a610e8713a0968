"""Describes the machine and measures how fast it multiplies matrices."""

import os

import torch

from benchmarks.settings import Settings
from benchmarks.timing import timed
from kebench.running.environment import hardware, versions


def machine(settings: Settings) -> dict[str, str | int | float]:
    """Returns CPU, cores, threads, accelerator, versions, type of the weights, and the measured rate."""
    found = versions()
    return {
        **hardware(settings.place),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "dtype": settings.type,
        "matmul_flops": matmul_rate(settings),
        **{name: found[name] for name in ("torch", "transformers", "kebench", "commit") if name in found},
    }


def matmul_rate(settings: Settings, times: int = 20) -> float:
    """Returns the operations in a second of the fastest of `times` large matrix products.

    No forward pass can have a higher rate.
    """
    size = 1536 if settings.device == "cpu" else 8192
    left, right = torch.randn(2, size, size, device=settings.place).to(settings.dtype)
    seconds = [timed(settings.place, lambda: left @ right) for _ in range(times)]
    return 2 * size**3 / min(seconds)


def described(found: dict[str, str | int | float]) -> str:
    """Returns a description of the machine in one line."""
    device = found.get("accelerator", found["device"])
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads; device {device},"
        f" {found['dtype']}; torch {found['torch']}, transformers {found['transformers']},"
        f" kebench {found.get('commit', found['kebench'])}; matrix products at"
        f" {float(found['matmul_flops']) / 1e12:.3g} TFLOP/s"
    )
