"""Tests, once for each model, whether one forward pass can hold several rows and several edits.

Nothing is assumed from the name of a network. In some networks the input of a layer is not (row, token, dim):
it may hold position embeddings that all rows share, or tokens before rows, or only the tokens that a router
chose. Some networks read the weight of a layer without calling the layer. There, an update that is added to
the layer's output affects the wrong rows, or nothing. In other networks the answer of a row depends on
padding or on the other rows of the batch.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kebench.models.changes import LowRank, LowRankBatch, after, dense_weights, low_rank_applied, substituted
from kebench.models.layers import linear_maps, map_shape
from kebench.models.proofs import holds
from kebench.models.rows import watching_logits

if TYPE_CHECKING:
    from kebench.models.model import AbstractModel

logger = logging.getLogger(__name__)

PROMPTS = ("a", "b c d e", "f g", "h i j k l m n", "o p q")
ANSWERS = ("r s", "t", "u v w", "x", "y z")
"""The answers of a generative model, teacher-forced after the prompts."""
ALONE = (0, 4)
"""Two probes that are also computed alone: the one with the most padding, and another one."""
EDIT_OF = (0, 0, 1, 2, 2)
"""The edit in force for each probe. Edits have different numbers of probes."""
MOVED = (3, 1, 4, 0, 2)
"""Another order of the probes."""


class OnePass:
    """Says what one forward pass of a model can hold. Each test runs when it is first needed, and is kept.

    Two results are considered the same if half of their digits agree: no number differs by more than √ε times
    the range of all numbers, where ε is the precision of the model's number type. Rounding errors are well
    below this. The effect of another row's update is well above it.
    """

    def __init__(self, model: "AbstractModel") -> None:
        self._model = model
        self._edits: dict[frozenset[str], bool] = {}
        self._rows: bool | None = None

    @property
    def refuted(self) -> bool:
        """True if a test of several edits in one pass has failed."""
        return not all(self._edits.values())

    def holds_rows(self) -> bool:
        """Returns True if several padded rows in one pass have the same answers as each row alone."""
        if self._rows is None:
            self._rows = self._rows_keep_apart()
            if not self._rows:
                logger.info(
                    "%s: padding or other rows change its answers, so rows are computed one by one",
                    self._model.name,
                )
        return self._rows

    def holds_edits(self, names: Iterable[str]) -> bool:
        """Returns True if each row of a pass can have its own edit of these weights in force.

        Then the gradients of each row's loss with respect to these weights can be computed in one pass too.
        It is tested on a few probes with random updates. The input of each named layer must hold the rows in
        order, both when answers are scored and when they are decoded. And the logits must be the same as with
        one edit at a time, where edited weights replace those of the base model.

        Args:
            names: the names of the weights.
        """
        wanted = frozenset(names)
        if not wanted:
            return True
        if any(proved and wanted <= others for others, proved in self._edits.items()):
            return True
        if wanted not in self._edits:
            failed = f"{self._model.name}: several edits cannot share a pass, so they are computed one by one"
            try:
                self._edits[wanted] = holds(
                    lambda: self.holds_rows() and self._edits_keep_apart(sorted(wanted)), failed
                )
            except torch.OutOfMemoryError:  # the test needs a copy of the edited weights; the edits do not
                logger.info("%s (out of memory)", failed)
                self._edits[wanted] = False
        return self._edits[wanted]

    # The tests -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _rows_keep_apart(self) -> bool:
        everyone, (shortest, other) = range(len(PROMPTS)), ALONE
        try:
            scored, decoded = self._logits(everyone), self._first_decoded(everyone)
        except torch.OutOfMemoryError:  # then batches will be halved until they hold one row
            return True
        return (
            self._same(scored[shortest], self._logits([shortest])[0])
            and self._same(scored[other], self._logits([other])[0])
            and self._same(decoded[shortest], self._first_decoded([shortest])[0])
        )

    @torch.no_grad()
    def _edits_keep_apart(self, names: Sequence[str]) -> bool:
        calls, moved = self._inputs(range(len(PROMPTS)), names), self._inputs(MOVED, names)
        fed_by_row = [name for name, _ in calls] == [name for name, _ in moved] and all(
            self._same(rows[list(MOVED)], others) for (_, rows), (_, others) in zip(calls, moved, strict=True)
        )
        return fed_by_row and self._answers_agree(names, {name for name, _ in calls})

    def _answers_agree(self, names: Sequence[str], called: set[str]) -> bool:
        """Tests that edits in one pass, and of layers that are never called, act as edited weights do."""
        network = self._model.network
        updates = [self._random_update(names, seed) for seed in range(max(EDIT_OF) + 1)]
        batches = {name: LowRankBatch.stack([update[name] for update in updates]) for name in names}
        with low_rank_applied(network, batches, EDIT_OF):
            together = self._logits(range(len(PROMPTS)))
        alone = []
        for edit, update in enumerate(updates):
            with substituted(network, dense_weights(network, update)):
                alone += self._logits([probe for probe, asked_of in enumerate(EDIT_OF) if asked_of == edit])
        if not self._same(torch.cat(together), torch.cat(alone)):
            return False
        # The weight of a layer that is not called may still be used, with an effect too small to be seen yet.
        idle = {name: change for name, change in updates[0].items() if name not in called}
        if not idle:
            return True
        with substituted(network, dense_weights(network, idle)):
            edited = self._logits([0])[0]
        return torch.equal(edited, self._logits([0])[0])

    def _random_update(self, names: Sequence[str], seed: int) -> dict[str, LowRank]:
        """Returns a random update of rank 2 for each weight matrix, with half of the norm of the matrix."""
        network, generator = self._model.network, torch.Generator().manual_seed(seed)
        maps = linear_maps(network)
        update = {}
        for name in names:
            d_out, d_in = map_shape(maps[name])
            weight = network.get_parameter(name)
            b, a = torch.randn(d_out, 2, generator=generator), torch.randn(2, d_in, generator=generator)
            size = 0.5 * weight.float().norm() / (2 * d_out * d_in) ** 0.5
            update[name] = LowRank(b.to(weight) * size.to(weight), a.to(weight))
        return update

    # The probes ------------------------------------------------------------------------------------------

    def _logits(self, probes: Sequence[int]) -> list[Tensor]:
        """Returns the logits of each probe's answer, (scored, vocab)."""
        rows = self._model.rows(
            [PROMPTS[probe] for probe in probes], [self._answer(probe) for probe in probes]
        )
        return list(self._model.logits(rows).split(torch.bincount(rows.row).tolist()))

    def _answer(self, probe: int) -> str:
        labels = self._model.prompt_format.labels
        return labels[probe % len(labels)] if labels else ANSWERS[probe]

    def _first_decoded(self, probes: Sequence[int]) -> Tensor:
        """Returns the logits from which the first token of each decoded answer is chosen, (probes, vocab)."""
        found: list[Tensor] = []
        with watching_logits(self._model.network, found.append):
            self._decode(probes, tokens=1)
        return found[0]

    def _decode(self, probes: Sequence[int], tokens: int) -> None:
        prompt_format = self._model.prompt_format
        self._model.prompt_format = replace(prompt_format, max_answer_tokens=tokens)
        try:
            self._model.decode([PROMPTS[probe] for probe in probes], 1)
        finally:
            self._model.prompt_format = prompt_format

    def _inputs(self, probes: Sequence[int], names: Sequence[str]) -> list[tuple[str, Tensor]]:
        """Returns, for each call of a named layer, its name and its input as (probes, tokens, d_in)."""
        found: list[tuple[str, Tensor]] = []

        def see(name: str, x: Tensor, output: Tensor) -> None:
            output.reshape(len(probes), -1, output.shape[-1])
            found.append((name, x.reshape(len(probes), -1, x.shape[-1])))

        with after(self._model.network, names, see):
            self._logits(probes)
            self._decode(probes, tokens=2)  # the first pass reads the prompt, the second one uses the cache
        return found

    def _same(self, one: Tensor, other: Tensor) -> bool:
        """Returns True if two results agree in half of their digits."""
        if one.shape != other.shape or one.numel() == 0:
            return one.shape == other.shape
        dtype = self._model.network.dtype
        # In a network in float64, some parts may compute in float32.
        rounding = (
            2**-10 if self._model.tf32 else max(torch.finfo(kind).eps for kind in (dtype, torch.float32))
        )
        one, other = one.to(torch.promote_types(one.dtype, torch.float32)), other.to(one.dtype)
        tolerance = rounding**0.5 * (one.max() - one.min())
        return bool((one - other).abs().max() <= tolerance)  # NaN is never the same
