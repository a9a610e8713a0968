"""How far two ways of computing the same numbers may lie apart: as far as rounding explains, and no further.

A sum of n products is off by at most about n·ε of the largest result, where ε is the dtype's precision, and
what passes through several layers collects that of each. So a tolerance is `layers` · `terms` · ε · the
largest expected number: it follows from what is computed, not from the processor a test was written on.

assert_same(found, expected, **through(base))             logits of a network
assert_same(found, expected, **through(base, passes=2))   gradients: forwards and backwards
assert_same(found, expected, terms=9)                     a sum of nine terms
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from kebench.models.layers import linear_maps, map_shape
from kebench.models.model import AbstractModel

Tensors = Tensor | Sequence["Tensors"] | Mapping[str, "Tensors"]


class Depth(TypedDict):
    """How much is computed: layers one after the other, terms in each one's sums."""

    layers: int
    terms: int


def through(base: AbstractModel, passes: int = 1) -> Depth:
    """A network's depth: each matrix is a layer (norms and attention belong to one), its width the terms."""
    maps = linear_maps(base.network).values()
    return {"layers": passes * (len(maps) + 1), "terms": max(map_shape(each)[1] for each in maps)}


def tolerance(dtype: torch.dtype, *, layers: int = 1, terms: int = 1, size: float = 1.0) -> float:
    """The largest difference that rounding explains between numbers of at most `size`."""
    return torch.finfo(dtype).eps * layers * terms * size


def assert_same(
    found: Tensors, expected: Tensors, *, layers: int = 1, terms: int = 1, size: float = 0.0
) -> None:
    """Compares tensors, or lists or mappings of tensors.

    Args:
        found, expected: of the same structure, shapes and dtypes.
        layers, terms: how deep, and how long, the sums are by which they were computed.
        size: of the largest number on the way, where it is larger than every expected one (what is left of
            a difference of two large numbers).
    """
    pairs = list(_pairs(found, expected))
    size = max([size, *(right.abs().max().item() for _, right in pairs if right.numel())])
    for left, right in pairs:
        near = tolerance(right.dtype, layers=layers, terms=terms, size=size)
        torch.testing.assert_close(left, right, rtol=0, atol=near)


def _pairs(found: Tensors, expected: Tensors) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        yield found, expected
    elif isinstance(expected, Mapping):
        assert isinstance(found, Mapping)
        assert set(found) == set(expected)
        for name, right in expected.items():
            yield from _pairs(found[name], right)
    else:
        for left, right in zip(found, expected, strict=True):
            yield from _pairs(left, right)
