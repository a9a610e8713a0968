"""Teacher-forced rows: padding, losses, divergences, and what counts as preferred."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import assert_same
from torch import Tensor

from kebench.models.rows import (
    IGNORE,
    Rows,
    all_argmax,
    least_margin,
    only_at,
    pad,
    target_loss,
)

CPU = torch.device("cpu")


def rows_of(labels: list[list[int]]) -> Rows:
    return Rows.of({"input_ids": torch.zeros(len(labels), 1)}, pad(labels, IGNORE, CPU))


@pytest.mark.parametrize(
    ("left", "expected"),
    [(False, [[1, 2, 3], [4, 9, 9], [9, 9, 9]]), (True, [[1, 2, 3], [9, 9, 4], [9, 9, 9]])],
)
def test_padding(left: bool, expected: list[list[int]]) -> None:
    assert pad([[1, 2, 3], [4], []], 9, CPU, left=left).tolist() == expected


def test_rows_name_the_row_of_every_scored_position() -> None:
    rows = rows_of([[5, 6], [IGNORE, 7], [8]])
    assert rows.labels.tolist() == [5, 6, 7, 8]
    assert rows.row.tolist() == [0, 0, 1, 2]
    assert rows.batch == 3


@given(seed=st.integers(0, 999), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_the_mean_cross_entropy_of_each_rows_tokens(seed: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (4,), generator=generator).tolist()
    labels = [torch.randint(0, 7, (length,), generator=generator).tolist() for length in lengths]
    rows = rows_of(labels)
    logits = torch.randn(sum(lengths), 7, generator=generator, dtype=torch.float64) * 3
    expected = torch.stack(
        [
            F.cross_entropy(part, torch.tensor(label), label_smoothing=smoothing)
            for part, label in zip(logits.split(lengths), labels, strict=True)
        ]
    )
    assert_same(target_loss(logits, rows, smoothing=smoothing), expected, layers=2, terms=7)


def test_the_loss_by_hand() -> None:
    # p = (1/4, 3/4): -ln 3/4 and -ln 1/4, a mean of (ln 4 - ln 3 + ln 4) / 2
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    found = target_loss(logits, rows_of([[1, 0]])).item()
    assert found == pytest.approx((2 * math.log(4) - math.log(3)) / 2, rel=1e-14)


@pytest.mark.parametrize(
    ("logits", "preferred"),
    [
        ([[2.0, 1.0], [0.0, 1.0]], True),
        ([[2.0, 1.0], [1.0, 0.0]], False),
        ([[1.0, 2.0], [0.0, 1.0]], False),
        ([[1.0, 1.0], [0.0, 1.0]], True),  # of equals the first is the likeliest
        ([[2.0, 1.0], [1.0, 1.0]], False),
        (
            [[float("nan"), 1.0], [0.0, float("nan")]],
            True,
        ),  # torch calls NaN the largest; is_finite catches it
    ],
)
def test_a_target_is_preferred_if_each_token_is(logits: list[list[float]], preferred: bool) -> None:
    assert all_argmax(torch.tensor(logits), rows_of([[0, 1]])).tolist() == [preferred]


def test_one_rows_miss_is_not_anothers() -> None:
    rows = rows_of([[0, 0], [0], [0, 0]])
    logits = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0]])
    assert all_argmax(logits, rows).tolist() == [False, True, True]


def test_the_least_margin_of_each_row() -> None:
    logits = torch.tensor([[3.0, 1, 0], [0, 5, 4.5], [1, 0, 9]])
    assert least_margin(logits, rows_of([[0, 1], [2]])).tolist() == [0.5, 8.0]


def test_the_output_layer_sees_everything_again_afterwards() -> None:
    network = tiny.model("gpt2").network
    mask = torch.tensor([[True, False]])
    with pytest.raises(RuntimeError, match="inside"), only_at(network, mask):
        raise RuntimeError("inside")
    logits: Tensor = network(input_ids=torch.tensor([[1, 2]])).logits
    assert logits.shape[:2] == (1, 2)
