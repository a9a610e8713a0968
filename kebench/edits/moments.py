"""Computes second moments of the inputs of linear maps. They show the directions that all inputs share."""

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
    """Returns E[x xᵀ] of each linear map's input, in float64.

    It is a mean over the tokens of the questions and their answers. Each question has a forward pass of its
    own, so that there is no padding, in the encoder or in the decoder.
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
    """Returns (C / e + I)⁻¹ with e = ε · tr C / d_in.

    Its eigenvalue is 1 along directions that no input has, and small along directions that all inputs share.
    """
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
    """Returns `inverse` of each linear map's second moment, in the network's own type.

    Args:
        base: the base model.
        names: the names of the maps' parameters.
        epsilon: ε in `inverse`.
        training: the second moments are over its questions.
        at_most: the largest number of questions. If there are more, so many are drawn.
        seed: the seed of this draw.

    Raises:
        BadSetting: there is no question.
    """
    seen = [*training.known, *training.unseen]
    if not seen:
        raise BadSetting("found no question that the base model answers, wanted some for second moments")
    sample = random.Random(seed).sample(seen, min(at_most, len(seen)))
    moments = second_moments(base, names, [(known.prompt, known.prediction) for known in sample])
    return {name: inverse(moment, epsilon).to(base.network.dtype) for name, moment in moments.items()}
