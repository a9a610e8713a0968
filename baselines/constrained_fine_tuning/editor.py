"""Fine-tuning within a ball around the base weights (Zhu et al. 2020, arXiv 2012.00363)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractWeightEditor, Carried, State
from kebench.errors import check_positive
from kebench.models.changes import Changes
from kebench.models.layers import Layers, check_layers
from kebench.models.model import AbstractModel

from ..fine_tuning.editor import FineTuning, descend


@dataclass(frozen=True)
class ConstrainedFineTuning(AbstractWeightEditor):
    """min L(θ'; x, a)  s.t.  ‖θ' − θ‖_p ≤ δ, by projected gradient steps (Zhu et al. 2020, Eq. 2).

    With p = inf, a radius below ten times the learning rate has an effect from the first step on. RMSprop's
    running mean of g² is 0.01 g² then, so the first step moves every weight by rate · |g| / √(0.01 g²), which
    is ten times the rate for every gradient, except one of about 1e-8 or less. No later step is longer: with
    a constant gradient, a weight has moved by 17 rates after two steps, and by 51 after ten. A radius above
    ten times the rate times the number of steps has no effect: the editor is then fine-tuning.

    Attributes:
        norm: p, one of 1, 2, inf.
        radius: δ.
        scope: `parameter` for a ball around each parameter, or `global` for one ball around all of them.
        layers, learning_rate, max_steps: as in `FineTuning`.
    """

    citation: ClassVar[str] = "zhu2020modifying"

    norm: Literal["1", "2", "inf"] = "inf"
    radius: float = 1e-4
    scope: Literal["parameter", "global"] = "parameter"
    layers: Layers = "all"
    learning_rate: float = 1e-5
    max_steps: int = 100

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")
        check_positive(self, "radius", "max_steps", or_zero=True)
        check_layers(self.layers)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. The weights are projected onto the ball after each step.

        The centre of the ball is the model that the batch starts from.
        """
        steps = FineTuning(self.layers, self.learning_rate, self.max_steps)
        into_ball = partial(project, norm=self.norm, radius=self.radius, scope=self.scope)
        return descend(steps, start, batches, into_ball), carried


def project(deltas: Mapping[str, Tensor], *, norm: str, radius: float, scope: str = "parameter") -> None:
    """Projects θ' − θ, in place, onto the Lp ball of that radius."""
    if scope == "parameter":
        for delta in deltas.values():
            delta.copy_(nearest_in_ball(delta.reshape(-1), norm, radius).view_as(delta))
        return
    flat = nearest_in_ball(torch.cat([delta.reshape(-1) for delta in deltas.values()]), norm, radius)
    for delta, part in zip(deltas.values(), flat.split([d.numel() for d in deltas.values()]), strict=True):
        delta.copy_(part.view_as(delta))


def nearest_in_ball(vector: Tensor, norm: str, radius: float) -> Tensor:
    """Returns the Euclidean projection of a vector onto {v : ‖v‖_p ≤ radius}.

    Source for p = 1: Duchi et al. 2008, Fig. 1: a soft threshold τ such that the norm becomes the radius.
    """
    if norm == "inf":
        return vector.clamp(-radius, radius)
    if norm == "2":
        length = vector.norm()
        return vector * (radius / length) if length > radius else vector
    size = vector.abs()
    if size.sum() <= radius:
        return vector
    ordered = size.sort(descending=True).values
    excess = (ordered.cumsum(0) - radius) / torch.arange(1, len(vector) + 1, device=vector.device)
    # With ≥ there is a last entry, even if the radius is lost in rounding.
    threshold = excess[(ordered >= excess).nonzero()[-1]]
    return vector.sign() * (size - threshold).clamp_min(0)
