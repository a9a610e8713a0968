"""Approximates a matrix by factors of the lowest rank that is exact up to rounding, or of a given rank."""

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.models.changes import LowRank

BLOCK = 1024
"""The number of rows of a product that are computed at a time, so that it is never in memory as a whole."""


def widest(device: torch.device) -> torch.dtype:
    """Returns float64 if the device has it, otherwise float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(*dtypes: torch.dtype) -> torch.dtype:
    """Returns the smallest type that holds every number of these types, and of float32, exactly."""
    found = torch.float32
    for dtype in dtypes:
        found = torch.promote_types(found, dtype)
    return found


def fewer_factors(
    change: LowRank | Float[Tensor, "d_out d_in"], rank: int | None = None
) -> tuple[LowRank, float]:
    """Returns the best approximation of a matrix by factors of low rank, in the Frobenius norm.

    It is a truncated singular value decomposition (Eckart and Young 1936), computed in float64 if the device
    has it. If factors are given, their triangular QR factors are decomposed, and not their product, which is
    much larger.

    Args:
        change: the matrix Δ, or its factors. All numbers are finite.
        rank: the largest rank of the result. With None, only rounding is left out: the smallest singular
            values, if their norm divided by that of the matrix is below the precision of the result or of the
            decomposition.

    Returns:
        Factors B and A of equal norm, in the type of `change` but at least float32; and the relative residual
        ‖Δ − B A‖ / ‖Δ‖ that was measured on them, which is 0 if Δ is 0.
    """
    given = (change.B, change.A) if isinstance(change, LowRank) else (change,)
    wide, kept_as = widest(given[0].device), at_least_float32(*(tensor.dtype for tensor in given))
    if isinstance(change, LowRank):
        left, upper = torch.linalg.qr(change.B.to(wide))  # (d_out, r), (r, rank) with r = min(d_out, rank)
        right, lower = torch.linalg.qr(change.A.to(wide).T)  # (d_in, s), (s, rank)
        u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        u, v = left @ u, v @ right.T
    else:
        u, values, v = torch.linalg.svd(change.to(wide), full_matrices=False)
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[i]: the norm of values i, i + 1, …
    size = float(tails[0]) if len(tails) else 0.0
    rounding = max(torch.finfo(kept_as).eps, max(len(u), v.shape[1]) * torch.finfo(wide).eps)
    keep = int((tails > rounding * size).sum())
    keep = keep if rank is None else min(keep, rank)
    root = values[:keep].sqrt()
    factors = LowRank((u[:, :keep] * root).to(kept_as), (root[:, None] * v[:keep]).to(kept_as))
    return factors, _distance(factors, change) / size if size else 0.0


def _distance(factors: LowRank, change: LowRank | Tensor) -> float:
    """Returns ‖Δ − B A‖, computed a block of rows at a time."""
    wide = widest(factors.B.device)
    a = factors.A.to(wide)
    total = 0.0
    for start in range(0, len(factors.B), BLOCK):
        rows = slice(start, start + BLOCK)
        if isinstance(change, LowRank):
            wanted = change.B[rows].to(wide) @ change.A.to(wide)
        else:
            wanted = change[rows].to(wide)
        total += float((wanted - factors.B[rows].to(wide) @ a).square().sum())
    return float(total**0.5)
