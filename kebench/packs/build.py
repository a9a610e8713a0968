"""Builds packs from published files: reads the sources, merges their records and splits them by fact."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.checked import file_sha256
from kebench.packs.formats import read_source
from kebench.packs.merge import merge
from kebench.packs.pack import Origin, Pack, write_pack
from kebench.packs.published import as_published
from kebench.packs.reading import Reading, SplitName
from kebench.packs.split import SPLITS, check_fractions, split_records
from kebench.task import DEFAULT_SPLIT, AnswersAre, PackSource, Task

IN_ROWS = "rows"
"""The `split` of a source whose rows name their splits."""
_log = logging.getLogger(__name__)


def import_pack(
    format: str,
    sources: Sequence[Path | str] | Mapping[SplitName, Sequence[Path | str]],
    out: Path,
    *,
    configuration: str | None = None,
    revision: str | None = None,
    answers_are: AnswersAre | None = None,
    split: Mapping[str, float] = DEFAULT_SPLIT,
    name: str | None = None,
    licence: str = "not stated",
    seed: int = 0,
) -> Pack:
    """Builds a pack from files of one format, or from a data set on the Hub.

    Args:
        format: the name of an importer (`kebench.packs.formats.format_names()`).
        sources: paths of files, or Hub ids `owner/name` as text. A mapping from split to such a list keeps
            the splits as published: nothing is merged, and no record moves to another split. The same holds
            for files whose rows name their splits.
        out: the folder of the pack.
        configuration: the configuration of the Hub data set, or of a local folder with the same layout.
        revision: the commit of the Hub data set, which must be given.
        answers_are: `truth` or `counterfactual`, for a format whose rows do not always say which.
        split: the fraction of records in `train`, `dev` and `test`.
        name: the name of the pack; by default the name of its folder.
        licence: the licence of the records.
        seed: the seed of the split.

    Raises:
        KebenchError: a source cannot be used. Nothing is written then.
    """
    check_fractions(split)
    by_split: list[tuple[SplitName | None, Sequence[Path | str]]] = (
        [*sources.items()] if isinstance(sources, Mapping) else [(None, sources)]
    )
    read = [
        _read(PackSource(format, str(place), None, configuration, revision, answers_are, part), place)
        for part, places in by_split
        for place in places
    ]
    read = [_with_splits_of_rows(source) for source in read]
    return _write(read, out, name=name or out.name, licence=licence, split=split, seed=seed)


def build_pack(task: Task, pack_name: str, data_dir: Path, out: Path, *, seed: int = 0) -> Pack:
    """Builds a pack by the recipe in its task.

    Args:
        task: the task that holds the recipe.
        pack_name: a name in `task.packs`.
        data_dir: the folder to which the recipe's paths are relative. If it holds a clone of a Hub data set,
            the clone is read.
        out: the folder of the pack.
        seed: the seed of the split.

    Raises:
        NotFound: the recipe or a file does not exist.
        BadFile: a source does not have the hash in the recipe, or its contents do not have its format.
        KebenchError: a source cannot be used for another reason. In all cases nothing is written.
    """
    if pack_name not in task.packs:
        raise NotFound(f"pack of the task {task.name}", pack_name, task.packs)
    recipe = task.packs[pack_name]
    check_fractions(recipe.split)
    read = [_read(source, _located(source, data_dir)) for source in recipe.sources]
    for each in read:
        if each.reading.names_splits != (each.origin.split == IN_ROWS):
            found = "rows that name their splits" if each.reading.names_splits else "rows without a split"
            raise BadSetting(
                f"{each.origin.path}: found {found}, and split: {each.origin.split} in the recipe"
            )
    return _write(read, out, name=pack_name, licence=recipe.licence, split=recipe.split, seed=seed)


def _located(source: PackSource, data_dir: Path) -> Path | str:
    """Returns the source's path below `data_dir` if it exists, otherwise its Hub id. Checks a file's hash."""
    local = data_dir / source.path
    if not local.exists():
        if source.revision is None:
            raise NotFound("file", str(local))
        return source.path
    if source.sha256 is not None and local.is_file() and (found := file_sha256(local)) != source.sha256:
        raise BadFile(local, f"found sha256 {found[:12]}…, wanted {source.sha256[:12]}…")
    return local


@dataclass(frozen=True)
class _Source:
    """What was read from a source, and a description of the source."""

    reading: Reading
    origin: Origin


def _read(source: PackSource, place: Path | str) -> _Source:
    reading = read_source(
        source.format,
        place,
        configuration=source.configuration,
        revision=source.revision,
        answers_are=source.answers_are,
    )
    path = Path(place)
    origin = Origin(
        format=source.format,
        path=path.name if path.exists() else str(place),
        records=len(reading.entries) + len(reading.additions),
        sha256=file_sha256(path) if path.is_file() else None,
        configuration=source.configuration,
        revision=source.revision,
        answers_are=source.answers_are,
        split=source.split,
    )
    return _Source(reading, origin)


def _with_splits_of_rows(source: _Source) -> _Source:
    if not source.reading.names_splits:
        return source
    if source.origin.split is not None:
        raise BadSetting(
            f"{source.origin.path}: its rows name their splits, wanted no --{source.origin.split}"
        )
    return replace(source, origin=replace(source.origin, split=IN_ROWS))


def _part(source: _Source, split: str) -> Reading:
    """Returns what goes to one split of a source whose splits are kept."""
    if source.origin.split == split:
        return source.reading
    if source.origin.split != IN_ROWS:
        return Reading(())
    entries = tuple(entry for entry in source.reading.entries if entry.split == split)
    return Reading(entries, set_aside=source.reading.set_aside if split == SPLITS[0] else {})


def _write(
    read: Sequence[_Source],
    out: Path,
    *,
    name: str,
    licence: str,
    split: Mapping[str, float],
    seed: int,
) -> Pack:
    parts = {source.origin.split for source in read}
    places = ", ".join(source.origin.path for source in read)
    if None not in parts:
        if unknown := parts - {*SPLITS, IN_ROWS}:
            raise NotFound("split", str(min(unknown, key=str)), SPLITS)
        by_split = {part: [_part(source, part) for source in read] for part in SPLITS}
        splits, merged = as_published(by_split)
        split = {}
    elif parts == {None}:
        merged = merge([source.reading for source in read])
        splits = split_records(merged.records, split, seed)
    else:
        raise BadSetting(f"{places}: found a split for some sources, wanted one for all or for none")
    if not merged.records:
        why = ", ".join(f"{count} {reason}" for reason, count in merged.set_aside.items())
        raise BadSetting(f"{places}: no record is left for a pack{f' ({why})' if why else ''}")
    if not splits["test"]:
        _log.warning("%s: the test split is empty, so that a run finds nothing to edit in it", out)
    return write_pack(
        out,
        splits,
        name=name,
        licence=licence,
        origin=[source.origin for source in read],
        split=split,
        seed=seed,
        set_aside=merged.set_aside,
    )
