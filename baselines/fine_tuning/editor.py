"""Fine-tuning on the edit alone, the first baseline of De Cao et al. 2021."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kebench.edit import Edit
from kebench.editor import AbstractWeightEditor, State
from kebench.errors import check_positive
from kebench.models.model import AbstractModel
from kebench.models.rows import all_argmax, target_loss
from kebench.updates import Dense, Update, editable, substituted


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
        """See `AbstractWeightEditor`: each edit is tuned by itself, from the base weights."""
        return [descend(self, base, edit) for edit in edits]


def descend(
    settings: FineTuning,
    base: AbstractModel,
    edit: Edit,
    project: Callable[[Mapping[str, Tensor]], None] = lambda _deltas: None,
) -> Update:
    """θ' − θ after the steps it takes until the argmax of every target token is right.

    Args:
        settings: which matrices, how fast, how long.
        base: the base model.
        edit: what to learn. The loss is teacher-forced over all target tokens, end of sequence included.
        project: called after each step with parameter name → θ' − θ, to be brought back in place to where
            they may be.
    """
    theta = {name: base.network.get_parameter(name) for name in editable(base.network, settings.layers)}
    deltas = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in theta.items()}
    optimizer = torch.optim.RMSprop(deltas.values(), lr=settings.learning_rate)
    rows = base.rows([edit.prompt], [edit.target])
    for step in range(settings.max_steps + 1):
        with (
            torch.enable_grad(),
            substituted(base.network, {name: theta[name] + deltas[name] for name in theta}),
        ):
            logits = base.logits(rows)
            if bool(all_argmax(logits, rows)) or step == settings.max_steps:
                break
            optimizer.zero_grad()
            target_loss(logits, rows).sum().backward()
        optimizer.step()
        with torch.no_grad():
            project(deltas)
    return {name: Dense(delta.detach()) for name, delta in deltas.items()} if step else {}
