"""Reads the rows of tables: CSV and TSV files with a header, and Parquet files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from kebench.errors import BadFile, shown
from kebench.packs.json_records import json_rows, text_of
from kebench.packs.rows import Row


def rows_of(path: Path) -> Iterator[Row]:
    """Returns the rows of a file of any kind: `.csv`, `.tsv` or `.parquet`; everything else is read as JSON.

    Raises:
        BadFile: the file cannot be read, or is not what its name says.
    """
    match path.suffix.lower():
        case ".csv":
            return csv_rows(path)
        case ".tsv":
            return csv_rows(path, delimiter="\t")
        case ".parquet":
            return parquet_rows(path)
        case _:
            return json_rows(path)


def csv_rows(path: Path, *, delimiter: str = ",") -> Iterator[Row]:
    """Returns the rows of a table in text, whose first line names the fields.

    An empty cell is a missing field. A cell that holds a JSON array is a list.

    Raises:
        BadFile: the file cannot be read, is not UTF-8, repeats or leaves out a field's name, or has a row of
            another length. The message names the line.
    """
    table = csv.reader(StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(table, [])]
        _check_names(path, names)
        for cells in table:
            place = table.line_num
            if cells and len(cells) != len(names):
                raise BadFile(path, f"found {len(cells)} cells, wanted {len(names)}", place=place)
            value = {
                name: _cell(path, name, cell, place)
                for name, cell in zip(names, cells, strict=False)
                if cell.strip()
            }
            if value:
                yield Row(path, place, value)
    except csv.Error as error:
        raise BadFile(path, f"not a table in text: {error}", place=table.line_num) from None


def _check_names(path: Path, names: list[str]) -> None:
    if not any(names):
        raise BadFile(path, "found nothing, wanted a first line that names the fields")
    for number, name in enumerate(names, start=1):
        if not name:
            raise BadFile(path, f"the field {number} has no name", place=1)
        if names.count(name) > 1:
            raise BadFile(path, f"the field {shown(name)} appears twice", place=1)


def _cell(path: Path, name: str, cell: str, place: int) -> Any:
    """Returns the value of a cell: a list if it holds a JSON array, otherwise its text."""
    if not cell.strip().startswith(('["', "['")):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        problem = f'{name}: found {shown(cell)}, wanted text, or a list in JSON such as ["a", "b"]'
        raise BadFile(path, problem, place=place) from None


def parquet_rows(path: Path) -> Iterator[Row]:
    """Returns the rows of a Parquet file; a missing field is None.

    Raises:
        BadFile: the file is not a readable Parquet file.
    """
    # Read with pyarrow, a dependency of `datasets`: that would first copy the file into its cache.
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        with ParquetFile(path) as table:
            place = 0
            for batch in table.iter_batches():
                for value in batch.to_pylist():
                    place += 1
                    yield Row(path, place, value)
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise BadFile(path, f"not a readable Parquet file ({error.__class__.__name__})") from None
