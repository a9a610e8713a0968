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

from kebench.edits.edit import Edit
from kebench.edits.edited import AbstractEdited, EditedWeights
from kebench.edits.editor import (
    AbstractEditor,
    AbstractTrainedEditor,
    AbstractWeightEditor,
    State,
    TrainingSet,
    Workspace,
)
from kebench.errors import BadSetting
from kebench.models.changes import Dense, Update
from kebench.models.layers import editable
from kebench.models.model import AbstractModel

NONSENSE = "blorp"


@dataclass(frozen=True)
class NoEdit(AbstractEditor):
    """Every edited model is the base model."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def edit(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> AbstractEdited:
        return EditedWeights(base, [{} for _ in edits])


@dataclass(frozen=True)
class Oracle(AbstractEditor):
    """Says the target on x and on the paraphrases, which it is shown as a control; else as the base."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def edit(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> AbstractEdited:
        return _Table(base, [dict.fromkeys((e.prompt, *e.paraphrases), e.target) for e in edits])


@dataclass(frozen=True)
class Vandal(AbstractEditor):
    """Says one nonsense word to everything."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def edit(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> AbstractEdited:
        return _Constant(NONSENSE)


@dataclass(frozen=True)
class Scribbler(AbstractWeightEditor):
    """Breaks the first law: its edit moves one weight of the base model."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> list[Update]:
        name = editable(base.network)[0]
        with torch.no_grad():
            base.network.get_parameter(name)[0, 0] += 1e-3
        return [{} for _ in edits]


@dataclass(frozen=True)
class Failing(AbstractWeightEditor):
    """Every second edit is not a number."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> list[Update]:
        name = editable(base.network)[0]
        nan = torch.full_like(base.network.get_parameter(name), float("nan"))
        return [{name: Dense(nan)} if index % 2 else {} for index in range(len(edits))]


@dataclass(frozen=True)
class Dial(AbstractTrainedEditor):
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

    def edit(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> AbstractEdited:
        if self.reach == "too far":
            return _Constant(NONSENSE)
        reached = {"nothing": 0, "prompt": 1, "all": None}[self.reach]
        return _Table(base, [dict.fromkeys((e.prompt, *e.paraphrases)[:reached], e.target) for e in edits])


class _Table(AbstractEdited):
    def __init__(self, base: AbstractModel, tables: Sequence[dict[str, str]]) -> None:
        self.base = base
        self.tables = tables

    def answer(
        self, prompts: Sequence[str], which: Sequence[int], guesses: Sequence[str], *, beams: int = 1
    ) -> list[str]:
        plain = self.base.answer(prompts, beams=beams)
        rows = zip(prompts, which, plain, strict=True)
        return [self.tables[edit].get(prompt, said) for prompt, edit, said in rows]

    def prefers(self, prompts: Sequence[str], which: Sequence[int], targets: Sequence[str]) -> None:
        """A table has no token probabilities."""


class _Constant(AbstractEdited):
    def __init__(self, word: str) -> None:
        self.word = word

    def answer(
        self, prompts: Sequence[str], which: Sequence[int], guesses: Sequence[str], *, beams: int = 1
    ) -> list[str]:
        return [self.word] * len(prompts)

    def prefers(self, prompts: Sequence[str], which: Sequence[int], targets: Sequence[str]) -> list[bool]:
        return [target == self.word for target in targets]
