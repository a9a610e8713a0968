"""Checks the files of a model's folder before transformers reads them.

Transformers builds what `config.json` asks for before it looks at the weights: a network of a thousand
million layers is built until memory ends. So the sizes in that file are compared with the weights first.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from kebench.errors import BadFile
from kebench.packs.json_records import json_row

CONFIG, ADAPTER, INDEX = "config.json", "adapter_config.json", "model.safetensors.index.json"
_REPEATED = re.compile(r"layer|block|stack|expert")
_LONG = re.compile(r"(_size|_dim|_embd|_inner|_model|_ff|_kv)$")


def check_folder(folder: Path) -> None:
    """Checks a local model's folder.

    Raises:
        BadFile: there is no `config.json`; there is an adapter; the weights are quantised; an index of the
            weights names another file than a safetensors file in the folder; or the configuration asks for
            more than the weights can hold.
    """
    has_config = (folder / CONFIG).is_file()
    if (folder / ADAPTER).is_file():
        beside = " beside the weights" if has_config else ""
        merge = "merge the adapter into it (peft: merge_and_unload)"
        raise BadFile(folder, f"found {ADAPTER}{beside}, wanted a whole model: {merge}")
    if not has_config:
        raise BadFile(folder, f"found no {CONFIG}, wanted a folder with a transformers model")
    config = json_row(folder / CONFIG).value
    for name in ("quantization_config", "compression_config"):
        if found := config.get(name):
            method = found.get("quant_method", "one") if isinstance(found, Mapping) else found
            raise BadFile(folder / CONFIG, f"{name}: found {method}, wanted weights that are not quantised")
    files = [folder / name for name in _files(folder)]
    n_tensors, n_numbers = 0, 0
    for file in files:
        sizes = _sizes(file)
        n_tensors, n_numbers = n_tensors + len(sizes), n_numbers + sum(sizes)
    for name, size in _integers(config):
        last = name.rpartition(".")[2]
        if files and _REPEATED.search(last) and size > n_tensors and not _LONG.search(last):
            raise BadFile(folder / CONFIG, f"{name}: found {size}, and {n_tensors} weights in the files")
        if files and _LONG.search(last) and size > n_numbers:
            raise BadFile(folder / CONFIG, f"{name}: found {size}, and {n_numbers} numbers in the weights")


def _files(folder: Path) -> list[str]:
    """Returns the names of the folder's files of weights."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not (folder / INDEX).is_file():
        return []
    names = json_row(folder / INDEX).row("weight_map").value.values()
    for name in names:
        if not (isinstance(name, str) and re.fullmatch(r"[^/\\]+\.safetensors", name)):
            raise BadFile(folder / INDEX, f"found {name!r}, wanted only .safetensors files beside it")
        if not (folder / name).is_file():
            raise BadFile(folder / INDEX, f"found {name!r}, and no such file beside it")
    return list(dict.fromkeys(map(str, names)))


def _sizes(file: Path) -> list[int]:
    """Returns the number of numbers in each tensor of a file."""
    with safe_open(file, "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 - no mapping
    return [_product(shape) for shape in shapes]


def _product(shape: list[int]) -> int:
    found = 1
    for length in shape:
        found *= length
    return found


def _integers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yields the name and value of every whole number in a configuration, also of those inside it."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _integers(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{prefix}{name}", value
