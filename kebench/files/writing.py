"""Writes files atomically and durably: a reader finds the old content or the new content, never a part of it.

A file is on the disk before it gets its name, so this holds after a loss of power too.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EISDIR
from functools import lru_cache
from pathlib import Path
from platform import node

from kebench.errors import BadSetting

_UMASK = os.umask(0)
os.umask(_UMASK)
_HOST = f"{zlib.crc32(node().encode()):08x}"
"""The name of this machine, shortened: several machines may write to one folder."""
_LEFTOVER = re.compile(rf"\.(?P<name>.+?)(?P<old>\.replaced)?\.{_HOST}-(?P<process>\d+)\.partial")
"""The names that `partial_of` gives on this machine; of a folder that is being replaced, with `.replaced`."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and renames that file to `path` when the block has ended.

    The temporary file lies beside `path`. Missing folders are made, and a file that exists at `path` is
    replaced. If the block raises, `path` stays as it was and the temporary file is removed.

    Raises:
        OSError: the file cannot be written, for example because the disk is full. It names `path`.
    """
    partial = partial_of(path)
    with naming(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        try:
            yield partial
            give_usual_mode(partial)
            to_disk(partial)
            partial.replace(path)
            to_disk(path.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def replacing_folder(folder: Path, marker: str) -> Iterator[Path]:
    """Gives a temporary folder to fill with files, and renames it to `folder` when the block has ended.

    The temporary folder lies beside `folder`. Missing folders above are made. If the block raises, `folder`
    stays as it was and the temporary folder is removed.

    Args:
        folder: the folder to make. If it holds the file `marker`, it is replaced.
        marker: the name of a file that every such folder holds.

    Raises:
        OSError: the folder cannot be written, or one that holds something else exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder.parent)
    fresh = partial_of(folder)
    old = partial_of(folder.with_name(f"{folder.name}.replaced"))
    try:
        fresh.mkdir()
        yield fresh
        for file in fresh.iterdir():
            give_usual_mode(file)
            to_disk(file)
        to_disk(fresh)
        if (folder / marker).is_file():  # rename() does not replace a folder that is not empty
            folder.rename(old)
        fresh.rename(folder)
        to_disk(folder.parent)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def check_replaceable(folder: Path, marker: str, kind: str) -> None:
    """Checks that `replacing_folder` may write to a folder: it is missing, empty, or one to replace.

    Args:
        folder: the folder.
        marker: the name of a file that every folder of this kind holds.
        kind: what such a folder is, with its article, for the error.

    Raises:
        BadSetting: it exists and holds something else.
    """
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not (folder / marker).is_file() and not is_empty:
        raise BadSetting(f"{folder}: exists and is not {kind}; remove it or choose another folder")


def write_all(contents: Mapping[Path, str]) -> None:
    """Writes several files so that a full disk leaves all of them as they were.

    All are on the disk before the first gets its name. Texts are in UTF-8.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, text in contents.items():
            partial = partial_of(path)
            with naming(path, partial):
                path.parent.mkdir(parents=True, exist_ok=True)
                clear_leftovers(path.parent)
                staged[path] = partial
                partial.write_bytes(text.encode())
                to_disk(partial)
                if path.is_dir():
                    raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
        for path, partial in staged.items():
            with naming(path, partial):
                partial.replace(path)
        for folder in dict.fromkeys(path.parent for path in staged):
            to_disk(folder)
    except BaseException:
        for partial in staged.values():
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise


def write_text(text: str, path: Path) -> None:
    """Writes a text to a file atomically, in UTF-8 and with the same bytes on every system."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode())


def give_usual_mode(file: Path) -> None:
    """Lets everyone read a file who may read what this user writes; safetensors lets only the owner."""
    file.chmod(0o666 & ~_UMASK)


def partial_of(path: Path) -> Path:
    """Returns the temporary path, beside `path`, that this process writes to first."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.partial")


@lru_cache(maxsize=1024)
def clear_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders of processes that were killed.

    If a process was killed while it replaced a folder, the old folder gets its name back. A folder is looked
    at once in a process.
    """
    for path in sorted(folder.iterdir()):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or _is_alive(int(found["process"])):
            continue
        with suppress(OSError):  # another process may have removed it first, or it may not be ours
            if path.is_file():
                path.unlink()
            elif found["old"] and not folder.joinpath(found["name"]).exists():
                path.rename(folder / found["name"])
            else:
                shutil.rmtree(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to someone else
        return True
    return True


def to_disk(path: Path) -> None:
    """Returns once a file, or the names in a folder, are on the disk. Some systems have no such thing."""
    if os.name == "nt":  # Windows opens no folders, and flushes no file that is open to be read alone
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def naming(path: Path, *also: Path) -> Iterator[None]:
    """Turns an error of the file system in the block into an `OSError` that names `path`.

    Python leaves the name out when a write fails. Libraries written in Rust (safetensors, tokenizers) raise
    exceptions of their own, which hold the error's number in words.

    Args:
        path: the file or folder that the block writes.
        also: temporary paths, whose names would tell a user nothing.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, *map(str, also)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number), str(path)) from None
