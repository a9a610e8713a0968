"""Editors with known scores, run through the whole harness, and editors that break a law.

NoEdit        (success 0 of real edits, retain 1, deterioration 0)
Oracle        (1, 1, 1, 0)
Vandal        (0, 0, 0, 1), generating families only: a classifier has no label that is always wrong;
              its equivalence is 1 where the rule is "agrees with its own new answer"
Scribbler     writes to the base model
Failing       every second edit fails
Dial          as good as its setting
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from kebench.edits.edit import Batch
from kebench.edits.editor import (
    AbstractMemoryEditor,
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.edits.versions import Route, Says
from kebench.errors import BadSetting
from kebench.models.changes import Changes, Dense
from kebench.models.layers import editable
from kebench.models.model import AbstractModel

NONSENSE = "blorp"


@dataclass(frozen=True)
class NoEdit(AbstractWeightEditor):
    """Every edited model is the base model."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        return [{} for _ in batches], carried


class Plain(AbstractWeightEditor):
    """Not an editor that can be used, because it is not a dataclass."""

    citation: ClassVar[str] = ""

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        return [{} for _ in batches], carried


def table(batch: Batch, reach: int | None = None) -> dict[str, str]:
    """The target of x and of the paraphrases, by prompt; of the first `reach` of them."""
    return {prompt: edit.target for edit in batch for prompt in (edit.prompt, *edit.paraphrases)[:reach]}


def looked_up(memory: Carried, prompts: Sequence[str]) -> list[Route]:
    """What is in the memory's table is said; the rest is for the base model to answer."""
    return [Says(memory.data[prompt]) if prompt in memory.data else None for prompt in prompts]


@dataclass(frozen=True)
class Oracle(AbstractMemoryEditor):
    """Says the target on x and on the paraphrases, which it is shown as a control; else as the base."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        return [
            Carried(data={**(memory.data or {}), **table(batch)})
            for batch, memory in zip(batches, memories, strict=True)
        ]

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        return looked_up(memory, prompts)


@dataclass(frozen=True)
class Vandal(AbstractMemoryEditor):
    """Says one nonsense word to everything."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        return list(memories)

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        return [Says(NONSENSE) for _ in prompts]


@dataclass(frozen=True)
class Scribbler(AbstractWeightEditor):
    """Breaks the first law: its edit moves one weight of the base model."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        name = editable(start.network)[0]
        with torch.no_grad():
            start.network.get_parameter(name)[0, 0] += 1e-3
        return [{} for _ in batches], carried


@dataclass(frozen=True)
class Failing(AbstractWeightEditor):
    """Every second edit is not a number."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        name = editable(start.network)[0]
        nan = torch.full_like(start.network.get_parameter(name), float("nan"))
        updates = [{name: Dense(nan)} if place % 2 else {} for place in range(len(batches))]
        return updates, carried


@dataclass(frozen=True)
class Dial(AbstractMemoryEditor, AbstractTrainedEditor):
    """Better the further its target reaches: nowhere, to x, or to the paraphrases too.

    Each `lessons` is another state; with none there is nothing to learn from.
    """

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    reach: Literal["nothing", "prompt", "all", "too far"] = "nothing"
    lessons: int = 1

    def prepared_by(self) -> AbstractTrainedEditor:
        return Dial(lessons=self.lessons)

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        if self.lessons < 1:
            raise BadSetting("too little to learn from")
        return {"lessons": torch.tensor(self.lessons)}

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        reached = {"nothing": 0, "prompt": 1, "all": None, "too far": 0}[self.reach]
        return [Carried(data=table(batch, reached)) for batch in batches]

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        if self.reach == "too far":
            return [Says(NONSENSE) for _ in prompts]
        return looked_up(memory, prompts)
