"""Computes the base model's logits for a set of questions, once for each question, and keeps them."""

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kebench.models.model import AbstractModel
from kebench.models.rows import at_least_float32

logger = logging.getLogger(__name__)

Question = tuple[str, str]
"""A prompt, and the answer that is teacher-forced after it."""

BLOCK = 32
"""The number of questions, of similar length, whose logits are computed together.

Blocks are fixed in advance. So the logits do not depend on the order in which questions are needed, which
differs after an interruption.
"""


def blocks(base: AbstractModel, questions: Iterable[Question]) -> dict[Question, list[Question]]:
    """Returns each question → the block of questions whose logits are computed together with its own."""
    distinct = list(dict.fromkeys(questions))
    ids = base.prompt_ids([prompt for prompt, _ in distinct])
    length = dict(zip(distinct, map(len, ids), strict=True))
    order = sorted(distinct, key=lambda question: (length[question], question))
    found: dict[Question, list[Question]] = {}
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        found.update(dict.fromkeys(block, block))
    return found


class BaseLogits:
    """The logits that `AbstractModel.logits` returns for a set of questions, with the base weights.

    The logits of a classifier are kept. The logits of a generative model are large, because they have an
    entry for each token of the vocabulary. So the input of its output layer is kept, and the layer is applied
    again. A network may change its logits after the output layer. This is tested on the first block; if it is
    so, nothing is kept.
    """

    def __init__(self, base: AbstractModel, questions: Iterable[Question]) -> None:
        self._base = base
        self._blocks = blocks(base, questions)
        self._head = nn.Identity() if base.family == "classifier" else base.network.get_output_embeddings()
        self._kept: dict[Question, Tensor] = {}

    @torch.no_grad()
    def of(self, questions: Sequence[Question]) -> Float[Tensor, "scored vocab"]:
        """Returns the logits at the scored positions of these questions, in order."""
        if not self._keeps:
            return self._ask(questions)[0]
        for question in questions:
            if question not in self._kept:
                block = self._blocks[question]
                self._kept.update(zip(block, self._ask(block)[1], strict=True))
        return at_least_float32(self._head(torch.cat([self._kept[question] for question in questions])))

    @cached_property
    def _keeps(self) -> bool:
        """True if the output layer alone computes the logits of the first block from its input."""
        logits, states = self._ask(next(iter(self._blocks.values())))
        keeps = torch.equal(at_least_float32(self._head(torch.cat(states))), logits)
        if not keeps:
            logger.info("%s: logits change after the output layer, so none are kept", self._base.name)
        return keeps

    def _ask(self, questions: Sequence[Question]) -> tuple[Tensor, list[Tensor]]:
        """Returns the logits, (scored, vocab), and the input of the output layer for each question."""
        prompts, answers = zip(*questions, strict=True)
        rows = self._base.rows(prompts, answers)
        given: list[Tensor] = []
        watch = self._head.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
        try:
            logits = self._base.logits(rows)
        finally:
            watch.remove()
        states = given[0] if given else logits  # a classifier does not call the identity layer
        return logits, list(states.split(torch.bincount(rows.row).tolist()))
