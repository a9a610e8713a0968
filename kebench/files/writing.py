"""Writes files atomically: a reader finds the old content or the new content, never a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and renames that file to `path` when the block has ended.

    The temporary file lies beside `path`. Missing folders are made, and a file that exists at `path` is
    replaced. If the block raises, `path` stays as it was and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(text: str, path: Path) -> None:
    """Writes a text to a file atomically, in UTF-8 and with the same bytes on every system."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode())
