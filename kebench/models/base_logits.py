"""The base model's logits of questions that are asked again and again, each worked out once."""

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
"""A prompt, and the answer that is fed after it."""

BLOCK = 32
"""Questions worked out together, of similar length. Which ones is settled beforehand: so the order in which
they are needed, another one after an interruption, changes no bit of what is kept."""


def blocks(base: AbstractModel, questions: Iterable[Question]) -> dict[Question, list[Question]]:
    """The block that each question is worked out in; the shortest block first."""
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
    """What `AbstractModel.logits` says of known questions on the base weights.

    A classifier's logits are kept. A generator's are as wide as its vocabulary: what is kept is the input of
    its output layer, which is applied anew. Where a network does more to its logits than that layer, which
    the first block shows, nothing is kept.
    """

    def __init__(self, base: AbstractModel, questions: Iterable[Question]) -> None:
        self._base = base
        self._blocks = blocks(base, questions)
        self._head = nn.Identity() if base.family == "classifier" else base.network.get_output_embeddings()
        self._kept: dict[Question, Tensor] = {}

    @torch.no_grad()
    def of(self, questions: Sequence[Question]) -> Float[Tensor, "scored vocab"]:
        """The logits at the scored positions of these questions, one after the other."""
        if not self._keeps:
            return self._ask(questions)[0]
        for question in questions:
            if question not in self._kept:
                block = self._blocks[question]
                self._kept.update(zip(block, self._ask(block)[1], strict=True))
        return at_least_float32(self._head(torch.cat([self._kept[question] for question in questions])))

    @cached_property
    def _keeps(self) -> bool:
        """Whether the output layer alone gives the logits of the first block."""
        logits, states = self._ask(next(iter(self._blocks.values())))
        keeps = torch.equal(at_least_float32(self._head(torch.cat(states))), logits)
        if not keeps:
            logger.info("%s does more to its logits than its output layer: none are kept", self._base.name)
        return keeps

    def _ask(self, questions: Sequence[Question]) -> tuple[Tensor, list[Tensor]]:
        """The logits, (scored, vocab), and what the output layer was given for each question."""
        prompts, answers = zip(*questions, strict=True)
        rows = self._base.rows(prompts, answers)
        given: list[Tensor] = []
        watch = self._head.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
        try:
            logits = self._base.logits(rows)
        finally:
            watch.remove()
        states = given[0] if given else logits  # a classifier's own: the identity was not asked
        return logits, list(states.split(torch.bincount(rows.row).tolist()))
