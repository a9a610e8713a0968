"""Proves, once a model, that one forward pass may hold several rows, and several edits.

Nothing is known of a network by its name. Some networks hand a layer more than (row, token, dim): position
embeddings that all rows share, tokens before rows, the tokens that a router chose. Some read a layer's weight
without calling the layer. An update that is added to the layer's output goes to the wrong rows there, or
nowhere. Other networks let padding, or the other rows of a batch, change what a row says.
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
"""What a generating model is fed after them."""
ALONE = (0, 4)
"""Probes also asked by themselves: the one that is padded most, and another."""
EDIT_OF = (0, 0, 1, 2, 2)
"""The edit under which each probe is asked: runs of unequal length."""
MOVED = (3, 1, 4, 0, 2)
"""Another order of the probes."""


class OnePass:
    """What one forward pass of a model may hold. Each proof is made when it is first needed, and kept.

    Two results count as the same if half of the digits of the model's number type agree: no number differs by
    more than √ε times the range of all. Rounding stays well below that. A row that gets another row's update
    is well above it.
    """

    def __init__(self, model: "AbstractModel") -> None:
        self._model = model
        self._edits: dict[frozenset[str], bool] = {}
        self._rows: bool | None = None

    @property
    def refuted(self) -> bool:
        """Whether several edits were wanted in one pass, and the proof failed."""
        return not all(self._edits.values())

    def holds_rows(self) -> bool:
        """Whether the base model answers several padded rows in one pass as it answers each by itself."""
        if self._rows is None:
            self._rows = self._rows_keep_apart()
            if not self._rows:
                logger.info(
                    "%s: padding or other rows change its answers: asked row by row", self._model.name
                )
        return self._rows

    def holds_edits(self, names: Iterable[str]) -> bool:
        """Whether each row of one pass may be under an edit of its own of these weights.

        If so, the gradient of each row's loss for these weights can be taken in one pass too. Proved on a few
        probes under random updates: every named layer is fed the rows one after the other, while answers are
        scored and while they are decoded; and the logits are those of each edit by itself, its edited weights
        in place of the base model's.
        """
        wanted = frozenset(names)
        if not wanted:
            return True
        if any(proved and wanted <= others for others, proved in self._edits.items()):
            return True
        if wanted not in self._edits:
            failed = f"{self._model.name}: several edits cannot share a pass, so they are asked one by one"
            try:
                self._edits[wanted] = holds(
                    lambda: self.holds_rows() and self._edits_keep_apart(sorted(wanted)), failed
                )
            except torch.OutOfMemoryError:  # the proof needs a copy of the edited weights, the edits do not
                logger.info("%s (out of memory)", failed)
                self._edits[wanted] = False
        return self._edits[wanted]

    # The proofs ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _rows_keep_apart(self) -> bool:
        everyone, (shortest, other) = range(len(PROMPTS)), ALONE
        try:
            scored, decoded = self._logits(everyone), self._first_decoded(everyone)
        except torch.OutOfMemoryError:  # then rows will be asked by themselves soon
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
        """Whether edits in one pass, and the layers that are never called, do what edited weights do."""
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
        # One that is not called may be read all the same, and what it does be too little to be seen above.
        idle = {name: change for name, change in updates[0].items() if name not in called}
        if not idle:
            return True
        with substituted(network, dense_weights(network, idle)):
            edited = self._logits([0])[0]
        return torch.equal(edited, self._logits([0])[0])

    def _random_update(self, names: Sequence[str], seed: int) -> dict[str, LowRank]:
        """A change of each weight matrix by two random directions, half as large as the matrix."""
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

    # Asking the probes -----------------------------------------------------------------------------------

    def _logits(self, probes: Sequence[int]) -> list[Tensor]:
        """The logits of each probe's answer, (scored, vocab)."""
        rows = self._model.rows(
            [PROMPTS[probe] for probe in probes], [self._answer(probe) for probe in probes]
        )
        return list(self._model.logits(rows).split(torch.bincount(rows.row).tolist()))

    def _answer(self, probe: int) -> str:
        labels = self._model.prompt_format.labels
        return labels[probe % len(labels)] if labels else ANSWERS[probe]

    def _first_decoded(self, probes: Sequence[int]) -> Tensor:
        """The logits from which the first token of each free answer is chosen, (probes, vocab)."""
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
        """What each call feeds the named layers, by row: (probes, tokens, d_in)."""
        found: list[tuple[str, Tensor]] = []

        def see(name: str, x: Tensor, output: Tensor) -> None:
            output.reshape(len(probes), -1, output.shape[-1])
            found.append((name, x.reshape(len(probes), -1, x.shape[-1])))

        with after(self._model.network, names, see):
            self._logits(probes)
            self._decode(probes, tokens=2)  # one from the prompt, one from what was kept of it
        return found

    def _same(self, one: Tensor, other: Tensor) -> bool:
        """Whether two results agree in half of their digits."""
        if one.shape != other.shape or one.numel() == 0:
            return one.shape == other.shape
        dtype = self._model.network.dtype
        # Of a network in float64, some parts may well compute in float32.
        rounding = (
            2**-10 if self._model.tf32 else max(torch.finfo(kind).eps for kind in (dtype, torch.float32))
        )
        one, other = one.to(torch.promote_types(one.dtype, torch.float32)), other.to(one.dtype)
        tolerance = rounding**0.5 * (one.max() - one.min())
        return bool((one - other).abs().max() <= tolerance)  # NaN is never the same
