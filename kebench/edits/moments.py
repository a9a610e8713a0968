"""Second moments of what linear maps are fed: which directions of a layer's input every question shares."""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.editor import TrainingSet
from kebench.errors import BadSetting
from kebench.models.base_logits import Question
from kebench.models.changes import after
from kebench.models.model import AbstractModel


@torch.no_grad()
def second_moments(
    base: AbstractModel, names: Sequence[str], questions: Sequence[Question]
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """E[x xᵀ] of each linear map's input, a mean over the tokens of questions fed with their answers.

    In float64. Questions are asked one by one: nothing is padding, whichever side of a network a map is on.
    """
    sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
    tokens = dict.fromkeys(names, 0)

    def add(name: str, x: Tensor, _output: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1]).cpu().double()  # not every device has float64
        sums[name] = sums[name] + rows.T @ rows
        tokens[name] += len(rows)

    for prompt, answer in questions:
        rows = base.rows([prompt], [answer])
        with base.reuse.below(frozenset(names), rows), after(base.network, names, add):
            base.logits(rows)
    return {name: sums[name] / tokens[name] for name in names}


def inverse(moment: Float[Tensor, "d_in d_in"], epsilon: float) -> Float[Tensor, "d_in d_in"]:
    """(C / e + I)⁻¹ with e = ε · tr C / d_in: 1 along directions no input has, small along those all have."""
    identity = torch.eye(len(moment), dtype=moment.dtype)
    found: Tensor = torch.linalg.inv(moment / (epsilon * moment.diagonal().mean()) + identity)
    return found


def preconditioners(
    base: AbstractModel,
    names: Sequence[str],
    epsilon: float,
    training: TrainingSet,
    *,
    at_most: int,
    seed: int,
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """`inverse` of each linear map's second moment over questions that an editor may learn from.

    In the network's own type. Of more than `at_most` questions, so many are drawn with the seed.

    Raises:
        BadSetting: there is no question.
    """
    seen = [*training.known, *training.unseen]
    if not seen:
        raise BadSetting("found no question that the base model answers, wanted some for second moments")
    sample = random.Random(seed).sample(seen, min(at_most, len(seen)))
    moments = second_moments(base, names, [(known.prompt, known.prediction) for known in sample])
    return {name: inverse(moment, epsilon).to(base.network.dtype) for name, moment in moments.items()}
