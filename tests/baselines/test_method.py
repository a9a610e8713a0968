"""The paper's equations, each against numbers worked out by hand or against its plain dense form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kebench.baselines.knowledge_editor.additions import relative_lagrangian
from kebench.baselines.knowledge_editor.method import (
    HeadVectors,
    annealed,
    condition_text,
    edit_loss,
    kl_constraint,
    kl_constraint_over_hypotheses,
    l2_constraint,
    lagrangian,
    mask_of,
    masked_update,
    offset_of,
)
from tolerance import assert_same
from torch import Tensor

from kebench.edits.gradients import GradientFactors
from kebench.models.changes import LowRankBatch
from kebench.models.rows import Rows


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_the_condition() -> None:
    assert condition_text("Oslo", "Rome", "where?") == "Oslo >> Rome || where?"


def test_a_masked_update_is_the_dense_formula() -> None:
    edits, tokens, d_out, d_in = 2, 3, 4, 5
    alphas, betas = draw(2, edits, d_out)
    gammas, deltas = draw(2, edits, d_in)
    vectors = HeadVectors(alphas, betas, gammas, deltas, draw(edits, 1))
    gradient = GradientFactors(D=draw(edits, tokens, d_out), X=draw(edits, tokens, d_in))
    update = masked_update(gradient, mask_of(vectors), offset_of(vectors), 3 * vectors.eta.sigmoid())
    assert update.B.shape == (edits, d_out, tokens + 1)
    for edit in range(edits):
        alpha, beta, gamma, delta, eta = (vector[edit] for vector in vectors)
        dense = gradient.D[edit].T @ gradient.X[edit]
        expected = torch.outer(alpha.softmax(0), gamma) * dense + torch.outer(beta.softmax(0), delta)
        assert_same(update.B[edit] @ update.A[edit], 3 * eta.sigmoid() * expected, layers=4, terms=tokens + 1)


def rows(labels: list[int], row: list[int]) -> Rows:
    return Rows({"input_ids": torch.zeros(max(row) + 1, 1)}, torch.tensor(labels), torch.tensor(row))


def test_the_edit_loss_is_a_mean_over_prompts_and_paraphrases() -> None:
    # The means over each target's tokens are ln 4 (of two tokens), ln 4/3 and ln 2.
    logits = torch.tensor([[0.0, math.log(3)]] * 3, dtype=torch.float64)
    prompt, paraphrase = rows([0, 0, 1], [0, 0, 1]), rows([1], [0])
    even = torch.zeros(1, 2, dtype=torch.float64)
    found = edit_loss([logits, even], [prompt, paraphrase], smoothing=0.0)
    assert found.item() == pytest.approx((math.log(4) + math.log(4 / 3) + math.log(2)) / 3, rel=1e-14)


# --- the constraints


def test_the_divergence_by_hand_and_its_direction() -> None:
    base = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    edited = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    # ½ ln(½ / ¼) + ½ ln(½ / ¾)
    assert kl_constraint(base, edited).item() == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-14
    )
    # the other way round: ¼ ln(¼ / ½) + ¾ ln(¾ / ½)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_constraint(edited, base).item() == pytest.approx(expected, rel=1e-14)
    assert kl_constraint(edited, edited).item() == pytest.approx(0, abs=1e-15)


def test_the_divergence_is_a_mean_over_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 5, 9, generator=generator, dtype=torch.float64)
    expected = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")
    assert_same(kl_constraint(p, q), expected, layers=2, terms=9)


def test_the_divergence_over_hypotheses_by_hand() -> None:
    half = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    scores = torch.tensor([0.1, 0.3], dtype=torch.float64).log()  # q = (1/4, 3/4)
    one = torch.zeros(1, dtype=torch.float64)  # a question with one hypothesis constrains nothing
    found = kl_constraint_over_hypotheses([half, one], [scores, one - 7]).item()
    assert found == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2, rel=1e-14)


def test_the_size_of_updates_by_hand() -> None:
    # Entries (2, 4) of one matrix, √10; 3 of another; edit by edit.
    wide = LowRankBatch(B=torch.tensor([[[2.0]], [[0.0]]]), A=torch.tensor([[[1.0, 2.0]], [[1.0, 1.0]]]))
    single = LowRankBatch(B=torch.tensor([[[3.0]], [[1.0]]]), A=torch.tensor([[[1.0]], [[1.0]]]))
    found = l2_constraint({"wide": wide, "single": single}).item()
    assert found == pytest.approx(((math.sqrt(10) + 0) / 2 + (3 + 1) / 2) / 2, rel=1e-6)


# --- training


@pytest.mark.parametrize(("relaxation", "expected"), [(lagrangian, 0.001), (relative_lagrangian, 0.5)])
def test_the_relaxed_constraint(relaxation: Callable[..., Tensor], expected: float) -> None:
    loss, constraint = torch.tensor([2.0, 0.003], dtype=torch.float64)
    multiplier = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    found = relaxation(loss, constraint, multiplier, 0.002)
    assert found.item() == pytest.approx(2 + 5 * expected)
    (slope,) = torch.autograd.grad(found, multiplier)
    assert slope.item() == pytest.approx(expected)  # λ rises as fast as the constraint is broken
    met = relaxation(loss, torch.tensor(0.002, dtype=torch.float64), multiplier, 0.002)
    assert met.item() == 2.0


@pytest.mark.parametrize(
    ("margin", "success", "expected"), [(0.1, 0.9, 0.1), (0.1, 0.91, 0.08), (0.0012, 0.95, 0.001)]
)
def test_the_margin_is_annealed(margin: float, success: float, expected: float) -> None:
    found = annealed(margin, success, decay=0.8, floor=0.001, threshold=0.9)
    assert found == pytest.approx(expected)
