"""`kebench check-editor`: every editor of kebench passes, and each broken rule is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import doubles
import pytest
import tiny
import torch
from bad_editors import BAD

from kebench.edits.edit import Batch
from kebench.edits.editor import (
    AbstractEditor,
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
    load_editor,
)
from kebench.models.changes import Changes, LowRank
from kebench.models.layers import editable
from kebench.models.model import AbstractModel
from kebench.running.conformance import Checked, check_editor
from kebench.task import load_task

Kebench = Callable[..., tuple[int, str, str]]
LESSONS: Mapping[str, Any] = {
    "steps": 2, "validate_every": 2, "edits_per_step": 3, "retain_per_edit": 2, "validate_edits": 3,
    "lstm_size": 4, "condition_size": 8, "head_size": 4,
}  # fmt: skip
EDITORS: Mapping[str, Mapping[str, Any]] = {
    "identity": {},
    "oracle": {},
    "fine_tuning_first": {"max_steps": 3},
    "constrained_first": {"max_steps": 3},
    "preconditioned_step": {},
    "knowledge_editor": LESSONS,
    "random_update": {},
}


def failed(editor: AbstractEditor, task: str = "fever") -> dict[str, str]:
    """Check → why it failed."""
    found: list[Checked] = list(check_editor(editor, load_task(task)))
    assert {each.outcome for each in found} <= {"ok", "FAILED", "skipped"}
    return {f"{each.name} {each.on}".strip(): each.why for each in found if each.outcome == "FAILED"}


@pytest.mark.parametrize("task", ["fever", tiny.slow("zsre")])
@pytest.mark.parametrize("name", ["identity", *map(tiny.slow, [*EDITORS][1:])])
def test_every_editor_of_kebench_passes(name: str, task: str) -> None:
    settings = EDITORS[name]
    if name == "random_update":
        settings = {"reference": {**load_editor(name)[1].reference.__dict__, **LESSONS}}  # type: ignore[attr-defined]
    assert failed(load_editor(name, changes=settings)[1], task) == {}


def updates(start: AbstractModel, n: int, seed: torch.Tensor) -> list[Changes]:
    """Updates of rank 1 that are decided by a tensor of one number."""
    name = editable(start.network)[0]
    weight = start.network.get_parameter(name)
    size = seed.to(weight)
    return [
        {name: LowRank(weight.new_ones(weight.shape[0], 1) * size, weight.new_ones(1, weight.shape[1]))}
        for _ in range(n)
    ]


@dataclass(frozen=True)
class Drawing(AbstractWeightEditor):
    """Draws its updates from a global generator."""

    citation: ClassVar[str] = "a paper"

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        return updates(start, len(batches), torch.rand(())), carried


@dataclass(frozen=True)
class DrawingLearner(AbstractTrainedEditor, AbstractWeightEditor):
    """Draws what it learns from a global generator."""

    citation: ClassVar[str] = "a paper"

    def prepared_by(self) -> AbstractTrainedEditor:
        return self

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        return {"size": torch.rand(())}

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        return updates(start, len(batches), state["size"] * 1e-3), carried


@dataclass(frozen=True)
class CarryingATuple(AbstractWeightEditor):
    """Carries what JSON does not give back."""

    citation: ClassVar[str] = "a paper"

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        return [{} for _ in batches], [Carried(data=(1, 2)) for _ in batches]


@dataclass(frozen=True)
class Unsigned(doubles.NoEdit):
    """Names no paper."""

    is_control: ClassVar[bool] = False
    tolerance: float = float("nan")


def test_a_rule_that_is_broken_is_named() -> None:
    assert failed(Drawing()).keys() >= {"edits the same every time classifier"}
    learnt = failed(DrawingLearner())
    assert [*learnt] == ["learns the same every time classifier"]
    assert "use a torch.Generator" in learnt["learns the same every time classifier"]
    carrying = failed(CarryingATuple())
    assert [*carrying] == ["regime sequential classifier"]
    assert {*failed(Unsigned())} == {"says what it is", "settings can be recorded"}
    hooked = failed(BAD["forward hook"][1])
    assert "left behind a forward hook" in hooked["edits, and leaves nothing behind classifier"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [how for how, (outcome, _) in BAD.items() if outcome != "harmless"])
def test_an_editor_that_a_run_would_stop_does_not_pass(how: str) -> None:
    if "slow" in how:
        pytest.skip("it takes time, which is for the run to limit")
    assert failed(BAD[how][1])


def test_the_command(kebench: Kebench) -> None:
    status, out, _ = kebench("check-editor", "identity", "--task", "fever")
    assert status == 0
    assert out.splitlines()[0] == "ok - says what it is"
    assert "skipped - learns the same every time (classifier): it learns nothing" in out.splitlines()
    status, out, err = kebench("check-editor", "bad_editors:Misbehaving", "--task", "fever")
    assert status == 1
    assert "FAILED - edits, and leaves nothing behind (classifier): RuntimeError: a bug" in out.splitlines()
    assert "Traceback" not in out + err
    assert kebench("check-editor", "identity", "--model", "x")[0] == 2
