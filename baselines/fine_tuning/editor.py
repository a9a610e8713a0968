"""Fine-tuning on the edit alone, the first baseline of De Cao et al. 2021."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kebench.edits.edit import Edit
from kebench.edits.edited import reached
from kebench.edits.editor import AbstractWeightEditor, State
from kebench.edits.gradients import Probe
from kebench.errors import check_positive
from kebench.models.changes import Dense, Update, dense_applied, dense_weights, substituted
from kebench.models.layers import as_stored, editable, linear_maps
from kebench.models.model import AbstractModel
from kebench.models.rows import all_argmax, target_loss

BYTES_AT_ONCE = 4 * 2**30
"""What the edits tuned together may hold, each its change of the matrices and as much again for RMSprop (0.7
GB for all of BERT-base's layers); one edit may hold more. The same edits in the same groups give the same
bytes. In other groups, an edit's gradient is the same up to the rounding of floating-point sums, which the
following steps can amplify: so its update, the number of its steps and, rarely, an answer can differ."""


@dataclass(frozen=True)
class FineTuning(AbstractWeightEditor):
    """Steps of RMSprop on -log p(a | x), until the model answers a.

    Their released code has no cap on the steps; the paper's has 100 (reference §1.10, 2).

    Attributes:
        layers: `first`, `last` or `all` layers, or their numbers; the same matrices KnowledgeEditor edits.
        learning_rate: of RMSprop; theirs is 1e-5, for BERT-base and BART-base.
        max_steps: the most steps an edit takes.
    """

    citation: ClassVar[str] = "decao2021editing"

    layers: Literal["all", "first", "last"] | tuple[int, ...] = "all"
    learning_rate: float = 1e-5
    max_steps: int = 100

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")
        check_positive(self, "max_steps", or_zero=True)

    def update(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> list[Update]:
        """See `AbstractWeightEditor`: each edit is tuned from the base weights, on its own loss alone."""
        return descend(self, base, edits)


@dataclass(frozen=True)
class Tuning:
    """An edit on its way. Its tensors change in place.

    Attributes:
        edit: what to learn. The loss is teacher-forced over all target tokens, end of sequence included.
        delta: parameter name → θ' − θ, as a linear map, (d_out, d_in). Empty before the first step.
        square: the running mean of its squared gradient, likewise.
    """

    edit: Edit
    delta: dict[str, Tensor] = field(default_factory=dict)
    square: dict[str, Tensor] = field(default_factory=dict)

    def step(self, name: str, gradient: Float[Tensor, "d_out d_in"], rate: float) -> None:
        """RMSprop as PyTorch has it: v ← 0.99 v + 0.01 g²,  Δ ← Δ − rate · g / (√v + 1e-8)."""
        if name not in self.delta:
            self.delta[name], self.square[name] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        square = self.square[name].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        self.delta[name].addcdiv_(gradient, square.sqrt().add_(1e-8), value=-rate)

    def update(self, maps: Mapping[str, nn.Module]) -> Update:
        """θ' − θ, each matrix the way round that its linear map stores it."""
        return {name: Dense(as_stored(maps[name], delta)) for name, delta in self.delta.items()}


def descend(
    settings: FineTuning,
    base: AbstractModel,
    edits: Sequence[Edit],
    project: Callable[[Mapping[str, Tensor]], None] = lambda _delta: None,
) -> list[Update]:
    """θ' − θ of each edit after the steps it takes until the argmax of every target token is right.

    Under `decao2021`, until the target is the answer, decoded with the beams of the run (`reached`).

    Args:
        settings: which matrices, how fast, how long.
        base: the base model.
        edits: what to learn, each by itself.
        project: called after each step of an edit with its parameter name → θ' − θ, to be brought back in
            place to where they may be.
    """
    names, maps = editable(base.network, settings.layers), linear_maps(base.network)
    bytes_each = 2 * sum(base.network.get_parameter(name).nbytes for name in names)
    together = base.one_pass.holds_edits(names)
    at_once = max(1, BYTES_AT_ONCE // bytes_each) if together else 1
    tunings = [Tuning(edit) for edit in edits]
    for start in range(0, len(edits), at_once):
        unfinished = tunings[start : start + at_once]
        for _ in range(settings.max_steps):
            unfinished = _step(unfinished, names, settings.learning_rate, base, project)
            if not unfinished:
                break
        for tuning in tunings[start : start + at_once]:
            tuning.square.clear()
    return [tuning.update(maps) for tuning in tunings]


def _step(
    tunings: Sequence[Tuning],
    names: Sequence[str],
    rate: float,
    base: AbstractModel,
    project: Callable[[Mapping[str, Tensor]], None],
) -> list[Tuning]:
    """One step of every edit whose target is not the answer yet; returns those."""
    if base.protocol is not None:
        maps = linear_maps(base.network)
        updates = [tuning.update(maps) for tuning in tunings]
        done = reached(base, updates, [tuning.edit for tuning in tunings])
        tunings = [tuning for tuning, is_done in zip(tunings, done, strict=True) if not is_done]
        if not tunings:
            return []
    rows = base.rows([tuning.edit.prompt for tuning in tunings], [tuning.edit.target for tuning in tunings])
    together = base.one_pass.holds_edits(names)
    probe = Probe(one_row=not together)
    with (
        torch.enable_grad(),
        _in_force(base.network, tunings, together),
        probe.watching(base.network, names),
    ):
        logits = base.logits(rows)
        done = all_argmax(logits, rows).tolist() if base.protocol is None else [False] * len(tunings)
        gradients = {} if all(done) else probe.factors(target_loss(logits, rows))
    unfinished = {row: tuning for row, tuning in enumerate(tunings) if not done[row]}
    for row, tuning in unfinished.items():
        for name, factors in gradients.items():
            tuning.step(name, factors.D[row].T @ factors.X[row], rate)
        project(tuning.delta)
    return list(unfinished.values())


def _in_force(network: nn.Module, tunings: Sequence[Tuning], together: bool) -> AbstractContextManager[None]:
    """Puts each edit's change in force for its row of a batch."""
    if together:
        return dense_applied(network, [tuning.delta for tuning in tunings])
    (tuning,) = tunings
    return substituted(network, dense_weights(network, tuning.update(linear_maps(network))))
