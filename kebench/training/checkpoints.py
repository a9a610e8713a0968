"""Saves and loads the state of a training: weights, optimiser state and counters, in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kebench.files.checked import read_or_none
from kebench.files.tensors import load_tensors, save_tensors


def save_checkpoint(
    path: Path, module: nn.Module, optimizer: Optimizer, counters: Mapping[str, Any], *, made_of: str
) -> None:
    """Writes the whole state of a training to one file, atomically.

    Args:
        path: the file.
        module: what is trained.
        optimizer: its optimiser.
        counters: what else is needed to go on; of JSON.
        made_of: what tells this training from any other.
    """
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(tensors, path, {"counters": json.dumps(counters)}, made_of=made_of)


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: Optimizer, *, made_of: str
) -> dict[str, Any] | None:
    """Loads a saved state into a module and its optimiser.

    Returns:
        The saved counters. None, and nothing is changed, if the file does not exist; or, after a warning, if
        it is damaged or of another training.
    """
    found = read_or_none(path, lambda: load_tensors(path, made_of))
    if found is None:
        return None
    tensors, texts = found
    module.load_state_dict(_below(tensors, "module."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        index, _, leaf = name.partition(".")
        state.setdefault(int(index), {})[leaf] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    counters: dict[str, Any] = json.loads(texts["counters"])
    return counters


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
