"""The slow and obvious way: updates as dense matrices, KnowledgeEditor's formula as the paper writes it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from kebench.baselines.knowledge_editor.hypernetwork import Hypernetwork
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.model import AbstractModel
from kebench.models.rows import target_loss


def dense_delta(base: AbstractModel, name: str, change: Dense | LowRank) -> Tensor:
    """What is added to a parameter, in its own shape."""
    if isinstance(change, Dense):
        return change.delta
    product = change.B @ change.A
    return product.T if isinstance(owner(base, name), Conv1D) else product


def products(update: Changes) -> dict[str, Tensor]:
    """B A of every factored matrix, (d_out, d_in)."""
    found = {}
    for name, change in update.items():
        assert isinstance(change, LowRank)
        found[name] = change.B @ change.A
    return found


def owner(base: AbstractModel, name: str) -> torch.nn.Module:
    return base.network.get_submodule(name.rpartition(".")[0])


def really_edited(base: AbstractModel, update: Changes) -> AbstractModel:
    """Another model, whose weights are the edited ones."""
    copied = copy.deepcopy(base)
    with torch.no_grad():
        for name, change in update.items():
            copied.network.get_parameter(name).add_(dense_delta(base, name, change))
    return copied


def dense_gradients(
    base: AbstractModel, prompt: str, target: str, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """∇_W of -log p(a | x) (a mean over target tokens), by autograd on the weights; each (d_out, d_in)."""
    copied = copy.deepcopy(base)
    weights = [copied.network.get_parameter(name).requires_grad_(True) for name in names]
    rows = copied.rows([prompt], [target])
    found = torch.autograd.grad(target_loss(copied.logits(rows), rows).sum(), weights, allow_unused=True)
    gradients = {}
    for name, weight, gradient in zip(names, weights, found, strict=True):
        gradient = torch.zeros_like(weight) if gradient is None else gradient
        gradients[name] = gradient.T if isinstance(owner(base, name), Conv1D) else gradient
    return gradients


def knowledge_editor(
    hypernetwork: Hypernetwork,
    condition: Tensor,
    gradients: Mapping[str, Tensor],
    scale: float,
    *,
    polyak_loss: float | None = None,
    preconditioners: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """∇̃W = σ(η)·(α̂ ⊙ ∇W + β̂),  α̂ = softmax(α) γᵀ,  β̂ = softmax(β) δᵀ; one edit, dense, (d_out, d_in).

    Args:
        hypernetwork: whose encoder and heads give α, β, γ, δ, η.
        condition: (tokens,). The ids of `y >> a || x`, without padding.
        gradients: parameter name → ∇W.
        scale: the largest σ(η)·scale.
        polyak_loss: for Polyak steps, the loss whose gradient is given.
        preconditioners: parameter name → P, what an update is multiplied by.
    """
    if preconditioners is None:
        preconditioners = {name: torch.eye(g.shape[1], dtype=g.dtype) for name, g in gradients.items()}
    if polyak_loss is not None:
        scale *= polyak_loss / sum(float((g @ preconditioners[n] * g).sum()) for n, g in gradients.items())
    embedded = hypernetwork.encoder.embedding(condition)
    _, (last, _) = hypernetwork.encoder.lstm(embedded[None])
    h = torch.tanh(hypernetwork.encoder.linear(torch.cat([last[0], last[1]], dim=-1)))[0]
    deltas = {}
    for name, gradient in gradients.items():
        d_out, d_in = gradient.shape
        raw = hypernetwork.heads[name.replace(".", "_")].layers(h)
        gamma, alpha, delta, beta, eta = raw.split([d_in, d_out, d_in, d_out, 1])
        mask = torch.outer(alpha.softmax(0), gamma)
        if polyak_loss is not None:
            mask = d_out * torch.outer(alpha.softmax(0), gamma - 1)
        offset = torch.outer(beta.softmax(0), delta)
        deltas[name] = scale * torch.sigmoid(eta) * (mask * gradient + offset) @ preconditioners[name]
    return deltas
