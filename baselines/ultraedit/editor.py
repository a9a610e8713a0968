"""UltraEdit: one gradient, normalised over the stream, and one least-squares problem for each matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractWeightEditor, Carried, State
from kebench.edits.gradients import Probe
from kebench.errors import check_positive
from kebench.models.changes import Changes, LowRank
from kebench.models.layers import Layers, check_layers, linear_maps, map_shape
from kebench.models.model import AbstractModel
from kebench.models.parts import Part, weights_of
from kebench.models.rows import Rows
from kebench.task import Family


@dataclass(frozen=True)
class Moments:
    """The running moments of all rows (h, g) of a stream, for matrices of one shape.

    Attributes:
        n: the number of rows.
        mean: (d_in + d_out,). The mean of the rows.
        sumsq: (d_in + d_out,). The sum of the squared differences from the mean.
    """

    n: float
    mean: Float[Tensor, " d"]
    sumsq: Float[Tensor, " d"]

    def with_rows(self, rows: Float[Tensor, "rows d"]) -> "Moments":
        """Returns the moments with more rows.

        As in the released code, a batch adds its unbiased variance times its size n. This is too much by a
        factor of n / (n − 1). For one row it is undefined, and NaN in the released code; here one row adds no
        variance of its own.
        """
        count = len(rows)
        variance = rows.var(0) if count > 1 else torch.zeros_like(self.mean)
        shift = rows.mean(0) - self.mean
        n = self.n + count
        return Moments(
            n,
            self.mean + shift * (count / n),
            self.sumsq + count * variance + self.n * count * shift.square() / n,
        )

    @property
    def std(self) -> Float[Tensor, " d"]:
        """The standard deviation; 1 if there are fewer than two rows."""
        return (self.sumsq / (self.n - 1)).sqrt() if self.n > 1 else torch.ones_like(self.mean)


@dataclass(frozen=True)
class UltraEdit(AbstractWeightEditor):
    """W' = W + Sᵀ, from one forward and one backward pass over a batch; nothing is trained.

        H, G = inputs of the map, and gradients of −log p(a | x) for its outputs, one row for each token of a
        (ĥ, ĝ) = ((h, g) − μ) / (σ + ε)     running moments of the stream, this batch included
        v_i = −η ‖ĥ_i‖² ĝ_i
        S = (Hᵀ H + λ I)⁻¹ Hᵀ V = Hᵀ (H Hᵀ + λ I)⁻¹ V         the second form, (rows, rows), is computed

    It needs no subject and no covariance. Matrices of one shape share their moments, as in the released code.
    A stream carries the moments.

    Attributes:
        layers: the layers whose matrices are changed (`kebench.models.layers.editable`).
        parts: the matrices of a layer that are changed: `mlp_in`, `mlp_out`, `attention`.
        scale: η.
        ridge: λ.

    Source: Gu et al. 2025, *UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Large
    Language Models*, arXiv 2505.14679.
    """

    citation: ClassVar[str] = "gu2025ultraedit"
    families: ClassVar[tuple[Family, ...]] = ("causal",)

    layers: Layers = "all"
    parts: tuple[Part, ...] = ("mlp_out",)
    scale: float = 1e-6
    ridge: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "scale", "ridge")
        check_layers(self.layers)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], list[Carried]]:
        """See `AbstractWeightEditor.update`. Each batch uses the moments of its own stream."""
        names = weights_of(start.network, start.parts, self.layers, self.parts)
        found = [
            self.solve(start, names, *_rows_of_answers(start, batch, names), before)
            for batch, before in zip(batches, carried, strict=True)
        ]
        return [update for update, _ in found], [after for _, after in found]

    def solve(
        self,
        base: AbstractModel,
        names: Sequence[str],
        h: Mapping[str, Float[Tensor, "rows d_in"]],
        g: Mapping[str, Float[Tensor, "rows d_out"]],
        carried: Carried,
    ) -> tuple[Changes, Carried]:
        """Returns the change of each matrix, and the moments with this batch."""
        maps = linear_maps(base.network)
        shapes = {name: "{1}x{0}".format(*map_shape(maps[name])) for name in names}
        moments: dict[str, Moments] = {}
        for name, shape in shapes.items():
            rows = torch.cat([h[name], g[name]], 1)
            moments[shape] = (moments.get(shape) or _carried(carried, shape, rows)).with_rows(rows)
        update: dict[str, LowRank] = {}
        for name, shape in shapes.items():
            seen, keys, d_in = moments[shape], h[name], h[name].shape[1]
            epsilon = torch.finfo(keys.dtype).eps
            normal = (torch.cat([keys, g[name]], 1) - seen.mean) / (seen.std + epsilon)
            v = -self.scale * normal[:, :d_in].square().sum(1, keepdim=True) * normal[:, d_in:]
            gram = keys @ keys.T + self.ridge * torch.eye(len(keys), dtype=keys.dtype)
            weight = base.network.get_parameter(name)
            update[name] = LowRank(torch.linalg.solve(gram, v).T.to(weight), keys.to(weight))
        tensors = {
            f"{shape}/{part}": torch.as_tensor(getattr(each, part), dtype=torch.float64)
            for shape, each in moments.items()
            for part in ("n", "mean", "sumsq")
        }
        return update, Carried(tensors)


def _carried(carried: Carried, shape: str, rows: Tensor) -> Moments:
    """Returns the moments that a stream has for a shape so far."""
    if f"{shape}/n" not in carried.tensors:
        nothing = torch.zeros(rows.shape[1], dtype=rows.dtype)
        return Moments(0.0, nothing, nothing)
    n, mean, sumsq = (carried.tensors[f"{shape}/{part}"].cpu() for part in ("n", "mean", "sumsq"))
    return Moments(float(n), mean, sumsq)


def _rows_of_answers(
    base: AbstractModel, batch: Batch, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns H and G of a batch: see `answer_tokens`."""
    ordered = sorted(batch, key=lambda edit: -len(base.prompt_ids([edit.prompt])[0]))
    return answer_tokens(base, base.rows([e.prompt for e in ordered], [e.target for e in ordered]), names)


def answer_tokens(
    base: AbstractModel, rows: Rows, names: Sequence[str]
) -> tuple[dict[str, Float[Tensor, "rows d_in"]], dict[str, Float[Tensor, "rows d_out"]]]:
    """Returns H and G of each map, at every token of the answers, in float64.

    The loss is the mean of −log p over all tokens of all answers.
    """
    probe = Probe()
    assert rows.mask is not None
    with torch.enable_grad(), probe.watching(base.network, names):
        logits = base.logits(rows)
        loss = torch.nn.functional.cross_entropy(logits, rows.labels, reduction="sum") / len(rows.labels)
        each = torch.zeros(rows.batch, dtype=loss.dtype, device=loss.device)
        factors = probe.factors(each + loss / rows.batch)  # they sum to the loss
    h = {name: factors[name].X[rows.mask].cpu().double() for name in names}
    g = {name: factors[name].D[rows.mask].cpu().double() for name in names}
    return h, g
