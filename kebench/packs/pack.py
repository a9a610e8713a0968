"""Reads and writes packs. A pack holds the records of one or more sources, split into train, dev and test.

    <folder>/train.jsonl  dev.jsonl  test.jsonl   one record on each line, in the format of `jsonl.py`
    <folder>/pack.lock                            JSON: their sources, how they were split, their hashes

A pack whose files do not agree with its lock is refused. A pack is written atomically.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.checked import file_sha256
from kebench.files.writing import check_replaceable, replacing_folder
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
        format: the name of the importer that read it.
        path: the name of the file without its folder, or the Hub id.
        records: the number of records read from it, before merging.
        sha256: the SHA-256 hash of the file.
        configuration: the configuration of the Hub data set.
        revision: the commit of the Hub data set.
        answers_are: what the importer was told about the answers, for a format whose rows do not always say.
        split: the split in which its records were published; `rows` if each row names its split; None if the
            pack was split by fact.
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
    """The hash of one split's file, and how many records, paraphrases and facts it holds."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    sha256: str
    records: int
    paraphrases: int
    facts: int


@dataclass(frozen=True)
class Lock:
    """The contents of `pack.lock`.

    Attributes:
        format: the version of the pack format; this module reads and writes `FORMAT`.
        name: the name of the pack.
        licence: the licence of its records.
        origin: its sources.
        split: the requested fraction of each split; empty if the sources keep their own splits.
        seed: the seed of the split.
        files: the name of each file → its hash and counts.
        set_aside: what was left out of the pack: the reason → how often it applied.
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
        """True if the splits are those of the sources. A fact or text may then be in several splits."""
        return any(origin.split is not None for origin in self.origin)


@dataclass(frozen=True)
class Pack:
    """A pack whose files agree with its lock.

    Attributes:
        folder: the folder of the pack.
        lock: the contents of its lock.
        splits: the name of each split → its records.
    """

    folder: Path
    lock: Lock
    splits: Mapping[str, tuple[Record, ...]]

    @property
    def name(self) -> str:
        """The name of the pack."""
        return self.lock.name

    @property
    def sha256(self) -> str:
        """A hash that identifies the records: the SHA-256 of the hashes of the three files.

        It does not depend on the name, licence or sources: packs with the same records have the same hash.
        """
        hashes = {name: each.sha256 for name, each in self.lock.files.items()}
        return sha256(canonical(hashes).encode()).hexdigest()

    def records(self, split: str) -> tuple[Record, ...]:
        """Returns the records of `train`, `dev` or `test`, sorted by id.

        Raises:
            NotFound: the split does not exist.
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
    """Writes a pack atomically: to a temporary folder, which is then renamed. An existing pack is replaced.

    Raises:
        BadSetting: the folder exists and holds something else; or a text is not valid Unicode.
        BadFile: the folder cannot be written.
    """
    check_replaceable(folder, LOCK, "a pack")
    records = {part: tuple(splits.get(part, ())) for part in SPLITS}
    contents = {f"{part}.jsonl": to_lines(records[part]) for part in SPLITS}
    files = {f"{part}.jsonl": _file_lock(contents[f"{part}.jsonl"], records[part]) for part in SPLITS}
    lock = Lock(FORMAT, name, licence, tuple(origin), dict(split), seed, files, dict(set_aside or {}))
    text = json.dumps(_without_none(asdict(lock)), ensure_ascii=False, indent=2)
    try:
        contents[LOCK] = f"{text}\n".encode()
    except UnicodeEncodeError:  # the arguments of a command may be any bytes
        raise BadSetting(f"pack {name!a}: its name, licence or sources are not Unicode") from None
    try:
        with replacing_folder(folder, LOCK) as fresh:
            for file, content in contents.items():
                (fresh / file).write_bytes(content)
    except OSError as error:
        raise BadFile(folder, f"cannot be written ({error.strerror or type(error).__name__})") from None
    return Pack(folder, lock, records)


def read_pack(path: Path) -> Pack:
    """Returns the pack in the folder `path`, after its files are checked against its lock.

    Raises:
        NotFound: the folder holds no pack.
        BadFile: a file is missing, or does not agree with the lock.
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
            raise BadFile(file, f"found sha256 {found[:12]}…, wanted {locked.sha256[:12]}… as in {LOCK}")
        splits[part] = from_lines(file)
        counted = _file_lock(b"", splits[part])
        for what in ("records", "paraphrases", "facts"):
            if (found_n := getattr(counted, what)) != (wanted := getattr(locked, what)):
                raise BadFile(file, f"found {found_n} {what}, wanted {wanted} as in {LOCK}")
    return Pack(path, lock, splits)


def verify_pack(path: Path) -> Pack:
    """Returns the pack in the folder `path`, after all checks: those of `read_pack`, its ids, and its splits.

    If the sources keep their own splits, a fact or text may be in several splits, and this is not checked.

    Raises:
        NotFound: the folder holds no pack.
        BadFile: as for `read_pack`; or two records have the same id; or a held-out record is not in the test
            split; or a fact, subject or text is in several splits.
    """
    pack = read_pack(path)
    seen: dict[str, str] = {}
    for part, records in pack.splits.items():
        for line, record in enumerate(records, start=1):
            if record.id in seen:
                problem = f"the id {record.id} is also in {seen[record.id]}"
                raise BadFile(path / f"{part}.jsonl", problem, place=line)
            seen[record.id] = f"{part}.jsonl:{line}"
            if record.held_out and part != "test":
                problem = f"{record.id} is held out: found in {part}, wanted in test"
                raise BadFile(path / f"{part}.jsonl", problem, place=line)
    if not pack.lock.keeps_splits and (found := crossings(pack.splits)):
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise BadFile(path, f"{found[0]}{more}")
    return pack


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


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value
