"""MEMIT: many facts at once, spread over the MLPs of several layers, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.covariances import Covariances, context_texts, covariance
from kebench.edits.edit import Batch
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.edits.locate import Fact, ValueSettings, facts_of, learn_values, mlp_layer, read
from kebench.edits.updates import Update
from kebench.edits.versions import in_force
from kebench.errors import BadSetting, check_positive
from kebench.models.changes import Changes, LowRank
from kebench.models.model import AbstractModel
from kebench.task import Family


@dataclass(frozen=True)
class MEMIT(AbstractWeightEditor, AbstractTrainedEditor):
    """The states z that make the model say the targets are reached by all layers together, each its share.

        z = h + δ                          h = what the last of the layers gives; δ as in `learn_values`
        for each layer l, in ascending order, from the model as changed so far:
            K = keys, one column a fact    of the mean of the bare prompt and the mean of its contexts
            R = (z − h) / layers left      equation 20
            Δ = R Kᵀ (λ C + K Kᵀ)⁻¹        equation 14
              = R (I + Kᵀ A⁻¹ K)⁻¹ Kᵀ A⁻¹  with A = λ C, of rank ≤ n: Woodbury's form, which is computed

    Attributes:
        layers: the numbers of the layers, ascending.
        covariance_weight: λ.
        steps, learning_rate, weight_decay, kl_factor, clamp: of learning δ (`ValueSettings`).
        end: whether the end of the answer is learnt too.
        contexts, questions, seed: see `Covariances`.

    Source: Meng et al. 2022, *Mass-Editing Memory in a Transformer*, arXiv 2210.07229.
    """

    citation: ClassVar[str] = "meng2022memit"
    families: ClassVar[tuple[Family, ...]] = ("causal",)
    learns_from: ClassVar[Literal["edits", "questions"]] = "questions"

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)
    covariance_weight: float = 15000.0
    steps: int = 25
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp: float = 0.75
    end: bool = True
    contexts: int = 5
    questions: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "steps", "learning_rate", "clamp", "covariance_weight")
        if list(self.layers) != sorted(set(self.layers)) or not self.layers:
            raise BadSetting(f"layers: found {list(self.layers)}, wanted numbers in ascending order")

    def prepared_by(self) -> Covariances:
        """See `AbstractTrainedEditor`."""
        return Covariances(self.layers, self.questions, self.contexts, self.seed)

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor`."""
        return self.prepared_by().prepare(base, training, workspace)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], list[Carried]]:
        """See `AbstractWeightEditor`. All z are learnt together; the layers are solved batch by batch."""
        texts = context_texts(start, state)
        facts = [facts_of(start, batch, texts, end=self.end) for batch in batches]
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
        """Z = h + δ of each fact, at the last of the layers."""
        last = mlp_layer(base, self.layers[-1])
        descent = ValueSettings(self.steps, self.learning_rate, self.weight_decay, self.kl_factor, self.clamp)
        values = learn_values(base, facts, last.name, last.mlp_out[0], descent)
        return values.m0 + values.delta

    def insert(
        self,
        state: State,
        start: AbstractModel,
        facts: Sequence[Fact],
        z: Float[Tensor, "facts d_out"],
        carried: Carried,
    ) -> tuple[Update, Carried]:
        """The change of every layer for one batch, and what the stream carries on."""
        update = Update()
        for done, number in enumerate(self.layers):
            model = in_force(start, update)
            (weight,) = mlp_layer(model, number).mlp_out
            keys = self.keys(model, facts, weight)  # (n, d_in)
            h = self.states(model, facts)  # (n, d_out)
            residual = (z - h) / (len(self.layers) - done)
            left, right = self.solve(keys.T, residual.T, state, weight, carried)
            kind = model.network.get_parameter(weight)
            update = update + {weight: LowRank(left.to(kind), right.to(kind))}
        return update, carried

    def keys(self, base: AbstractModel, facts: Sequence[Fact], weight: str) -> Float[Tensor, "facts d_in"]:
        """Of each fact, the mean of the bare prompt's key and the mean of its contexts' keys."""
        texts = [text for fact in facts for text in fact.contexts]
        found, _ = read(base, texts, weight, weight.removesuffix(".weight"))
        each = found.view(len(facts), -1, found.shape[-1])
        return (each[:, 0] + each[:, 1:].mean(1)) / 2 if each.shape[1] > 1 else each[:, 0]

    def states(self, base: AbstractModel, facts: Sequence[Fact]) -> Float[Tensor, "facts d_out"]:
        """h: what the last of the layers gives for the bare prompt."""
        last = mlp_layer(base, self.layers[-1])
        return read(base, [fact.contexts[0] for fact in facts], last.mlp_out[0], last.name)[1]

    def solve(
        self,
        k: Float[Tensor, "d_in facts"],
        r: Float[Tensor, "d_out facts"],
        state: State,
        weight: str,
        carried: Carried,
    ) -> tuple[Float[Tensor, "d_out facts"], Float[Tensor, "facts d_in"]]:
        """B and A of Δ = B A, by Woodbury's form."""
        values, vectors = covariance(state, weight)
        a_k = vectors @ ((vectors.T @ k) / (self.covariance_weight * values)[:, None])  # A⁻¹ K
        inner = torch.eye(k.shape[1], dtype=k.dtype) + k.T @ a_k
        return torch.linalg.solve(inner, r.T).T, a_k.T  # inner is symmetric
