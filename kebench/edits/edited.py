"""Edited models: what an editor returns, and the only thing the harness asks questions of."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor, nn

from kebench.edits.edit import Edit
from kebench.models.changes import (
    LowRank,
    LowRankBatch,
    Update,
    dense_weights,
    is_finite,
    low_rank_applied,
    substituted,
)
from kebench.models.layers import linear_maps, map_shape
from kebench.models.model import AbstractModel, EditsInForce
from kebench.scoring.metrics import same

T = TypeVar("T")


class AbstractEdited(ABC):
    """Several edited models over one base, answering rows tagged with the edit they belong to.

    Attributes:
        failures: edit → why it failed, for the edits that did. What they answer is not asked for, and is no
            answer where they fail while they are asked.
    """

    failures: Mapping[int, str] = {}

    @abstractmethod
    def answer(
        self, prompts: Sequence[str], which: Sequence[int], guesses: Sequence[str], *, beams: int = 1
    ) -> list[str]:
        """What edited model `which[i]` says to `prompts[i]`, decoding freely.

        `guesses` are answers each may well give; they can save time and never change the result.
        """

    @abstractmethod
    def prefers(
        self, prompts: Sequence[str], which: Sequence[int], targets: Sequence[str]
    ) -> list[bool] | None:
        """Whether each target's tokens are the likeliest under teacher forcing; None if unknowable."""

    def log_odds(
        self, prompts: Sequence[str], which: Sequence[int], answers: Sequence[str]
    ) -> list[float] | None:
        """How strongly edited model `which[i]` believes `answers[i]`, in nats; None if unknowable."""
        return None


class EditedWeights(AbstractEdited):
    """The base model with one update an edit. The base weights are never written to."""

    def __init__(self, base: AbstractModel, updates: Sequence[Update]) -> None:
        self.base = base
        self.updates = updates
        self.failures: dict[int, str] = {
            edit: "weights not finite" for edit, update in enumerate(updates) if not is_finite(update)
        }
        changes = [change for update in updates for change in update.values()]
        self.low_rank = all(isinstance(change, LowRank) for change in changes)

    def answer(
        self, prompts: Sequence[str], which: Sequence[int], guesses: Sequence[str], *, beams: int = 1
    ) -> list[str]:
        """See `AbstractEdited.answer`."""
        return self._asked(
            which,
            lambda rows, under: self.base.answer(
                [prompts[row] for row in rows],
                guesses=[guesses[row] for row in rows],
                beams=beams,
                under=under,
            ),
        )

    def says(self, prompts: Sequence[str], which: Sequence[int], answers: Sequence[str]) -> list[bool]:
        """Whether `answers[i]` is what edited model `which[i]` says to `prompts[i]`; in one pass."""
        return self._asked(
            which,
            lambda rows, under: self.base.says(
                [prompts[row] for row in rows], [answers[row] for row in rows], under=under
            ),
        )

    def prefers(self, prompts: Sequence[str], which: Sequence[int], targets: Sequence[str]) -> list[bool]:
        """See `AbstractEdited.prefers`."""
        return self._asked(
            which,
            lambda rows, under: self.base.prefers(
                [prompts[row] for row in rows], [targets[row] for row in rows], under=under
            ),
        )

    def log_odds(self, prompts: Sequence[str], which: Sequence[int], answers: Sequence[str]) -> list[float]:
        """See `AbstractEdited.log_odds`."""
        return self._asked(
            which,
            lambda rows, under: self.base.log_odds(
                [prompts[row] for row in rows], [answers[row] for row in rows], under=under
            ),
        )

    def _asked(self, which: Sequence[int], ask: Callable[[list[int], EditsInForce], Sequence[T]]) -> list[T]:
        """What `ask` finds for each row, asked of a group of them at a time."""
        found: dict[int, T] = {}
        for rows, under in self._groups(which):
            found.update(
                zip(rows, ask(rows, replace(under, not_finite=self._failing(which, rows))), strict=True)
            )
        return [found[row] for row in range(len(which))]

    def _failing(self, which: Sequence[int], rows: Sequence[int]) -> Callable[[Sequence[int]], None]:
        """Marks the edits under which rows have logits that are not finite."""

        def failed(indices: Sequence[int]) -> None:
            for index in indices:
                self.failures.setdefault(which[rows[index]], "logits not finite")

        return failed

    def _groups(self, which: Sequence[int]) -> Iterator[tuple[list[int], EditsInForce]]:
        """Rows that one pass can answer together, and what puts their edits in force.

        Low-rank updates share a pass over the base weights, where the network allows it (`OnePass`); a dense
        one has its edited matrices to itself.
        """
        network = self.base.network
        if self.low_rank and self.base.one_pass.holds_edits(self._stacked):
            order = sorted(range(len(which)), key=which.__getitem__)  # rows of one edit cost least together
            yield order, low_rank_under(self.base, self._stacked, [which[index] for index in order])
            return
        for edit in dict.fromkeys(which):
            weights = dense_weights(network, self.updates[edit])
            indices = [index for index, tag in enumerate(which) if tag == edit]
            yield indices, _always(network, weights)

    @cached_property
    def _stacked(self) -> dict[str, LowRankBatch]:
        """All edits' factors by parameter; an edit that leaves a parameter alone has rank 0 there."""
        maps = linear_maps(self.base.network)
        stacked = {}
        for name in dict.fromkeys(name for update in self.updates for name in update):
            d_out, d_in = map_shape(maps[name])
            like = self.base.network.get_parameter(name)
            nothing = LowRank(like.new_zeros(d_out, 0), like.new_zeros(0, d_in))
            changes = [update.get(name, nothing) for update in self.updates]
            # An editor may reckon in another type than the model.
            stacked[name] = LowRankBatch.stack(
                [LowRank(c.B.to(like), c.A.to(like)) for c in changes if isinstance(c, LowRank)]
            )
        return stacked


def low_rank_under(
    base: AbstractModel, updates: Mapping[str, LowRankBatch], which: Sequence[int]
) -> EditsInForce:
    """Row i of a batch under update `which[indices[i]]`.

    Rows under different updates can share a pass only where `base.one_pass.holds_edits(updates)`; elsewhere,
    each pass has to be of one update, whose edited matrices then stand in place of the base model's.
    """
    network, together = base.network, base.one_pass.holds_edits(updates)

    def enter(rows: Sequence[int]) -> AbstractContextManager[None]:
        edits = [which[row] for row in rows]
        if together:
            return low_rank_applied(network, updates, edits)
        if len(set(edits)) > 1:
            raise ValueError(f"{base.name}: its edits cannot share a pass, found {len(set(edits))} in one")
        return substituted(
            network, dense_weights(network, {name: batch[edits[0]] for name, batch in updates.items()})
        )

    return EditsInForce(enter, frozenset(updates))


def reached(base: AbstractModel, updates: Sequence[Update], edits: Sequence[Edit]) -> list[bool]:
    """Whether each edited model answers its prompt with its target.

    Args:
        base: the base model. Where it has a `protocol`, answers are decoded and compared as that does for
            success; else the target's tokens must be the greedy answer.
        updates: of each edit, so far.
        edits: what they are to reach.
    """
    edited = EditedWeights(base, updates)
    if base.protocol is None:
        return edited.says(
            [edit.prompt for edit in edits], range(len(edits)), [edit.target for edit in edits]
        )
    whole = [place for place in range(len(edits)) if place not in edited.failures]
    said = edited.answer(
        [edits[place].prompt for place in whole],
        whole,
        [edits[place].target for place in whole],
        beams=base.protocol.beams,
    )
    answers = dict(zip(whole, said, strict=True))
    equality = base.protocol.success_equality
    return [same(answers.get(place), edit.target, equality) for place, edit in enumerate(edits)]


def _always(network: nn.Module, weights: Mapping[str, Tensor]) -> EditsInForce:
    return EditsInForce(lambda _rows: substituted(network, weights), frozenset(weights))
