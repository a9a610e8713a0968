"""Writes tensors atomically, as safetensors. The only module of this room that imports torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kebench.files.checked import SHA256, Damaged
from kebench.files.writing import replacing


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    made_of: str | None = None,
) -> None:
    """Writes tensors to one safetensors file, atomically. Missing folders are made.

    Each tensor is written in full, even if it shares memory with others or is a view.

    Args:
        tensors: name → tensor.
        path: the file.
        metadata: texts that are stored with the tensors.
        made_of: what the tensors were made from. The file then carries a checksum of this, the tensors and
            the texts, and `load_tensors` reads it.
    """
    whole = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
    texts = dict(metadata or {"format": "pt"})
    if made_of is not None:
        texts[SHA256] = _checksum(whole, texts, made_of)
    with replacing(path) as partial:
        save_file(whole, partial, metadata=texts)
        _sort_texts(partial)


def _sort_texts(path: Path) -> None:
    """Sorts the texts in a file's header: safetensors writes them in an order that is random each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(text) == length, "the tensors begin after the header"
        file.seek(8)
        file.write(text)


def load_tensors(
    path: Path, made_of: str, *, older: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads what `save_tensors` wrote with the same `made_of`: the tensors, on the CPU, and the texts.

    Args:
        path: the file.
        made_of: what the tensors were made from.
        older: True if the file may be older than checksums, and have none.

    Raises:
        Damaged: the file is not what was written, or was made from something else.
    """
    try:
        with safe_open(path, "pt") as file:
            texts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise Damaged(f"it cannot be read as safetensors ({type(error).__name__})") from None
    checksum = texts.pop(SHA256, None)
    if not (older and checksum is None) and checksum != _checksum(tensors, texts, made_of):
        raise Damaged("its checksum is not right, or it was made from something else")
    return tensors, texts


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str], made_of: str) -> str:
    digest = hashlib.sha256(json.dumps([made_of, dict(texts)], sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
