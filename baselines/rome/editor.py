"""ROME, and R-ROME, which mends it: a rank-one change of one MLP, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from kebench.edits.applications import one_after_another
from kebench.edits.covariances import Covariances, context_texts, covariance
from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.edits.locate import Fact, Values, ValueSettings, facts_of, learn_values, mlp_layer, read
from kebench.errors import check_positive
from kebench.models.changes import Changes, LowRank
from kebench.models.model import AbstractModel
from kebench.task import Family


@dataclass(frozen=True)
class ROME(AbstractWeightEditor, AbstractTrainedEditor):
    """W' = W + Λ uᵀ: the key of the subject is given the value that makes the model say a.

        k* = mean over contexts of k           k_p = the key of the bare prompt
        u  = C⁻¹ k* / ‖C⁻¹ k*‖                 C = E[k kᵀ]; without it u = k* / ‖k*‖
        keys = original:   Λ = δ / (k_p · u)                                     equation 2 of ROME
        keys = prompt:     the same, with k_p for k* in u: (W + Δ) k_p = W k_p + δ
        keys = mean:       Λ = (m₀ + δ − mean(W k + b)) / (k* · u): (W + Δ) k* + b = m₀ + δ

    `original` takes two different keys, so Λ explodes where k_p · u is small: a single edit can then ruin the
    model. `prompt` and `mean` are R-ROME's, which take one key in both places.

    Attributes:
        layer: whose MLP is changed, counted from 0.
        keys: `original`, `prompt` or `mean`.
        use_covariance: whether u is taken through C⁻¹.
        steps, learning_rate, weight_decay, kl_factor, clamp: of learning δ (`ValueSettings`).
        end: whether the end of the answer is learnt too.
        contexts, questions, seed: see `Covariances`.

    Sources: Meng et al. 2022, arXiv 2202.05262; Gupta, Baskaran and Anumanchipalli 2024, arXiv 2403.07175.
    """

    citation: ClassVar[str] = "meng2022locating; gupta2024rebuilding"
    families: ClassVar[tuple[Family, ...]] = ("causal",)
    learns_from: ClassVar[Literal["edits", "questions"]] = "questions"

    layer: int = 5
    keys: Literal["original", "prompt", "mean"] = "original"
    use_covariance: bool = True
    steps: int = 25
    learning_rate: float = 0.5
    weight_decay: float = 1e-3
    kl_factor: float = 0.0625
    clamp: float = 4.0
    end: bool = True
    contexts: int = 5
    questions: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "steps", "learning_rate", "clamp")

    def prepared_by(self) -> Covariances:
        """See `AbstractTrainedEditor`."""
        return Covariances((self.layer,), self.questions, self.contexts, self.seed)

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor`."""
        return self.prepared_by().prepare(base, training, workspace)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor`: each edit of a batch is made in the model that has the earlier ones."""

        def made(model: AbstractModel, edits: Sequence[Edit]) -> list[Changes]:
            facts = facts_of(model, edits, context_texts(model, state), end=self.end)
            return self.insert(state, model, facts)

        return one_after_another(start, batches, made), carried

    def insert(self, state: State, base: AbstractModel, facts: Sequence[Fact]) -> list[Changes]:
        """The rank-one change of each fact, from the given weights."""
        (weight,) = mlp_layer(base, self.layer).mlp_out
        module = weight.removesuffix(".weight")
        descent = ValueSettings(self.steps, self.learning_rate, self.weight_decay, self.kl_factor, self.clamp)
        values = learn_values(base, facts, module, weight, descent)
        updates: list[Changes] = []
        for place, fact in enumerate(facts):
            k, out = read(base, fact.contexts, weight, module)  # (contexts, d_in), (contexts, d_out)
            left, u = self.solve(
                k, out, Values(values.m0[place], values.delta[place]), covariance(state, weight)
            )
            kind = base.network.get_parameter(weight)
            updates.append({weight: LowRank(left[:, None].to(kind), u[None].to(kind))})
        return updates

    def solve(
        self,
        k: Float[Tensor, "contexts d_in"],
        out: Float[Tensor, "contexts d_out"],
        value: Values,
        c: tuple[Float[Tensor, " d_in"], Float[Tensor, "d_in d_in"]],
    ) -> tuple[Float[Tensor, " d_out"], Float[Tensor, " d_in"]]:
        """Λ and u of one fact: the equations above. The bare prompt is the first context."""
        k_star = k[0] if self.keys == "prompt" else k.mean(0)
        direction = k_star
        if self.use_covariance:
            values, vectors = c
            direction = vectors @ ((vectors.T @ k_star) / values)  # C⁻¹ k*
        u = direction / direction.norm()
        if self.keys == "mean":
            return (value.m0 + value.delta - out.mean(0)) / (k_star @ u), u
        return value.delta / (k[0] @ u), u
