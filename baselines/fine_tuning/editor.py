"""Fine-tuning on the edit alone, the first baseline of De Cao et al. 2021."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractWeightEditor, Carried, State
from kebench.edits.gradients import Probe
from kebench.edits.versions import reached
from kebench.errors import check_positive
from kebench.models.changes import Changes, Dense, dense_applied, dense_weights, substituted
from kebench.models.layers import Layers, as_stored, check_layers, editable, linear_maps
from kebench.models.model import AbstractModel
from kebench.models.rows import all_argmax, target_loss

BYTES_AT_ONCE = 4 * 2**30
"""The memory for edits that are tuned together. Each needs its change of the matrices and as much again for
RMSprop: 0.7 GB for all layers of BERT-base. A single edit may need more than the limit. The same edits in the
same groups give the same bits. In other groups, an edit's gradient is the same up to the rounding of
floating-point sums. Later steps can amplify this, so the update, the number of steps and, rarely, an answer
can differ."""


@dataclass(frozen=True)
class FineTuning(AbstractWeightEditor):
    """Steps of RMSprop on -log p(a | x), until the model answers a.

    The released code has no limit on the steps; the paper has 100 (reference §1.10, 2).

    Attributes:
        layers: the layers whose matrices are changed: `first`, `last`, `all`, a list of numbers, or a pattern
            of parameter names (`kebench.models.layers.editable`).
        learning_rate: the learning rate of RMSprop. The paper's is 1e-5, for BERT-base and BART-base.
        max_steps: the largest number of steps.
    """

    citation: ClassVar[str] = "decao2021editing"

    layers: Layers = "all"
    learning_rate: float = 1e-5
    max_steps: int = 100

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate")
        check_positive(self, "max_steps", or_zero=True)
        check_layers(self.layers)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. Each batch is tuned from the same weights, on its own loss."""
        return descend(self, start, batches), carried


@dataclass(frozen=True)
class Tuning:
    """A batch that is being tuned. Its tensors change in place.

    Attributes:
        batch: the edits. The loss of an edit is teacher-forced, a mean over all target tokens, with the end
            of sequence. The loss of a batch is the mean over its edits.
        delta: parameter name → θ' − θ, as a linear map, (d_out, d_in). Empty before the first step.
        square: parameter name → the running mean of the squared gradient, (d_out, d_in).
    """

    batch: Batch
    delta: dict[str, Tensor] = field(default_factory=dict)
    square: dict[str, Tensor] = field(default_factory=dict)

    def step(self, name: str, gradient: Float[Tensor, "d_out d_in"], rate: float) -> None:
        """Makes a step of RMSprop, as PyTorch does: v ← 0.99 v + 0.01 g²,  Δ ← Δ − rate · g / (√v + 1e-8)."""
        if name not in self.delta:
            self.delta[name], self.square[name] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        square = self.square[name].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        self.delta[name].addcdiv_(gradient, square.sqrt().add_(1e-8), value=-rate)

    def update(self, maps: Mapping[str, nn.Module]) -> Changes:
        """Returns θ' − θ, with each matrix as its module stores it."""
        return {name: Dense(as_stored(maps[name], delta)) for name, delta in self.delta.items()}


def descend(
    settings: FineTuning,
    start: AbstractModel,
    batches: Sequence[Batch],
    project: Callable[[Mapping[str, Tensor]], None] = lambda _delta: None,
) -> list[Changes]:
    """Returns θ' − θ of each batch, after steps until every token of every target is the most likely one.

    With the protocol `decao2021`, there are steps until every target is the answer, decoded with the beams of
    the run (`reached`).

    Args:
        settings: the layers, the learning rate and the largest number of steps.
        start: the model with the weights θ.
        batches: the batches, each tuned by itself.
        project: is called after each step of a batch with parameter name → θ' − θ. It projects them in place
            onto the feasible set.
    """
    names, maps = editable(start.network, settings.layers), linear_maps(start.network)
    bytes_each = 2 * sum(start.network.get_parameter(name).nbytes for name in names)
    together = start.one_pass.holds_edits(names) and len({len(batch) for batch in batches}) == 1
    at_once = max(1, BYTES_AT_ONCE // bytes_each) if together else 1
    tunings = [Tuning(batch) for batch in batches]
    for place in range(0, len(batches), at_once):
        unfinished = [tuning for tuning in tunings[place : place + at_once] if tuning.batch]
        for _ in range(settings.max_steps):
            unfinished = _step(unfinished, names, settings.learning_rate, start, project)
            if not unfinished:
                break
        for tuning in tunings[place : place + at_once]:
            tuning.square.clear()
    return [tuning.update(maps) for tuning in tunings]


def _step(
    tunings: Sequence[Tuning],
    names: Sequence[str],
    rate: float,
    start: AbstractModel,
    project: Callable[[Mapping[str, Tensor]], None],
) -> list[Tuning]:
    """Makes a step of every batch that has not reached its targets, and returns those batches."""
    if start.protocol is not None:
        maps = linear_maps(start.network)
        updates = [tuning.update(maps) for tuning in tunings]
        right = reached(start, updates, [tuning.batch for tuning in tunings])
        tunings = [tuning for tuning, each in zip(tunings, right, strict=True) if not all(each)]
        if not tunings:
            return []
    if start.one_pass.holds_edits(names):
        with dense_applied(start.network, [tuning.delta for tuning in tunings]):
            done, gradients = _gradients(start, tunings, names)
    else:
        (tuning,) = tunings
        with substituted(
            start.network, dense_weights(start.network, tuning.update(linear_maps(start.network)))
        ):
            done, gradients = _gradient_row_by_row(start, tuning, names)
    unfinished = [place for place in range(len(tunings)) if start.protocol is not None or not done[place]]
    for place in unfinished:
        for name in names:
            tunings[place].step(name, gradients[name][place], rate)
        project(tunings[place].delta)
    return [tunings[place] for place in unfinished]


def _gradients(
    start: AbstractModel, tunings: Sequence[Tuning], names: Sequence[str]
) -> tuple[list[bool], Mapping[str, Sequence[Float[Tensor, "d_out d_in"]]]]:
    """Returns whether each batch has reached its targets, and the gradients of the losses of all batches.

    All edits share one forward pass, in the order of the batches, which have the same size. If all batches
    have reached their targets and there is no protocol, no gradients are computed.

    Returns:
        For each batch, True if all tokens of all targets are the most likely ones; and parameter name → the
        gradient of each batch.
    """
    edits = [edit for tuning in tunings for edit in tuning.batch]
    size = len(edits) // len(tunings)
    rows = start.rows([edit.prompt for edit in edits], [edit.target for edit in edits])
    probe = Probe()
    with torch.enable_grad(), probe.watching(start.network, names):
        logits = start.logits(rows)
        done = all_argmax(logits, rows).view(len(tunings), size).all(1).tolist()
        if start.protocol is None and all(done):
            return done, {}
        factors = probe.factors(target_loss(logits, rows) / size)
    gradients: dict[str, list[Tensor]] = {}
    for name, each in factors.items():
        by_batch = zip(each.D.split(size), each.X.split(size), strict=True)
        gradients[name] = [d.flatten(0, 1).T @ x.flatten(0, 1) for d, x in by_batch]
    return done, gradients


def _gradient_row_by_row(
    start: AbstractModel, tuning: Tuning, names: Sequence[str]
) -> tuple[list[bool], Mapping[str, Sequence[Float[Tensor, "d_out d_in"]]]]:
    """Does the same for one batch of a network whose edits cannot share a pass (`OnePass`)."""
    done = True
    gradients: dict[str, list[Tensor]] = {}
    for edit in tuning.batch:
        rows = start.rows([edit.prompt], [edit.target])
        probe = Probe(one_row=True)
        with torch.enable_grad(), probe.watching(start.network, names):
            logits = start.logits(rows)
            done &= bool(all_argmax(logits, rows))
            factors = probe.factors(target_loss(logits, rows) / len(tuning.batch))
        for name, each in factors.items():
            gradient = each.D[0].T @ each.X[0]
            gradients[name] = [gradients[name][0] + gradient if name in gradients else gradient]
    return [done], gradients
