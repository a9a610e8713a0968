"""AlphaEdit: MEMIT in the null space of the base model's keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.editor import Carried, State
from kebench.edits.locate import Fact, mlp_layer
from kebench.edits.updates import Update
from kebench.edits.versions import in_force
from kebench.errors import BadSetting, check_positive
from kebench.models.model import AbstractModel

from ..memit import MEMIT


@dataclass(frozen=True)
class AlphaEdit(MEMIT):
    """MEMIT in the null space of C: Δ = Δ P, so the values of the base model's own keys hardly change.

        C = U S Uᵀ        Q = the columns of U whose eigenvalues are small        P = Q Qᵀ
        Δ = R Kᵀ P (K Kᵀ P + M P + L2 · I)⁻¹                        equation 14 of AlphaEdit
          = R Kᵀ Q (Qᵀ (K Kᵀ + M) Q + L2 · I)⁻¹ Qᵀ                  this form is computed: symmetric, smaller
        M ← M + K Kᵀ, with the keys of the changed model             a stream carries M, its earlier edits

    Attributes (and those of `MEMIT`; its λ is not used):
        ridge: L2.
        kept: Q has the eigenvectors of the smallest eigenvalues, up to a sum of this share of C's trace.
        threshold: if it is given, Q has the eigenvectors of the eigenvalues below it, and `kept` is not used.
            The paper's 0.02 suits only the norms of its models' keys.

    Source: Fang et al. 2025, *AlphaEdit: Null-Space Constrained Knowledge Editing*, arXiv 2410.02355.
    """

    citation: ClassVar[str] = "fang2025alphaedit"

    ridge: float = 10.0
    kept: float = 0.02
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "ridge")
        if not 0 < self.kept < 1:
            raise BadSetting(f"kept: found {self.kept:g}, wanted a share between 0 and 1")

    def insert(
        self,
        state: State,
        start: AbstractModel,
        facts: Sequence[Fact],
        z: Float[Tensor, "facts d_out"],
        carried: Carried,
    ) -> tuple[Update, Carried]:
        """See `MEMIT.insert`. K Kᵀ is added to M after all layers are changed."""
        update, _ = super().insert(state, start, facts, z, carried)
        model = in_force(start, update)
        moments: dict[str, Tensor] = {}
        for number in self.layers:
            (weight,) = mlp_layer(model, number).mlp_out
            k = self.mean_keys(model, facts, weight)
            moments[weight] = carried.tensors.get(weight, torch.zeros(())).double().cpu() + k @ k.T
        return update, Carried(moments)

    def solve(
        self,
        k: Float[Tensor, "d_in facts"],
        r: Float[Tensor, "d_out facts"],
        state: State,
        weight: str,
        carried: Carried,
    ) -> tuple[Float[Tensor, "d_out facts"], Float[Tensor, "facts d_in"]]:
        """Returns B and A of Δ = B A, computed in the basis Q."""
        q = self.null_space(state, weight)
        k_q = q.T @ k  # (kept, n)
        if weight in carried.tensors:
            inner = k_q @ k_q.T + q.T @ carried.tensors[weight].double().cpu() @ q
            inner += self.ridge * torch.eye(len(inner), dtype=inner.dtype)
            return r, (q @ torch.linalg.solve(inner, k_q)).T
        # Without M, an (n, n) system is enough: Uᵀ (U Uᵀ + L2 I)⁻¹ = (Uᵀ U + L2 I)⁻¹ Uᵀ.
        inner = k_q.T @ k_q + self.ridge * torch.eye(k.shape[1], dtype=k.dtype)
        return r, torch.linalg.solve(inner, (q @ k_q).T)

    def null_space(self, state: State, weight: str) -> Float[Tensor, "d_in kept"]:
        """Returns Q of one map."""
        values, vectors = state[f"{weight}/values"].double().cpu(), state[f"{weight}/vectors"].double().cpu()
        if self.threshold is not None:
            return vectors[:, values < self.threshold]
        return vectors[:, values.cumsum(0) <= self.kept * values.sum()]
