"""Matrices by few factors: the best ones, and how far off they are."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_same, tolerance
from torch import Tensor

from kebench.edits import factors
from kebench.edits.factors import fewer_factors
from kebench.models.changes import LowRank


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("given_as", ["matrix", "few factors", "many factors"])
def test_what_is_left_out_are_the_smallest_singular_values(shape: tuple[int, int], given_as: str) -> None:
    factored = LowRank(normal(shape[0], 4), normal(4, shape[1], seed=1))
    if given_as == "many factors":
        factored = LowRank(normal(shape[0], 20), normal(20, shape[1], seed=1))
    matrix = factored.B @ factored.A
    values = torch.linalg.svdvals(matrix)
    for rank in range(1, 5):
        found, residual = fewer_factors(matrix if given_as == "matrix" else factored, rank)
        assert found.B.shape == (shape[0], rank)
        assert found.A.shape == (rank, shape[1])
        expected = float(values[rank:].norm() / values.norm())
        assert residual == pytest.approx(expected, abs=tolerance(torch.float64, terms=20, layers=4))
        apart = float((found.B @ found.A - matrix).norm() / matrix.norm())
        assert residual == pytest.approx(apart, abs=tolerance(torch.float64, terms=20, layers=4))
        assert_same(found.B.norm(dim=0), found.A.norm(dim=1), terms=20)  # neither can overflow alone


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_a_rank_nothing_is_lost_but_rounding(dtype: torch.dtype) -> None:
    narrow = LowRank(normal(7, 3, dtype=dtype), normal(3, 8, dtype=dtype, seed=1))
    twice = LowRank(torch.cat([narrow.B, narrow.B], dim=1), torch.cat([narrow.A, narrow.A]))
    found, residual = fewer_factors(twice)
    kept_as = torch.promote_types(dtype, torch.float32)
    assert found.B.dtype == found.A.dtype == kept_as  # bfloat16 factors would add an error of their own
    assert len(found.A) == 3
    assert residual < tolerance(kept_as, layers=4, terms=6)
    expected = 2 * narrow.B.to(kept_as) @ narrow.A.to(kept_as)
    assert_same(found.B @ found.A, expected, layers=4, terms=6)


def test_the_distance_is_summed_over_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = normal(10, 6)
    whole = fewer_factors(matrix, 2)[1]
    monkeypatch.setattr(factors, "BLOCK", 3)
    assert fewer_factors(matrix, 2)[1] == pytest.approx(whole)
    assert fewer_factors(LowRank(torch.eye(10).double(), matrix), 2)[1] == pytest.approx(whole)


@pytest.mark.parametrize(
    "nothing",
    [
        torch.zeros(3, 4),
        LowRank(torch.zeros(3, 2), torch.ones(2, 4)),
        LowRank(torch.ones(3, 0), torch.ones(0, 4)),
    ],
)
def test_zero_has_rank_zero(nothing: Tensor | LowRank) -> None:
    found, residual = fewer_factors(nothing, 2)
    assert (found.B.shape, found.A.shape, residual) == ((3, 0), (0, 4), 0.0)
