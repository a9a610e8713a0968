"""What a base model is: a hash of everything its answers depend on."""

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from kebench.models.model import AbstractModel

NOT_PART_OF_IT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
"""Fields of a configuration that say where a model came from, not what it answers."""


def identity(model: AbstractModel, weights: str | None = None) -> str:
    """SHA-256 over weights, tokenizer, configuration, and what decoding starts and ends with.

    The weights alone are not enough: the Hub's BART configurations, for one, came to force a first token.
    `weights` is the fingerprint of its network, where that is known already.
    In bfloat16 the weights are others than in float32; in TF32 they are the same, so there is a mark.
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
        # Set by whoever tokenised last, and set again at every call.
        return {name: part for name, part in state.items() if name not in ("truncation", "padding")}
    return sorted(tokenizer.get_vocab().items())


def _tokens(generation: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in generation.items() if name.endswith("token_id")}


def fingerprint(network: nn.Module) -> str:
    """SHA-256 over every parameter and buffer, names and bits: the same only if nothing changed."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**dict(network.named_parameters()), **dict(network.named_buffers())}.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
