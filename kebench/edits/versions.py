"""Defines versions of a model, which editors return as values, and asks many of them together.

A version is the model that an edit starts from, with `Changes` of its weights in force. An editor that
changes no weights returns a `Routed` instead, which decides for each prompt how the model answers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor, nn

from kebench.edits.edit import Batch
from kebench.models.changes import (
    Changes,
    LowRank,
    LowRankBatch,
    dense_weights,
    is_finite,
    low_rank_applied,
    substituted,
)
from kebench.models.layers import linear_maps, map_shape
from kebench.models.model import AbstractModel, EditsInForce, Prefixed
from kebench.scoring.metrics import same

T = TypeVar("T")


@dataclass(frozen=True)
class Says:
    """A route: this text is the answer, and the model is not asked."""

    text: str


@dataclass(frozen=True)
class WithContext:
    """A route: the model is asked with this text before the prompt, which is not truncated to make room."""

    text: str


@dataclass(frozen=True)
class UnderUpdate:
    """A route: the model is asked with this update in force."""

    update: Changes


Route = Says | WithContext | UnderUpdate | None
"""How an editor that changes no weights answers one prompt. None: the model answers it as it is."""


@dataclass(frozen=True)
class Routed:
    """A version that has the model's own weights.

    Attributes:
        route: a pure function: prompts → the route of each prompt.
    """

    route: Callable[[Sequence[str]], Sequence[Route]]


Version = Changes | Routed
"""What an editor returns for a batch: changes of the model that it starts from, or a `Routed`."""


class Versions:
    """Several versions of one model. Each prompt that they are asked names its version.

    The model's weights are never written to. Prompts of many versions share forward passes if possible.

    Attributes:
        failures: place of a version → why it failed, which is that its weights or logits are not finite. Do
            not ask a version that failed. If it fails while it is asked, do not use its answers.
    """

    def __init__(self, model: AbstractModel, versions: Sequence[Version]) -> None:
        self.model = model
        self.versions = versions
        self.updates = [{} if isinstance(version, Routed) else version for version in versions]
        self.failures: dict[int, str] = {
            place: "weights not finite" for place, update in enumerate(self.updates) if not is_finite(update)
        }
        changes = [change for update in self.updates for change in update.values()]
        self._low_rank = all(isinstance(change, LowRank) for change in changes)

    def answer(
        self, prompts: Sequence[str], which: Sequence[int], guesses: Sequence[str], *, beams: int = 1
    ) -> list[str]:
        """Returns the answer of version `which[i]` to `prompts[i]`, by free decoding.

        `guesses` are answers that are likely. They can save time, and never change the result.
        """

        def ask(rows: Sequence[int], asked: Sequence[str | Prefixed], under: EditsInForce) -> Sequence[str]:
            hoped_for = [guesses[row] for row in rows]
            return self.model.answer(asked, guesses=hoped_for, beams=beams, under=under)

        return self._asked(prompts, which, ask, lambda _row, route: route.text)

    def says(self, prompts: Sequence[str], which: Sequence[int], answers: Sequence[str]) -> list[bool]:
        """Returns whether `answers[i]` is the answer of version `which[i]` to `prompts[i]`, in one pass."""

        def ask(rows: Sequence[int], asked: Sequence[str | Prefixed], under: EditsInForce) -> Sequence[bool]:
            return self.model.says(asked, [answers[row] for row in rows], under=under)

        return self._asked(prompts, which, ask, lambda row, route: route.text == answers[row])

    def prefers(
        self, prompts: Sequence[str], which: Sequence[int], targets: Sequence[str]
    ) -> list[bool | None]:
        """Returns whether each token of each target is the most likely one under teacher forcing.

        It is None if the route is `Says`, because there are no probabilities then.
        """

        def ask(
            rows: Sequence[int], asked: Sequence[str | Prefixed], under: EditsInForce
        ) -> Sequence[bool | None]:
            return self.model.prefers(asked, [targets[row] for row in rows], under=under)

        return self._asked(prompts, which, ask, lambda _row, _route: None)

    def log_odds(
        self, prompts: Sequence[str], which: Sequence[int], answers: Sequence[str]
    ) -> list[float | None]:
        """Returns the log-odds of `answers[i]` under version `which[i]`, in nats; None for `Says`."""

        def ask(
            rows: Sequence[int], asked: Sequence[str | Prefixed], under: EditsInForce
        ) -> Sequence[float | None]:
            return self.model.log_odds(asked, [answers[row] for row in rows], under=under)

        return self._asked(prompts, which, ask, lambda _row, _route: None)

    # How they are asked ----------------------------------------------------------------------------------

    def _asked(
        self,
        prompts: Sequence[str],
        which: Sequence[int],
        ask: Callable[[Sequence[int], Sequence[str | Prefixed], EditsInForce], Sequence[T]],
        looked_up: Callable[[int, Says], T],
    ) -> list[T]:
        """Returns what `ask` returns for each row. It is called for groups of rows."""
        routes = self._routes(prompts, which)
        found: dict[int, T] = {}
        asked: list[str | Prefixed] = list(prompts)
        for row, route in routes.items():
            if isinstance(route, Says):
                found[row] = looked_up(row, route)
            elif isinstance(route, WithContext):
                asked[row] = Prefixed(route.text, prompts[row])
        others = {row: route.update for row, route in routes.items() if isinstance(route, UnderUpdate)}
        if others:
            found |= self._asked_under(others, asked, which, ask)
        rest = [row for row in range(len(prompts)) if row not in found]
        for rows, under in self._groups(rest, which):
            told = replace(under, not_finite=self._failing(which, rows))
            found.update(zip(rows, ask(rows, [asked[row] for row in rows], told), strict=True))
        return [found[row] for row in range(len(prompts))]

    def _routes(self, prompts: Sequence[str], which: Sequence[int]) -> dict[int, Route]:
        """Returns row → its route, for the rows whose version is a `Routed`."""
        rows_of: dict[int, list[int]] = {}
        for row, place in enumerate(which):
            if isinstance(self.versions[place], Routed):
                rows_of.setdefault(place, []).append(row)
        routes: dict[int, Route] = {}
        for place, rows in rows_of.items():
            version = self.versions[place]
            assert isinstance(version, Routed)
            routes.update(zip(rows, version.route([prompts[row] for row in rows]), strict=True))
        return routes

    def _asked_under(
        self,
        updates: Mapping[int, Changes],
        prompts: Sequence[str | Prefixed],
        which: Sequence[int],
        ask: Callable[[Sequence[int], Sequence[str | Prefixed], EditsInForce], Sequence[T]],
    ) -> dict[int, T]:
        """Returns row → what `ask` returns, for the rows whose route is an `UnderUpdate`."""
        distinct = list({id(update): update for update in updates.values()}.values())
        place_of = {id(update): place for place, update in enumerate(distinct)}
        places = [place_of[id(updates[row])] if row in updates else 0 for row in range(len(prompts))]
        found: dict[int, T] = {}
        for rows, under in Versions(self.model, distinct)._groups(list(updates), places):
            told = replace(under, not_finite=self._failing(which, rows))
            found.update(zip(rows, ask(rows, [prompts[row] for row in rows], told), strict=True))
        return found

    def _failing(self, which: Sequence[int], rows: Sequence[int]) -> Callable[[Sequence[int]], None]:
        """Returns a function that marks versions as failed: some of their logits are not finite."""

        def failed(indices: Sequence[int]) -> None:
            for index in indices:
                self.failures.setdefault(which[rows[index]], "logits not finite")

        return failed

    def _groups(self, rows: Sequence[int], which: Sequence[int]) -> Iterator[tuple[list[int], EditsInForce]]:
        """Yields rows that can be asked together, and what puts their updates in force.

        Low-rank updates share forward passes if the network allows it (`OnePass`). Each dense update has
        passes of its own.
        """
        if not rows:
            return
        network = self.model.network
        if self._low_rank and self.model.one_pass.holds_edits(self._stacked):
            order = sorted(rows, key=which.__getitem__)  # rows of one version are fastest together
            yield order, low_rank_under(self.model, self._stacked, [which[row] for row in order])
            return
        for place in dict.fromkeys(which[row] for row in rows):
            weights = dense_weights(network, self.updates[place])
            yield [row for row in rows if which[row] == place], _always(network, weights)

    @cached_property
    def _stacked(self) -> dict[str, LowRankBatch]:
        """Parameter name → the factors of all versions. A version without a change has rank 0."""
        maps = linear_maps(self.model.network)
        stacked = {}
        for name in dict.fromkeys(name for update in self.updates for name in update):
            d_out, d_in = map_shape(maps[name])
            like = self.model.network.get_parameter(name)
            nothing = LowRank(like.new_zeros(d_out, 0), like.new_zeros(0, d_in))
            changes = [update.get(name, nothing) for update in self.updates]
            # An editor may compute in another type than the model.
            stacked[name] = LowRankBatch.stack(
                [LowRank(c.B.to(like), c.A.to(like)) for c in changes if isinstance(c, LowRank)]
            )
        return stacked


def in_force(start: AbstractModel, update: Changes) -> AbstractModel:
    """Returns the model with an update in force. It can be asked and edited again, like any other model."""
    return start.with_weights(dense_weights(start.network, update)) if update else start


def low_rank_under(
    base: AbstractModel, updates: Mapping[str, LowRankBatch], which: Sequence[int]
) -> EditsInForce:
    """Returns what puts update `which[indices[i]]` in force for row i of a batch.

    Rows under different updates can share a pass only if `base.one_pass.holds_edits(updates)`. Otherwise each
    pass must be for one update, whose edited matrices replace those of the base model.
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


def reached(start: AbstractModel, updates: Sequence[Changes], batches: Sequence[Batch]) -> list[list[bool]]:
    """Returns, for each batch, whether its update makes the model answer each edit with its target.

    Args:
        start: the model that is updated. If it has a `protocol`, answers are decoded and compared as the
            protocol says for success. Otherwise the target's tokens must be the greedy answer.
        updates: the update of each batch so far.
        batches: the edits, with their targets.
    """
    edits = [edit for batch in batches for edit in batch]
    owners = [place for place, batch in enumerate(batches) for _ in batch]
    versions = Versions(start, updates)
    if start.protocol is None:
        right = versions.says([edit.prompt for edit in edits], owners, [edit.target for edit in edits])
    else:
        whole = [row for row, owner in enumerate(owners) if owner not in versions.failures]
        said = versions.answer(
            [edits[row].prompt for row in whole],
            [owners[row] for row in whole],
            [edits[row].target for row in whole],
            beams=start.protocol.beams,
        )
        answers = dict(zip(whole, said, strict=True))
        equality = start.protocol.success_equality
        right = [same(answers.get(row), edit.target, equality) for row, edit in enumerate(edits)]
    by_row = iter(right)
    return [[next(by_row) for _ in batch] for batch in batches]


def _always(network: nn.Module, weights: Mapping[str, Tensor]) -> EditsInForce:
    return EditsInForce(lambda _rows: substituted(network, weights), frozenset(weights))
