"""A pack: the records of one or more sources, split, with a lock that says what they are.

    <folder>/train.jsonl  dev.jsonl  test.jsonl   one record a line, in the spelling of `jsonl.py`
    <folder>/pack.lock                            JSON: their origin, how they were split, their hashes

A pack is read only as its lock describes it, and written whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from pydantic import ConfigDict

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.yaml import FORBID_EXTRA, validated
from kebench.packs.json_records import json_row
from kebench.packs.jsonl import canonical, from_lines, to_lines
from kebench.packs.record import Record
from kebench.packs.split import SPLITS, crossings
from kebench.task import AnswersAre

FORMAT = 1
LOCK = "pack.lock"


@dataclass(frozen=True)
class Origin:
    """One source of a pack.

    Attributes:
        format: the importer that read it.
        path: the file's name, without its folder; or the Hub id.
        records: how many it gave, before merging.
        sha256: of the file.
        configuration: of the Hub data set.
        revision: the Hub commit.
        answers_are: what the importer was told of the answers, where the format's rows need not say.
        split: the split that its records were put in, as published; None where the pack was split by fact.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    format: str
    path: str
    records: int
    sha256: str | None = None
    configuration: str | None = None
    revision: str | None = None
    answers_are: AnswersAre | None = None
    split: str | None = None


@dataclass(frozen=True)
class FileLock:
    """What one split's file holds."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    sha256: str
    records: int
    paraphrases: int
    facts: int


@dataclass(frozen=True)
class Lock:
    """What `pack.lock` says.

    Attributes:
        format: of the pack itself; this module writes and reads `FORMAT`.
        name: of the pack.
        licence: under which its records may be used.
        origin: its sources.
        split: the fractions asked for; none where the sources keep their own splits.
        seed: of the split.
        files: by name.
        set_aside: what the sources held and the pack does not: reason → how many.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    format: int
    name: str
    licence: str
    origin: tuple[Origin, ...]
    split: Mapping[str, float]
    seed: int
    files: Mapping[str, FileLock]
    set_aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def keeps_splits(self) -> bool:
        """Whether the splits are the sources' own: then facts and wordings may cross them."""
        return any(origin.split is not None for origin in self.origin)


@dataclass(frozen=True)
class Pack:
    """A pack that agrees with its lock.

    Attributes:
        folder: where it lies.
        lock: what it is.
        splits: its records by split.
    """

    folder: Path
    lock: Lock
    splits: Mapping[str, tuple[Record, ...]]

    @property
    def name(self) -> str:
        """The pack's name."""
        return self.lock.name

    @property
    def sha256(self) -> str:
        """The identity of the contents: a hash over the hashes of the three files.

        Name, licence and origin are not in it: the same records are the same pack.
        """
        hashes = {name: each.sha256 for name, each in self.lock.files.items()}
        return sha256(canonical(hashes).encode()).hexdigest()

    def records(self, split: str) -> tuple[Record, ...]:
        """The records of `train`, `dev` or `test`, sorted by id.

        Raises:
            NotFound: there is no such split.
        """
        if split not in self.splits:
            raise NotFound("split", split, SPLITS)
        return self.splits[split]


def write_pack(
    folder: Path,
    splits: Mapping[str, Sequence[Record]],
    *,
    name: str,
    licence: str,
    origin: Sequence[Origin],
    split: Mapping[str, float],
    seed: int,
    set_aside: Mapping[str, int] | None = None,
) -> Pack:
    """Writes a pack: beside its place first, then by renaming. A pack that lies there already is replaced.

    Raises:
        BadSetting: something else lies there.
        BadFile: the folder cannot be written.
    """
    if folder.exists() and not (folder / LOCK).is_file() and not _is_empty(folder):
        raise BadSetting(f"{folder}: is there and is not a pack; remove it or choose another folder")
    records = {part: tuple(splits.get(part, ())) for part in SPLITS}
    contents = {f"{part}.jsonl": to_lines(records[part]) for part in SPLITS}
    files = {f"{part}.jsonl": _file_lock(contents[f"{part}.jsonl"], records[part]) for part in SPLITS}
    lock = Lock(FORMAT, name, licence, tuple(origin), dict(split), seed, files, dict(set_aside or {}))
    contents[LOCK] = f"{json.dumps(_without_none(asdict(lock)), ensure_ascii=False, indent=2)}\n".encode()
    try:
        _write_folder(folder, contents)
    except OSError as error:
        raise BadFile(folder, f"cannot be written ({error.__class__.__name__})") from None
    return Pack(folder, lock, records)


def read_pack(path: Path) -> Pack:
    """The pack in the folder `path`, after its files are checked against its lock.

    Raises:
        NotFound: there is no pack.
        BadFile: a file is missing, or is not what the lock says.
    """
    if not (path / LOCK).is_file():
        raise NotFound("pack", str(path))
    lock = _read_lock(path / LOCK)
    splits = {}
    for part in SPLITS:
        file, locked = path / f"{part}.jsonl", lock.files[f"{part}.jsonl"]
        if not file.is_file():
            raise BadFile(file, f"missing, wanted {locked.records} records")
        if (found := file_sha256(file)) != locked.sha256:
            raise BadFile(file, f"found sha256 {found[:12]}…, wanted {locked.sha256[:12]}… as {LOCK} says")
        splits[part] = from_lines(file)
        counted = _file_lock(b"", splits[part])
        for what in ("records", "paraphrases", "facts"):
            if (found_n := getattr(counted, what)) != (wanted := getattr(locked, what)):
                raise BadFile(file, f"found {found_n} {what}, wanted {wanted} as {LOCK} says")
    return Pack(path, lock, splits)


def verify_pack(path: Path) -> Pack:
    """The pack, after everything that can be checked is: `read_pack`, distinct ids, and sound splits.

    Where the sources keep their own splits, facts and wordings may cross them, and that is not checked.

    Raises:
        NotFound: there is no pack.
        BadFile: as `read_pack` says; or an id stands twice; or a record that is held out is not in test; or a
            fact, subject or text crosses splits.
    """
    pack = read_pack(path)
    seen: dict[str, str] = {}
    for part, records in pack.splits.items():
        for line, record in enumerate(records, start=1):
            if record.id in seen:
                problem = f"the id {record.id} stands in {seen[record.id]} too"
                raise BadFile(path / f"{part}.jsonl", problem, place=line)
            seen[record.id] = f"{part}.jsonl:{line}"
            if record.held_out and part != "test":
                problem = f"{record.id} is held out: found in {part}, wanted in test"
                raise BadFile(path / f"{part}.jsonl", problem, place=line)
    if not pack.lock.keeps_splits and (found := crossings(pack.splits)):
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise BadFile(path, f"{found[0]}{more}")
    return pack


def file_sha256(path: Path) -> str:
    """The hash of a file, as 64 hex digits."""
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_lock(path: Path) -> Lock:
    found = json_row(path).value
    if found.get("format") != FORMAT:
        raise BadFile(path, f"format: found {found.get('format')!r}, wanted {FORMAT}")
    lock = validated(Lock, found, path)
    wanted = {f"{part}.jsonl" for part in SPLITS}
    if lock.files.keys() != wanted:
        raise BadFile(path, f"files: found {sorted(lock.files)}, wanted {sorted(wanted)}")
    return lock


def _file_lock(content: bytes, records: Sequence[Record]) -> FileLock:
    return FileLock(
        sha256=sha256(content).hexdigest(),
        records=len(records),
        paraphrases=sum(len(record.paraphrases) for record in records),
        facts=len({record.fact for record in records}),
    )


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex}")
    old = folder.with_name(f"{fresh.name}.old")
    try:
        fresh.mkdir()
        for name, content in contents.items():
            (fresh / name).write_bytes(content)
        if (folder / LOCK).is_file():  # a folder that is not empty cannot be renamed over
            folder.rename(old)
        fresh.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value
