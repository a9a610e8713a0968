"""Additions of kebench to the paper's method. The default settings use none of them.

    step: polyak      ∇̃W starts as −scale σ(η) ∇W · L / ‖∇W‖²: the mask starts near −1 instead of near 0. The
                      length is Polyak's: for every model and edit, it would bring a linear loss from L to 0.
                      ‖·‖² is the sum over all edited matrices.
    precondition      ∇̃W P with P = (C / e + I)⁻¹, where C = E[x xᵀ] of the layer's inputs, as in K-FAC
                      (Martens and Grosse 2015) and ROME (Meng et al. 2022). P makes the update small along
                      directions that all inputs share, along which an edit would change other answers. ‖∇W‖²
                      is then tr(∇W P ∇Wᵀ).
    relative_margin   the constraint is relaxed as λ (C / m − 1).

With `step: polyak` and `precondition`, training starts from the update of `baselines/preconditioned_step`,
except for the random initial weights of the heads.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.applications import polyak_length
from kebench.edits.gradients import GradientFactors
from kebench.models.changes import LowRankBatch

from .hypernetwork import Head, Hypernetwork
from .method import HeadVectors, RankOne, mask_of, masked_update, offset_of

Preconditioners = Mapping[str, Float[Tensor, "d_in d_in"]]
"""Parameter name → P, for the matrices that have one."""


def mask_at_one(mask: RankOne) -> RankOne:
    """Returns the paper's mask α̂ = softmax(α) γᵀ, moved so that it is near −1 before training.

    d_out softmax(α) starts near 1, and γ − 1 starts near −1, so the first updates descend along ∇W.
    """
    return RankOne(mask.column.shape[-1] * mask.column, mask.row - 1)


def updates_with_additions(
    vectors: Mapping[str, HeadVectors],
    gradients: Mapping[str, GradientFactors],
    losses: Float[Tensor, " edits"],
    preconditioners: Preconditioners,
    *,
    scale: float,
    polyak: bool,
) -> dict[str, LowRankBatch]:
    """Returns ∇̃W P of every edit as factors, parameter name → (B, A P). `losses` are L of every edit."""

    def preconditioned(name: str, rows: Float[Tensor, "edits rank d_in"]) -> Float[Tensor, "edits rank d_in"]:
        return rows @ preconditioners[name] if name in preconditioners else rows

    length: float | Float[Tensor, "edits 1"] = scale
    if polyak:
        through = {name: preconditioned(name, gradient.X) for name, gradient in gradients.items()}
        length = polyak_length(scale, losses, gradients, through).view(-1, 1)
    found = {}
    for name, gradient in gradients.items():
        of_edits = vectors[name]
        mask = mask_at_one(mask_of(of_edits)) if polyak else mask_of(of_edits)
        strength = length * torch.sigmoid(of_edits.eta)
        update = masked_update(gradient, mask, offset_of(of_edits), strength)
        found[name] = LowRankBatch(update.B, preconditioned(name, update.A))
    return found


def reserve_preconditioners(hypernetwork: Hypernetwork) -> None:
    """Adds a buffer for P to each head. It is saved with the weights and is not learnt."""
    for head in hypernetwork.heads.values():
        assert isinstance(head, Head)
        head.register_buffer("preconditioner", torch.eye(head.d_in))


def set_preconditioners(hypernetwork: Hypernetwork, preconditioners: Preconditioners) -> None:
    """Sets P in each head."""
    for name, preconditioner in preconditioners.items():
        hypernetwork.head(name).preconditioner = preconditioner


def preconditioners_of(hypernetwork: Hypernetwork) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """Returns parameter name → P; empty if the heads have no buffer for it."""
    places = {name: dict(hypernetwork.head(name).named_buffers()) for name in hypernetwork.names}
    return {name: buffers["preconditioner"] for name, buffers in places.items() if buffers}


def relative_lagrangian(edit_loss: Tensor, constraint: Tensor, multiplier: Tensor, margin: float) -> Tensor:
    """Returns L + λ (C / m − 1): the constraint in units of its margin."""
    return edit_loss + multiplier * ((constraint - margin) / margin)
