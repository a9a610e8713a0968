"""KnowledgeEditor's method (De Cao, Aziz, Titov 2021, arXiv 2104.08164) as functions of tensors.

x is the prompt, y the base model's answer to it, a the target, P^x the paraphrases of x, O^x other facts'
questions; θ are the base model's weights, θ' the edited ones, ∇W the gradient of −log p(a | x; θ) for one
weight matrix W of the shape (d_out, d_in).

    (1)   condition    "y >> a || x"; an encoder and a head for each W compute α, β, γ, δ, η from it
    (2)   mask         α̂ = softmax(α) γᵀ
    (3)   offset       β̂ = softmax(β) δᵀ
    (4)   update       ∇̃W = σ(η) · (α̂ ⊙ ∇W + β̂),   W' = W + ∇̃W
    (5)   edit loss    L = Σ −log p(a | x̂; θ')  over x̂ in {x}, or {x} and one of P^x (row + P^x)
    (6)   KL           C = Σ KL(p(· | o; θ) ‖ p(· | o; θ'))  over o in O^x
    (7)   L2           C = the size of ∇̃W (row C_L2)
    (8)   training     min L  subject to  C ≤ m,  relaxed:  min, and max over λ ≥ 0, of L + λ (C − m)
    (9)   annealing    m ← max(0.8 m, floor)  if more than 0.9 of the dev edits succeed

The lines of code that compute an equation have its number. These are not the numbers of the paper.

An update is never a dense matrix. A gradient over T tokens is ∇W = Dᵀ X. A mask of rank one keeps that form,
and the offset adds rank one, so ∇̃W = B A of rank T + 1 is exact.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.gradients import GradientFactors
from kebench.models.changes import LowRankBatch
from kebench.models.rows import Rows, target_loss


class HeadVectors(NamedTuple):
    """The outputs of a head, for one weight matrix W and each edit."""

    alpha: Float[Tensor, "edits d_out"]
    beta: Float[Tensor, "edits d_out"]
    gamma: Float[Tensor, "edits d_in"]
    delta: Float[Tensor, "edits d_in"]
    eta: Float[Tensor, "edits 1"]


class RankOne(NamedTuple):
    """The matrix column · rowᵀ of each edit, (edits, d_out, d_in), as its two vectors."""

    column: Float[Tensor, "edits d_out"]
    row: Float[Tensor, "edits d_in"]


def condition_text(prediction: str, target: str, prompt: str) -> str:
    """Returns the condition that the encoder reads."""
    return f"{prediction} >> {target} || {prompt}"  # (1)


def mask_of(vectors: HeadVectors) -> RankOne:
    """Returns α̂, which multiplies the gradient entry by entry."""
    return RankOne(vectors.alpha.softmax(-1), vectors.gamma)  # (2)


def offset_of(vectors: HeadVectors) -> RankOne:
    """Returns β̂, which is added to the masked gradient."""
    return RankOne(vectors.beta.softmax(-1), vectors.delta)  # (3)


def masked_update(
    gradient: GradientFactors, mask: RankOne, offset: RankOne, strength: Float[Tensor, "edits 1"]
) -> LowRankBatch:
    """Returns ∇̃W of every edit as factors. `strength` is σ(η), or a multiple of it.

    With ∇W = Dᵀ X, α̂ ⊙ ∇W = (D ⊙ softmax(α))ᵀ (X ⊙ γ): each token's D and X are masked.
    """
    masked_d = gradient.D * mask.column.unsqueeze(1)  # (edits, T, d_out)
    masked_x = gradient.X * mask.row.unsqueeze(1)  # (edits, T, d_in)
    b = torch.cat([masked_d, offset.column.unsqueeze(1)], dim=1)  # (edits, T + 1, d_out)
    a = torch.cat([masked_x, offset.row.unsqueeze(1)], dim=1)  # (edits, T + 1, d_in)
    return LowRankBatch(B=strength.unsqueeze(-1) * b.transpose(1, 2), A=a)  # (4)


def edit_loss(
    logits: Sequence[Float[Tensor, "scored vocab"]], rows: Sequence[Rows], *, smoothing: float
) -> Float[Tensor, ""]:
    """Returns −log p(a | x̂; θ'), in nats per token: a mean over the prompts and drawn paraphrases x̂.

    Args:
        logits: the edited models' logits in each forward pass, at the tokens of a.
        rows: the rows of each pass: prompts and paraphrases, each with its edit's target.
        smoothing: the label smoothing, which the released code uses for generative models.
    """
    passes = zip(logits, rows, strict=True)
    return torch.cat([target_loss(each, asked, smoothing=smoothing) for each, asked in passes]).mean()  # (5)


def kl_constraint(
    base: Float[Tensor, "scored vocab"], edited: Float[Tensor, "scored vocab"]
) -> Float[Tensor, ""]:
    """Returns KL(p_θ ‖ p_θ') of the next token or the label, a mean over the scored positions, in nats.

    The base model's distribution comes first, as in the released code.
    """
    log_p, log_q = base.log_softmax(-1), edited.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()  # (6)


def kl_constraint_over_hypotheses(
    base: Sequence[Float[Tensor, " hypotheses"]], edited: Sequence[Float[Tensor, " hypotheses"]]
) -> Float[Tensor, ""]:
    """Returns KL(p ‖ q) over whole answers h, a mean over questions, in nats.

    Both p and q are normalised over the hypotheses of each question.

    Args:
        base: for each question, log p(h) of its hypotheses under θ, in nats; their probabilities sum to 1.
        edited: for each question, log p(h | o; θ') of the same hypotheses, in nats.
    """
    log_p = torch.cat(list(base))
    log_q = torch.cat([each.log_softmax(0) for each in edited])
    return (log_p.exp() * (log_p - log_q)).sum() / len(base)  # (6)


def l2_constraint(updates: Mapping[str, LowRankBatch]) -> Float[Tensor, ""]:
    """Returns the root mean square of the entries of an update, a mean over edits and matrices."""
    sizes = []
    for update in updates.values():
        entries = update.B.shape[1] * update.A.shape[2]  # d_out · d_in
        sizes.append((update.squared_norm() / entries).clamp_min(1e-24).sqrt().mean())  # (7)
    return torch.stack(sizes).mean()


def lagrangian(edit_loss: Tensor, constraint: Tensor, multiplier: Tensor, margin: float) -> Tensor:
    """Returns L + λ (C − m). Training minimises it in the networks' weights and maximises it in λ ≥ 0."""
    return edit_loss + multiplier * (constraint - margin)  # (8)


def annealed(margin: float, success: float, *, decay: float, floor: float, threshold: float) -> float:
    """Returns the margin m after a validation with this success rate on dev edits."""
    return max(decay * margin, floor) if success > threshold else margin  # (9)
