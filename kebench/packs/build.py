"""Packs out of published files: read the sources, merge, settle the facts, split, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.packs.formats import read_source
from kebench.packs.merge import merge
from kebench.packs.pack import Origin, Pack, file_sha256, write_pack
from kebench.packs.reading import Reading
from kebench.packs.split import check_fractions, split_records
from kebench.task import DEFAULT_SPLIT, PackSource, Task


def import_pack(
    format: str,
    sources: Sequence[Path | str],
    out: Path,
    *,
    configuration: str | None = None,
    revision: str | None = None,
    split: Mapping[str, float] = DEFAULT_SPLIT,
    name: str | None = None,
    licence: str = "not stated",
    seed: int = 0,
) -> Pack:
    """Makes a pack of one format's files, or of a data set of the Hub.

    Args:
        format: an importer's name (`kebench.packs.formats.format_names()`).
        sources: paths; or, as text, Hub ids `owner/name`.
        out: the pack's folder.
        configuration: of the Hub data set, or of a local folder laid out like it.
        revision: the Hub commit; a data set of the Hub needs one.
        split: the fractions of `train`, `dev` and `test`.
        name: of the pack; by default the folder's.
        licence: of the records.
        seed: of the split.

    Raises:
        KebenchError: a source cannot be used; nothing is written.
    """
    check_fractions(split)
    read = [(source, _read(format, source, configuration, revision)) for source in sources]
    origin = [_origin(format, source, reading, configuration, revision) for source, reading in read]
    readings = [reading for _, reading in read]
    return _write(readings, origin, out, name=name or out.name, licence=licence, split=split, seed=seed)


def build_pack(task: Task, pack_name: str, data_dir: Path, out: Path, *, seed: int = 0) -> Pack:
    """Makes a task's pack as its recipe says.

    Args:
        task: holds the recipe.
        pack_name: a name in `task.packs`.
        data_dir: the folder below which the recipe's paths lie; a Hub source that lies there too (a
            clone) is read there.
        out: the pack's folder.
        seed: of the split.

    Raises:
        NotFound: there is no such pack, or no such file.
        BadFile: a source is not the file that the recipe pins, or does not hold what its format says.
        KebenchError: a source cannot be used. In all cases nothing is written.
    """
    if pack_name not in task.packs:
        raise NotFound(f"pack of the task {task.name}", pack_name, task.packs)
    recipe = task.packs[pack_name]
    check_fractions(recipe.split)
    readings, origin = [], []
    for each in recipe.sources:
        source = _located(each, data_dir)
        readings.append(_read(each.format, source, each.configuration, each.revision))
        origin.append(_origin(each.format, source, readings[-1], each.configuration, each.revision))
    return _write(
        readings, origin, out, name=pack_name, licence=recipe.licence, split=recipe.split, seed=seed
    )


def _located(source: PackSource, data_dir: Path) -> Path | str:
    """The file (checked against its hash) or folder below `data_dir`, else the Hub id."""
    local = data_dir / source.path
    if not local.exists():
        if source.revision is None:
            raise NotFound("file", str(local))
        return source.path
    if source.sha256 is not None and local.is_file() and (found := file_sha256(local)) != source.sha256:
        raise BadFile(local, f"found sha256 {found[:12]}…, wanted {source.sha256[:12]}…")
    return local


def _read(format: str, source: Path | str, configuration: str | None, revision: str | None) -> Reading:
    return read_source(format, source, configuration=configuration, revision=revision)


def _origin(
    format: str, source: Path | str, reading: Reading, configuration: str | None, revision: str | None
) -> Origin:
    path = Path(source)
    return Origin(
        format=format,
        path=path.name if path.exists() else str(source),
        records=len(reading.entries) + len(reading.additions),
        sha256=file_sha256(path) if path.is_file() else None,
        configuration=configuration,
        revision=revision,
    )


def _write(
    readings: Sequence[Reading],
    origin: Sequence[Origin],
    out: Path,
    *,
    name: str,
    licence: str,
    split: Mapping[str, float],
    seed: int,
) -> Pack:
    merged = merge(readings)
    if not merged.records:
        raise BadSetting(f"{', '.join(each.path for each in origin)}: no record is left for a pack")
    return write_pack(
        out,
        split_records(merged.records, split, seed),
        name=name,
        licence=licence,
        origin=origin,
        split=split,
        seed=seed,
        set_aside=merged.set_aside,
    )
