"""Works out once in a process what is the same for equal models: tests make the same few again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import wraps

from kebench.models.identity import identity
from kebench.models.model import AbstractModel
from kebench.models.one_pass import OnePass


def key_of(model: AbstractModel) -> Hashable:
    """Equal for models that compute the same; None for one whose way of computing a test has changed."""
    modules = list(model.network.modules())
    if any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks for module in modules
    ):
        return None
    return identity(model), model.dtype, str(model.prompt_format), tuple(map(type, modules))


def proved_once(proof: Callable[..., bool]) -> Callable[..., bool]:
    """A test of `OnePass` that is kept for equal models."""
    kept: dict[Hashable, bool] = {}

    @wraps(proof)
    def found(self: OnePass, *names: Sequence[str]) -> bool:
        key = key_of(self._model)
        if key is None:
            return proof(self, *names)
        key = (key, *map(tuple, names))
        if key not in kept:
            kept[key] = proof(self, *names)
        return kept[key]

    return found


OnePass._rows_keep_apart = proved_once(OnePass._rows_keep_apart)  # type: ignore[method-assign]
OnePass._edits_keep_apart = proved_once(OnePass._edits_keep_apart)  # type: ignore[method-assign]

_answers: dict[Hashable, list[str]] = {}


def answers(model: AbstractModel, prompts: Sequence[str]) -> list[str]:
    """What a model answers."""
    key = key_of(model)
    if key is None:
        return model.answer(prompts)
    whole = (key, *prompts)
    if whole not in _answers:
        _answers[whole] = model.answer(prompts)
    return list(_answers[whole])
