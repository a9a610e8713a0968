"""Writes tensors atomically, as safetensors. The only module of this room that imports torch."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from kebench.files.writing import replacing


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors to one safetensors file, atomically. Missing folders are made.

    Each tensor is written in full, even if it shares memory with others or is a view.

    Args:
        tensors: name → tensor.
        path: the file.
        metadata: texts that are stored with the tensors.
    """
    whole = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(whole, partial, metadata=dict(metadata or {"format": "pt"}))
