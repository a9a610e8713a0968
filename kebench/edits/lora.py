"""Writes an update as a LoRA adapter: a folder in peft's format, which is loaded with the base model.

An adapter adds (alpha / r) B A to the matrix of each linear layer that it names. Here alpha = r for every
layer, so B and A are the update's own. The format is plain JSON and safetensors; peft itself is not needed.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kebench.edits.factors import fewer_factors
from kebench.errors import BadSetting
from kebench.files.json import write_json
from kebench.files.tensors import save_tensors
from kebench.models.changes import Dense, LowRank
from kebench.models.layers import as_stored, linear_maps

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_adapter(
    changes: Mapping[str, Dense | LowRank], folder: Path, network: nn.Module, base_name: str, rank: int | None
) -> dict[str, float]:
    """Writes an adapter and returns each parameter's relative residual; see `Update.to_lora`.

    No adapter changes a layer whose weight the network reads without calling the layer, as
    `nn.MultiheadAttention` does. This is not checked here.
    """
    if rank is not None and rank < 1:
        raise BadSetting(f"rank: found {rank}, wanted 1 or more")
    maps, tied = linear_maps(network), tied_names(network)
    factors: dict[str, LowRank] = {}
    residuals: dict[str, float] = {}
    for name, change in changes.items():
        if others := tied.get(name):
            raise BadSetting(
                f"{name}: found a weight that is tied to {', '.join(others)}, which an adapter does not "
                "change; untie the two, or store the update with Update.save"
            )
        if name not in maps:
            raise BadSetting(
                f"{name}: found a parameter that is not the matrix of a linear layer, which no adapter "
                "changes; store the update with Update.save"
            )
        made, residuals[name] = _factors(name, change, maps[name], rank)
        if len(made.A):
            factors[name.removesuffix(".weight")] = made
    if not factors:
        raise BadSetting("the update changes no weight, so there is no adapter to write")

    (folder / CONFIG).unlink(missing_ok=True)  # a reader never finds an old configuration beside new weights
    tensors: dict[str, Tensor] = {}
    for layer, made in factors.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = made.A
        tensors[f"base_model.model.{layer}.lora_B.weight"] = made.B
    save_tensors(tensors, folder / WEIGHTS)
    ranks = {layer: len(made.A) for layer, made in factors.items()}
    write_json(_config(ranks, network, base_name), folder / CONFIG)
    return residuals


def tied_names(network: nn.Module) -> dict[str, list[str]]:
    """Returns the name of each parameter that has several names → its other names."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name: [other for other in together if other != name]
        for together in names.values()
        if len(together) > 1
        for name in together
    }


def _factors(
    name: str, change: Dense | LowRank, module: nn.Module, rank: int | None
) -> tuple[LowRank, float]:
    """Returns the factors of one layer's change, and their relative residual."""
    if isinstance(change, LowRank):
        change = change.without_zeros()
        if rank is None or len(change.A) <= rank:
            return change, 0.0
        smaller, residual = fewer_factors(change, rank)
    elif rank is None:
        raise BadSetting(
            f"{name}: found a dense change, which an adapter holds only approximately; give the rank of the "
            "approximation, or store the update with Update.save"
        )
    else:
        # A Conv1D stores (d_in, d_out), so its change is transposed.
        smaller, residual = fewer_factors(as_stored(module, change.delta), rank)
    logger.info("%s: approximated by rank %d, relative residual %.1e", name, len(smaller.A), residual)
    return smaller, residual


def _config(ranks: Mapping[str, int], network: nn.Module, base_name: str) -> dict[str, object]:
    """Returns the contents of `adapter_config.json`.

    `r` is the largest rank, because servers reserve memory for it. The patterns hold the other ranks.
    """
    largest = max(ranks.values())
    # peft reads these keys as regular expressions that may begin after any dot.
    pattern = {f"^{re.escape(layer)}": rank for layer, rank in ranks.items() if rank != largest}
    modules = dict(network.named_modules())
    # A target also matches every layer whose name ends with a dot and the target. Those layers are excluded.
    meant_otherwise = [
        name for name in modules if name not in ranks and any(name.endswith(f".{layer}") for layer in ranks)
    ]
    return {
        "peft_type": "LORA",
        "task_type": None,  # peft then reads it for a plain network, and keeps the network's head
        "auto_mapping": {
            "base_model_class": type(network).__name__,
            "parent_library": type(network).__module__,
        },
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ranks),
        # peft reads a string as a regular expression that must match the whole name.
        "exclude_modules": "|".join(map(re.escape, meant_otherwise)) or None,
        # True if layers store (d_in, d_out). The factors have the shapes (d_out, r) and (r, d_in) anyway.
        "fan_in_fan_out": all(isinstance(modules[layer], Conv1D) for layer in ranks),
    }
