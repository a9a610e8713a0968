"""Computes what editors share that start from an edit's gradient: the gradient, a step's length, the loop."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.edit import Batch, Edit
from kebench.edits.gradients import GradientFactors, Probe, one_below_the_other
from kebench.edits.updates import Update
from kebench.edits.versions import in_force, low_rank_under, reached
from kebench.models.changes import Changes, LowRank, LowRankBatch
from kebench.models.model import AbstractModel, EditsInForce, base_weights
from kebench.models.rows import target_loss

Predict = Callable[[Sequence[Edit], EditsInForce], Mapping[str, LowRankBatch]]
"""Computes one application: parameter name → the change of every edit, from the model with edits in force."""


def edit_gradients(
    base: AbstractModel, edits: Sequence[Edit], names: Sequence[str], under: EditsInForce = base_weights
) -> tuple[Float[Tensor, " edits"], Mapping[str, GradientFactors]]:
    """Returns L = −log p(a | x) of every edit, and the gradient of L for each named matrix.

    L is a mean over the tokens of a. All edits share one forward pass if the network allows it (`OnePass`);
    otherwise each edit has a pass of its own.

    Args:
        base: the model.
        edits: the edits.
        names: the names of the matrices' parameters.
        under: the edits that are in force, so that the gradient is that of the edited model.
    """
    together = base.one_pass.holds_edits(names)
    losses: list[Tensor] = []
    gradients: list[Mapping[str, GradientFactors]] = []
    for indices in [range(len(edits))] if together else [[index] for index in range(len(edits))]:
        rows = base.rows([edits[i].prompt for i in indices], [edits[i].target for i in indices])
        probe = Probe(one_row=not together)
        with (
            base.reuse.below(frozenset(names), rows),
            torch.enable_grad(),
            under(indices),
            probe.watching(base.network, names),
        ):
            loss = target_loss(base.logits(rows), rows)
            gradients.append(probe.factors(loss))
        losses.append(loss.detach())
    return torch.cat(losses), one_below_the_other(gradients)


def polyak_length(
    scale: float,
    losses: Float[Tensor, " edits"],
    gradients: Mapping[str, GradientFactors],
    preconditioned: Mapping[str, Float[Tensor, "edits tokens d_in"]],
) -> Float[Tensor, " edits"]:
    """Returns the length t of every edit's step: t = scale · L / Σ tr(∇W P ∇Wᵀ), a sum over all matrices.

    With scale = 1, the step −t ∇W P brings a loss that is linear in the weights from L to 0.

    Args:
        scale: the factor in this formula.
        losses: L of every edit.
        gradients: the gradients of L, as factors: ∇W = Dᵀ X.
        preconditioned: X P for each matrix, where P is its symmetric preconditioner.

    Source: Polyak 1969, *Minimization of unsmooth functionals*. This is his step length if the least loss
    is 0.
    """
    norms = []
    for name, gradient in gradients.items():
        gram_d = gradient.D @ gradient.D.transpose(1, 2)  # (edits, tokens, tokens)
        gram_x = preconditioned[name] @ gradient.X.transpose(1, 2)
        norms.append((gram_d * gram_x).sum((1, 2)))
    return scale * losses / torch.stack(norms).sum(0).clamp_min(1e-12)


def until_answered(
    start: AbstractModel, batches: Sequence[Batch], times: int, predict: Predict
) -> list[Changes]:
    """Returns the update of each batch: the sum of its applications.

    Each application starts from the model with the earlier applications in force. It is the sum of what
    `predict` returns for those edits of the batch whose target is not yet the model's greedy answer (with the
    protocol `decao2021`: the answer that is scored). It is repeated until every target is the answer.

    Args:
        start: the model that every batch starts from.
        batches: the edits.
        times: the largest number of applications to a batch. There is always one; after the last, the model
            is not asked whether the targets are reached.
        predict: computes one application.
    """
    totals: list[dict[str, LowRank]] = [{} for _ in batches]
    unanswered = [list(batch) for batch in batches]
    for application in range(times):
        owners = [place for place, edits in enumerate(unanswered) for _ in edits]
        if not owners:
            break
        asked = [edit for edits in unanswered for edit in edits]
        under = _in_force(start, [totals[place] for place in owners]) if application else base_weights
        found = predict(asked, under)
        for row, place in enumerate(owners):
            for name, changes in found.items():
                totals[place][name] = _sum(totals[place].get(name), changes[row].without_zeros())
        if application + 1 < times:
            left = [place for place, edits in enumerate(unanswered) if edits]
            done = reached(start, [totals[place] for place in left], [batches[place] for place in left])
            for place, are_done in zip(left, done, strict=True):
                pairs = zip(batches[place], are_done, strict=True)
                unanswered[place] = [edit for edit, is_done in pairs if not is_done]
    return list(totals)


def one_after_another(
    start: AbstractModel,
    batches: Sequence[Batch],
    make: Callable[[AbstractModel, Sequence[Edit]], Sequence[Changes]],
) -> list[Changes]:
    """Returns the update of each batch, whose edits are made one after another.

    Each edit is made in the model that has the earlier edits of its batch. The update is their sum.

    Args:
        start: the model that every batch starts from.
        batches: batches that do not depend on each other.
        make: returns the changes of some edits, each by itself, from a model. The first edits of all batches
            are made in one call.
    """
    totals = [Update() for _ in batches]
    with_any = [place for place, batch in enumerate(batches) if batch]
    for place, change in zip(with_any, make(start, [batches[i][0] for i in with_any]), strict=True):
        totals[place] = Update.of(change)
    for place, batch in enumerate(batches):
        for edit in batch[1:]:
            (change,) = make(in_force(start, totals[place]), [edit])
            totals[place] = totals[place].plus(change)
    return list(totals)


def _in_force(base: AbstractModel, updates: Sequence[Mapping[str, LowRank]]) -> EditsInForce:
    """Returns what puts update `indices[i]` in force for row i of a batch."""
    stacked = {name: LowRankBatch.stack([update[name] for update in updates]) for name in updates[0]}
    return low_rank_under(base, stacked, range(len(updates)))


def _sum(earlier: LowRank | None, change: LowRank) -> LowRank:
    """Returns the sum of two changes, B₁A₁ + B₂A₂ = [B₁ B₂][A₁; A₂]. Its rank is the sum of their ranks."""
    if earlier is None:
        return change
    return LowRank(torch.cat([earlier.B, change.B], dim=1), torch.cat([earlier.A, change.A], dim=0))
