"""Writing tensors all or nothing, as safetensors. The one module of this room that imports torch."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors to one safetensors file, all or nothing; makes the folder if there is none.

    Tensors that share memory, or are views of others, are each written in full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    whole = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
    save_file(whole, partial, metadata=dict(metadata or {"format": "pt"}))
    partial.replace(path)
