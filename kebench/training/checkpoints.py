"""Saves and loads the state of a training: weights, optimiser state and counters, in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from kebench.files.tensors import save_tensors


def save_checkpoint(path: Path, module: nn.Module, optimizer: Optimizer, counters: Mapping[str, Any]) -> None:
    """Writes the whole state of a training to one file, atomically."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(tensors, path, {"counters": json.dumps(counters)})


def load_checkpoint(path: Path, module: nn.Module, optimizer: Optimizer) -> dict[str, Any] | None:
    """Loads a saved state into a module and its optimiser.

    Returns:
        The saved counters, or None if the file does not exist; then nothing is changed.
    """
    if not path.is_file():
        return None
    tensors = load_file(path)
    module.load_state_dict(_below(tensors, "module."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        index, _, leaf = name.partition(".")
        state.setdefault(int(index), {})[leaf] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        counters: dict[str, Any] = json.loads(file.metadata()["counters"])
    return counters


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
