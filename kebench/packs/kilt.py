"""Reads KILT rows from a JSON Lines file, a Parquet file, a local copy of the Hub's folder, or the Hub.

    {"id": "…", "input": "…", "meta": {…},
     "output": [{"answer": "…", "provenance": [{"wikipedia_id": "…", "start_paragraph_id": 1,
                                                "meta": {"fever_page_id": "…", "fever_sentence_id": 0}}]}]}

In a table (Parquet, the Hub) every row has every field; a field that JSON leaves out is null, "", -1 or [].
The test splits are published without `output`.

Source: Petroni et al. 2021, "KILT: a Benchmark for Knowledge Intensive Language Tasks", arXiv:2009.02252;
https://huggingface.co/datasets/facebook/kilt_tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.hub import only_cached
from kebench.packs.facts import sentence_clue
from kebench.packs.rows import Row
from kebench.packs.tables import rows_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SUFFIXES = (".jsonl", ".json", ".parquet")


def kilt_rows(source: Path | str, configuration: str, revision: str | None = None) -> Iterator[Row]:
    """Returns all rows of all splits of a source.

    Args:
        source: a file; a folder that holds `<configuration>/*.parquet` or `*.jsonl`; or a Hub id
            `owner/name`.
        configuration: the configuration to read, if the source is a folder or a Hub data set.
        revision: the Hub commit, 40 hex digits. A branch is not accepted, because its data can change.

    Raises:
        NotFound: the file does not exist.
        BadFile: a file cannot be read, or a folder does not hold the configuration.
        BadSetting: a Hub id has no owner or no commit, or the data set cannot be loaded from the Hub.
    """
    path = Path(source)
    if path.is_dir():
        return _folder_rows(path, configuration)
    if path.is_file():
        return rows_of(path)
    name = str(source)
    if isinstance(source, Path) or path.suffix in SUFFIXES or name.count("/") > 1:
        raise NotFound("file", name)
    if not HUB_ID.fullmatch(name):
        raise BadSetting(f"'{name}': no such file; a Hub id begins with its owner, as facebook/kilt_tasks")
    if revision is None or not COMMIT.fullmatch(revision):
        found = "no revision" if revision is None else f"the revision '{revision}'"
        raise BadSetting(f"{name}: found {found}, wanted the commit's 40 hex digits")
    return _hub_rows(name, configuration, revision)


def answers_of(row: Row) -> tuple[str, ...]:
    """Returns the gold answers in `output`, in order and without repetitions; a test split has none.

    Raises:
        BadFile: `output` or an answer in it has the wrong type.
    """
    outputs = row.rows("output") if row.has("output") else []
    # An output may hold provenance only: it then has no `answer`, or in a table an empty one.
    return tuple(dict.fromkeys(each.text("answer") for each in outputs if each.value.get("answer")))


def provenance_clues(row: Row) -> frozenset[str]:
    """Returns the clues in the provenance of `output`: FEVER's sentences where given, otherwise paragraphs.

    Sentences tell facts apart better, because most evidence about a page is in one paragraph, its
    introduction.

    Raises:
        BadFile: the provenance has the wrong type.
    """
    clues = set()
    for output in row.rows("output"):
        for place in output.rows("provenance") if output.has("provenance") else ():
            meta = place.row("meta").value if place.has("meta") else {}
            match meta.get("fever_page_id"), meta.get("fever_sentence_id"):
                case str(page), int(sentence) if page and sentence >= 0:
                    clues.add(sentence_clue(page, sentence))
                    continue
            match place.value.get("wikipedia_id"), place.value.get("start_paragraph_id"):
                case str(page), int(paragraph) if page and paragraph >= 0:
                    clues.add(f"kilt:{page}#{paragraph}")
    return frozenset(clues)


def _folder_rows(folder: Path, configuration: str) -> Iterator[Row]:
    files = [path for suffix in SUFFIXES for path in sorted((folder / configuration).glob(f"*{suffix}"))]
    if not files:
        raise BadFile(folder, f"found no {configuration}/*.parquet or *.jsonl, wanted one for each split")
    return (row for path in files for row in rows_of(path))


def _hub_rows(name: str, configuration: str, revision: str) -> Iterator[Row]:
    import datasets

    if only_cached():
        datasets.config.HF_HUB_OFFLINE = True  # the client then looks into its cache at once
    try:
        splits = datasets.load_dataset(name, configuration, revision=revision)
    except Exception as error:  # the Hub client's errors share no base class
        reason = (str(error).splitlines() or [""])[0] or error.__class__.__name__
        raise BadSetting(
            f"{name} ({configuration}, {revision[:7]}): cannot be loaded from the Hub: {reason}"
        ) from None
    for split, rows in splits.items():
        for place, value in enumerate(rows, start=1):
            yield Row(f"{name}/{configuration}/{split}", place, value)
