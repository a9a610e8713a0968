"""Editors that misbehave, one for each way: by name, what they do, and what is to come of it.

`broken`   the editor is stopped with one line
`failed`   every edit is a failed edit
`harmless` it is undone with a warning, and the scores are those of an editor that does nothing
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import AbstractMemoryEditor, AbstractWeightEditor, Carried, State
from kebench.edits.versions import Route, Says, UnderUpdate, WithContext
from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.layers import editable
from kebench.models.model import AbstractModel

Outcome = Literal["broken", "failed", "harmless"]
KEPT: list[Any] = []
"""What an editor keeps alive after its call."""


@dataclass
class Call:
    """What a call of `update` can reach."""

    model: AbstractModel
    edits: list[Edit]
    carried: Sequence[Carried]

    @property
    def network(self) -> Any:
        return self.model.network

    @property
    def name(self) -> str:
        return editable(self.network)[0]

    @property
    def weight(self) -> nn.Parameter:
        return self.network.get_parameter(self.name)

    @property
    def layer(self) -> nn.Module:
        return self.network.get_submodule(self.name.rpartition(".")[0])


def raises(error: BaseException) -> Callable[[Call], None]:
    def misdeed(_: Call) -> None:
        raise error

    return misdeed


def half(*_: Any) -> Any:
    """A hook or a method that spoils what it is given."""
    output = _[-1]
    return output * 0.5 if isinstance(output, torch.Tensor) else None


def patched_forward(call: Call) -> None:
    plain = call.layer.forward
    call.layer.forward = lambda x: plain(x) * 0.5  # type: ignore[method-assign]


def patched_class(call: Call) -> None:
    plain = nn.Linear.forward
    nn.Linear.forward = lambda self, x: plain(self, x) * 0.5  # type: ignore[method-assign]


def replaced_module(call: Call) -> None:
    path, _, leaf = call.name.rpartition(".")[0].rpartition(".")
    setattr(call.network.get_submodule(path), leaf, nn.Linear(call.weight.shape[1], call.weight.shape[0]))


def replaced_parameter(call: Call) -> None:
    call.layer.weight = nn.Parameter(call.weight * 0.5)


def written(call: Call) -> None:
    with torch.no_grad():
        call.weight[0, 0] += 0.5


def written_secretly(call: Call) -> None:
    call.weight.data[0, 0] += 0.5


def written_then_raised(call: Call) -> None:
    written(call)
    raise RuntimeError("after the write")


def resized(call: Call) -> None:
    call.weight.data = call.weight.data * 0.5


def autocast(_: Call) -> None:
    KEPT.append(torch.autocast("cpu", dtype=torch.bfloat16))
    KEPT[-1].__enter__()


def hidden_gradient_hook(call: Call) -> None:
    call.weight.requires_grad_(True)
    call.weight.register_hook(lambda gradient: gradient * 0)
    call.weight.requires_grad_(False)


def changed_edit(call: Call) -> None:
    for edit in call.edits:
        object.__setattr__(edit, "target", edit.prediction)


def changed_carried(call: Call) -> None:
    for each in call.carried:
        object.__setattr__(each, "data", {"seen": [edit.id for edit in call.edits]})


def elsewhere(_: Call) -> None:
    os.chdir(tempfile.gettempdir())


def global_hook(_: Call) -> None:
    nn.modules.module.register_module_forward_hook(half)


def no_gradients(_: Call) -> None:
    KEPT.append(torch.no_grad())
    KEPT[-1].__enter__()


def with_gradients(call: Call) -> None:
    call.weight.requires_grad_(True)
    call.weight.sum().backward()


def left_from_a_failure(call: Call) -> None:
    call.layer.register_forward_hook(half)
    torch.set_num_threads(3)
    raise ValueError("in the middle")


def no_message(_: Call) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    raise Mute


MISDEEDS: dict[str, tuple[Outcome, Callable[[Call], Any]]] = {
    # What stays behind
    "forward hook": ("broken", lambda call: call.layer.register_forward_hook(half)),
    "forward pre-hook": ("broken", lambda call: call.layer.register_forward_pre_hook(lambda *_: None)),
    "backward hook": ("broken", lambda call: call.layer.register_full_backward_hook(lambda *_: None)),
    "gradient hook": ("broken", hidden_gradient_hook),
    "hook of all modules": ("broken", global_hook),
    "patched forward": ("broken", patched_forward),
    "patched class": ("broken", patched_class),
    "patched answer": ("broken", lambda call: setattr(call.model, "answer", lambda *_, **__: ["x"])),
    "patched class of the model": (
        "broken", lambda call: setattr(type(call.model), "decode", lambda *_, **__: [["x"]]),
    ),
    "module replaced": ("broken", replaced_module),
    "parameter replaced": ("broken", replaced_parameter),
    "weights written": ("broken", written),
    "weights written secretly": ("broken", written_secretly),
    "weights written, then an error": ("broken", written_then_raised),
    "weights moved": ("broken", resized),
    "training mode": ("broken", lambda call: call.network.train()),
    "autocast": ("broken", autocast),
    "default dtype": ("broken", lambda _: torch.set_default_dtype(torch.float64)),
    "threads": ("broken", lambda _: torch.set_num_threads(torch.get_num_threads() + 1)),
    "deterministic": ("broken", lambda _: torch.use_deterministic_algorithms(True, warn_only=True)),
    "precision of products": ("broken", lambda _: torch.set_float32_matmul_precision("medium")),
    "generation config": ("broken", lambda call: setattr(call.network.generation_config, "num_beams", 7)),
    "config": ("broken", lambda call: setattr(call.network.config, "use_cache", False)),
    "padding side": ("broken", lambda call: setattr(call.model.tokenizer, "padding_side", "left")),
    "prompt format": ("broken", lambda call: setattr(call.model, "prompt_format", None)),
    "edits changed": ("broken", changed_edit),
    "gradients off": ("harmless", no_gradients),
    "gradients of parameters": ("harmless", with_gradients),
    "working directory": ("harmless", elsewhere),
    "torch's generator": ("harmless", lambda _: KEPT.append(torch.rand(3))),
    "torch's seed": ("harmless", lambda _: torch.manual_seed(7)),
    "Python's seed": ("harmless", lambda _: random.seed(7)),
    "NumPy's seed": ("harmless", lambda _: np.random.seed(7)),
    "carried changed": ("harmless", changed_carried),
    # Errors
    "an error": ("failed", raises(RuntimeError("a bug"))),
    "an error with many lines": ("failed", raises(ValueError("one\n\x1b[31mtwo\nthree"))),
    "an error without a message": ("failed", no_message),
    "an assertion": ("failed", raises(AssertionError())),
    "StopIteration": ("failed", raises(StopIteration())),
    "GeneratorExit": ("failed", raises(GeneratorExit())),
    "RecursionError": ("failed", raises(RecursionError("too deep"))),
    "OSError": ("failed", raises(OSError(28, "No space left on device"))),
    "sys.exit": ("failed", lambda _: sys.exit(0)),
    "out of memory": ("failed", raises(MemoryError())),
    "an error that leaves a hook": ("failed", left_from_a_failure),
    "too slow": ("failed", lambda _: time.sleep(20)),
}  # fmt: skip

Returned = Callable[[Call, int], Any]


def each(change: Callable[[Call], Any]) -> Returned:
    """What `update` returns: the same kind of change for each batch."""
    return lambda call, n: ([change(call) for _ in range(n)], call.carried)


def a_generator(call: Call, n: int) -> Iterator[Changes]:
    yield from [{} for _ in range(n)]


RETURNED: dict[str, tuple[Outcome, Returned]] = {
    "None": ("broken", lambda _call, _n: None),
    "a generator function": ("broken", a_generator),
    "a generator of updates": ("harmless", lambda call, n: (a_generator(call, n), call.carried)),
    "updates alone": ("broken", lambda _call, n: [{} for _ in range(n + 3)]),
    "too many": ("broken", lambda call, n: ([{}] * (n + 1), call.carried)),
    "too few": ("broken", lambda call, n: ([{}] * (n - 1), call.carried)),
    "nothing carried": ("broken", lambda _call, n: ([{}] * n, [None] * n)),
    "no mapping": ("failed", each(lambda _: [1, 2])),
    "None for an update": ("failed", each(lambda _: None)),
    "wrong name": ("failed", each(lambda call: {"no.such.weight": Dense(call.weight * 0)})),
    "a number for a name": ("failed", each(lambda call: {7: Dense(call.weight * 0)})),
    "a bare tensor": ("failed", each(lambda call: {call.name: call.weight * 0})),
    "wrong shape": ("failed", each(lambda call: {call.name: Dense(torch.zeros(3, 3))})),
    "a shape to broadcast": ("failed", each(lambda call: {call.name: Dense(torch.zeros(1))})),
    "a list": ("failed", each(lambda call: {call.name: Dense([[0.0]])})),  # type: ignore[arg-type]
    "whole numbers": ("failed", each(lambda call: {call.name: Dense(torch.zeros_like(call.weight).long())})),
    "sparse": ("failed", each(lambda call: {call.name: Dense(torch.zeros_like(call.weight).to_sparse())})),
    "another device": (
        "failed", each(lambda call: {call.name: Dense(torch.zeros_like(call.weight, device="meta"))}),
    ),
    "wrong factors": (
        "failed", each(lambda call: {call.name: LowRank(torch.zeros(3, 1), torch.zeros(1, 3))}),
    ),
    "not finite": ("failed", each(lambda call: {call.name: Dense(call.weight.detach() * float("nan"))})),
    "asks for gradients": (
        "harmless", each(lambda call: {call.name: Dense(torch.zeros_like(call.weight, requires_grad=True))}),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Misbehaving(AbstractWeightEditor):
    """Does one of `MISDEEDS`, and then returns no change."""

    citation: ClassVar[str] = ""
    how: str = "an error"

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        MISDEEDS[self.how][1](Call(start, [edit for batch in batches for edit in batch], carried))
        return [{} for _ in batches], carried


@dataclass(frozen=True)
class Returning(AbstractWeightEditor):
    """Returns one of `RETURNED`."""

    citation: ClassVar[str] = ""
    how: str

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> Any:
        edits = [edit for batch in batches for edit in batch]
        return RETURNED[self.how][1](Call(start, edits, carried), len(batches))


def hooked(base: AbstractModel, prompts: Sequence[str]) -> list[Route]:
    next(base.network.children()).register_forward_pre_hook(lambda *_: None)
    return [None for _ in prompts]


def gives_up(base: AbstractModel, prompts: Sequence[str]) -> list[Route]:
    raise KeyError("not remembered")


ROUTES: dict[str, tuple[Outcome, Callable[[AbstractModel, Sequence[str]], Any]]] = {
    "route leaves a hook": ("broken", hooked),
    "route raises": ("failed", gives_up),
    "route exits": ("failed", lambda _base, _prompts: sys.exit(3)),
    "route is slow": ("failed", lambda _base, _prompts: time.sleep(20)),
    "route returns None": ("broken", lambda _base, _prompts: None),
    "route returns too few": ("broken", lambda _base, _prompts: []),
    "route returns texts": ("failed", lambda _base, prompts: list(prompts)),
    "route says a number": ("failed", lambda _base, prompts: [Says(3)] * len(prompts)),
    "route says too much": ("failed", lambda _base, prompts: [WithContext("word " * 4000)] * len(prompts)),
    "route with a wrong update": (
        "failed", lambda _base, prompts: [UnderUpdate({"no": Dense(torch.zeros(1))})] * len(prompts),
    ),
    "route is a generator": ("harmless", lambda _base, prompts: (None for _ in prompts)),
}  # fmt: skip


@dataclass(frozen=True)
class Routing(AbstractMemoryEditor):
    """Answers by one of `ROUTES`."""

    citation: ClassVar[str] = ""
    how: str

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        return [Carried(data=[edit.id for edit in batch]) for batch in batches]

    def route(self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]) -> Any:
        return ROUTES[self.how][1](base, prompts)


BAD: dict[str, tuple[Outcome, AbstractWeightEditor | AbstractMemoryEditor]] = {
    **{how: (outcome, Misbehaving(how)) for how, (outcome, _) in MISDEEDS.items()},
    **{f"returns {how}": (outcome, Returning(how)) for how, (outcome, _) in RETURNED.items()},
    **{how: (outcome, Routing(how)) for how, (outcome, _) in ROUTES.items()},
}
"""Name → what is to come of it, and the editor."""
