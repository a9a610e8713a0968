"""ROME, and R-ROME, which corrects it: a rank-one change of one MLP, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from kebench.edits.applications import one_after_another
from kebench.edits.covariances import covariance
from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import Carried, State
from kebench.edits.locate import Fact, Values, mlp_layer
from kebench.edits.locate_editor import AbstractLocateThenEdit, low_rank
from kebench.errors import BadSetting
from kebench.models.changes import Changes
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class ROME(AbstractLocateThenEdit):
    """W' = W + Λ uᵀ: the subject's key gets the value with which the model says a.

        k* = mean over contexts of k           k_p = the key of the bare prompt
        u  = C⁻¹ k* / ‖C⁻¹ k*‖                 C = E[k kᵀ]; without it u = k* / ‖k*‖
        original:   Λ = δ / (k_p · u)                                     equation 2 of ROME
        prompt:     the same, with k_p for k* in u: (W + Δ) k_p = W k_p + δ
        mean:       Λ = (m₀ + δ − mean(W k + b)) / (k* · u): (W + Δ) k* + b = m₀ + δ

    `original` uses two different keys, so Λ is very large if k_p · u is small: then one edit can ruin the
    model. `prompt` and `mean` are the variants of R-ROME, which use one key in both places.

    Attributes (and those of `AbstractLocateThenEdit`, with one layer):
        variant: `original`, `prompt` or `mean`.
        use_covariance: True if u is computed with C⁻¹.

    Sources: Meng et al. 2022, arXiv 2202.05262; Gupta, Baskaran and Anumanchipalli 2024, arXiv 2403.07175.
    """

    citation: ClassVar[str] = "meng2022locating; gupta2024rebuilding"

    weight_decay: float = 1e-3
    variant: Literal["original", "prompt", "mean"] = "original"
    use_covariance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise BadSetting(f"layers: found {list(self.layers)}, wanted one: ROME changes one layer")

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. The edits of a batch are made one after another."""

        def made(model: AbstractModel, edits: Sequence[Edit]) -> list[Changes]:
            return self.insert(state, model, self.facts(state, model, edits))

        return one_after_another(start, batches, made), carried

    def insert(self, state: State, base: AbstractModel, facts: Sequence[Fact]) -> list[Changes]:
        """Returns the rank-one change of each fact, for the model with its present weights."""
        (weight,) = mlp_layer(base, self.layers[0]).mlp_out
        values = self.values(base, facts, of="mlp")
        keys, outputs = self.keys(base, facts, weight)
        c = covariance(state, weight)
        updates: list[Changes] = []
        for k, out, m0, delta in zip(keys, outputs, values.m0, values.delta, strict=True):
            left, u = self.solve(k, out, Values(m0, delta), c)
            updates.append({weight: low_rank(base, weight, left[:, None], u[None])})
        return updates

    def solve(
        self,
        k: Float[Tensor, "contexts d_in"],
        out: Float[Tensor, "contexts d_out"],
        value: Values,
        c: tuple[Float[Tensor, " d_in"], Float[Tensor, "d_in d_in"]],
    ) -> tuple[Float[Tensor, " d_out"], Float[Tensor, " d_in"]]:
        """Returns Λ and u of one fact. The bare prompt is the first context."""
        k_star = k[0] if self.variant == "prompt" else k.mean(0)
        direction = k_star
        if self.use_covariance:
            values, vectors = c
            direction = vectors @ ((vectors.T @ k_star) / values)  # C⁻¹ k*
        u = direction / direction.norm()
        if self.variant == "mean":
            return (value.m0 + value.delta - out.mean(0)) / (k_star @ u), u
        return value.delta / (k[0] @ u), u
