"""Computes a hash of everything that a base model's answers depend on."""

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from kebench.models.model import AbstractModel

NOT_PART_OF_IT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
"""Fields of a configuration that do not change a model's answers, such as the folder it was loaded from."""


def identity(model: AbstractModel, weights: str | None = None) -> str:
    """Returns a SHA-256 over weights, tokenizer, configuration, and the first and last tokens of decoding.

    The weights alone do not determine the answers. For example, the BART configurations on the Hub were
    changed to force a first token. A model in bfloat16 has other weights than in float32; in TF32 it has the
    same weights, so TF32 is added to the hash.

    Args:
        model: the base model.
        weights: the fingerprint of its network, if it is known already.
    """
    config = model.network.config.to_diff_dict()
    generation = getattr(model.network, "generation_config", None)  # a classifier has none
    parts = [
        weights or fingerprint(model.network),
        model.family,
        _tokenizer(model),
        {name: value for name, value in config.items() if name not in NOT_PART_OF_IT},
        {} if generation is None else _tokens(generation.to_diff_dict()),
        *(["tf32"] if model.tf32 else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _tokenizer(model: AbstractModel) -> object:
    tokenizer = model.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two are set at every call, so they hold the settings of the last call.
        return {name: part for name, part in state.items() if name not in ("truncation", "padding")}
    return sorted(tokenizer.get_vocab().items())


def _tokens(generation: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in generation.items() if name.endswith("token_id")}


def fingerprint(network: nn.Module) -> str:
    """Returns a SHA-256 over the names and bits of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**dict(network.named_parameters()), **dict(network.named_buffers())}.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
