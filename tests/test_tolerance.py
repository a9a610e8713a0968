"""The tolerances themselves: rounding passes, a dropped term does not."""

from __future__ import annotations

import pytest
import tiny
import torch
from tolerance import assert_same, through, tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_another_order_passes_and_a_dropped_term_fails(dtype: torch.dtype) -> None:
    terms = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=dtype)
    depth = {"terms": len(terms), "size": terms.abs().max().item()}
    assert_same(terms.flip(0).cumsum(0)[-1], terms.sum(), **depth)
    for dropped in range(0, 200, 20):
        rest = torch.cat([terms[:dropped], terms[dropped + 1 :]]).sum()
        with pytest.raises(AssertionError, match="not close"):
            assert_same(rest, terms.sum(), **depth)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_networks_tolerance_is_far_below_what_a_wrong_layer_changes(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    depth = through(base)
    assert depth["layers"] >= 10  # twice four matrices or more, the output layer, and one
    assert depth["terms"] == (64 if kind == "gpt2" else 24)  # the inner layer's width
    assert tolerance(torch.float64, **depth) < 1e-12
    assert tolerance(torch.float32, **depth) < 1e-4


def test_structures_are_compared_part_by_part() -> None:
    one, two = torch.ones(2), torch.full((2,), 2.0)
    assert_same({"a": one, "b": [two, two]}, {"a": one, "b": (two, two)})
    assert_same([], [])
    for wrong in ({"a": one}, {"a": one, "b": [two]}, {"a": one, "b": [two, one]}, [one, two]):
        with pytest.raises((AssertionError, ValueError)):
            assert_same(wrong, {"a": one, "b": [two, two]})
