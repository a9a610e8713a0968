"""MEMIT: many facts at once, spread over the MLPs of several layers, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.covariances import covariance
from kebench.edits.edit import Batch
from kebench.edits.editor import Carried, State
from kebench.edits.locate import Fact, mlp_layer, read
from kebench.edits.locate_editor import AbstractLocateThenEdit, low_rank
from kebench.edits.updates import Update
from kebench.edits.versions import in_force
from kebench.errors import check_positive
from kebench.models.changes import Changes
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class MEMIT(AbstractLocateThenEdit):
    """All layers together move the states h to states z with which the model says the targets.

        z = h + δ                          h = the output of the last of the layers; δ as in `learn_values`
        for each layer l, in ascending order, in the model as it is changed so far:
            K = keys, one column a fact    as `mean_keys` computes them
            R = (z − h) / layers left      equation 20
            Δ = R Kᵀ (λ C + K Kᵀ)⁻¹        equation 14
              = R (I + Kᵀ A⁻¹ K)⁻¹ Kᵀ A⁻¹  with A = λ C: Woodbury's form, of rank ≤ n, which is computed

    Attributes (and those of `AbstractLocateThenEdit`):
        covariance_weight: λ.

    Source: Meng et al. 2022, *Mass-Editing Memory in a Transformer*, arXiv 2210.07229.
    """

    citation: ClassVar[str] = "meng2022memit"

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)
    clamp: float = 0.75
    covariance_weight: float = 15000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "covariance_weight")

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], list[Carried]]:
        """See `AbstractWeightEditor.update`. All z are learnt together; then each batch is solved."""
        facts = [self.facts(state, start, batch) for batch in batches]
        goals = self.goals(start, [fact for batch in facts for fact in batch])
        updates: list[Changes] = []
        carries: list[Carried] = []
        for batch, before in zip(facts, carried, strict=True):
            z, goals = goals[: len(batch)], goals[len(batch) :]
            update, after = self.insert(state, start, batch, z, before)
            updates.append(update)
            carries.append(after)
        return updates, carries

    def goals(self, base: AbstractModel, facts: Sequence[Fact]) -> Float[Tensor, "facts d_out"]:
        """Returns z = h + δ of each fact, for the last of the layers."""
        values = self.values(base, facts, of="layer")
        return values.m0 + values.delta

    def insert(
        self,
        state: State,
        start: AbstractModel,
        facts: Sequence[Fact],
        z: Float[Tensor, "facts d_out"],
        carried: Carried,
    ) -> tuple[Update, Carried]:
        """Returns the update of one batch, and what its stream carries to the next batch."""
        update = Update()
        last = mlp_layer(start, self.layers[-1])
        prompts = [fact.contexts[0] for fact in facts]
        for done, number in enumerate(self.layers):
            model = in_force(start, update)
            (weight,) = mlp_layer(start, number).mlp_out
            k = self.mean_keys(model, facts, weight)  # (d_in, n)
            _, h = read(model, prompts, last.mlp_out[0], last.name)  # (n, d_out)
            r = (z - h).T / (len(self.layers) - done)
            update = update + {weight: low_rank(start, weight, *self.solve(k, r, state, weight, carried))}
        return update, carried

    def mean_keys(
        self, base: AbstractModel, facts: Sequence[Fact], weight: str
    ) -> Float[Tensor, "d_in facts"]:
        """Returns K: for each fact, the mean of the bare prompt's key and the mean of its contexts' keys."""
        k, _ = self.keys(base, facts, weight)
        return (k[:, 0] if k.shape[1] == 1 else (k[:, 0] + k[:, 1:].mean(1)) / 2).T

    def solve(
        self,
        k: Float[Tensor, "d_in facts"],
        r: Float[Tensor, "d_out facts"],
        state: State,
        weight: str,
        carried: Carried,
    ) -> tuple[Float[Tensor, "d_out facts"], Float[Tensor, "facts d_in"]]:
        """Returns B and A of Δ = B A, computed in Woodbury's form."""
        values, vectors = covariance(state, weight)
        a_k = vectors @ ((vectors.T @ k) / (self.covariance_weight * values)[:, None])  # A⁻¹ K
        inner = torch.eye(k.shape[1], dtype=k.dtype) + k.T @ a_k
        return torch.linalg.solve(inner, r.T).T, a_k.T  # inner is symmetric
