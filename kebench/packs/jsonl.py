"""Converts records to lines of a pack's files and back.

Each record has exactly one representation (sorted keys, no empty fields, only the escapes that JSON
requires), so that equal packs have equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from kebench.errors import BadFile, BadSetting, did_you_mean
from kebench.packs.json_records import json_lines
from kebench.packs.record import OwnQuestion, Paraphrase, Record
from kebench.packs.rows import Row

FIELDS = tuple(field.name for field in fields(Record))


def canonical(value: Any) -> str:
    """Returns `value` as JSON on one line, with sorted keys."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_lines(records: Iterable[Record]) -> bytes:
    """Returns the contents of a file with these records.

    Raises:
        BadSetting: a text of a record is not valid Unicode; JSON can spell such texts, UTF-8 cannot.
    """
    lines = []
    for record in records:
        try:
            lines.append(f"{canonical(_fields(record))}\n".encode())
        except UnicodeEncodeError:
            problem = "found text with lone surrogates, wanted Unicode"
            raise BadSetting(f"record {record.id!a}: {problem}") from None
    return b"".join(lines)


def from_lines(path: Path) -> tuple[Record, ...]:
    """Returns the records in a file; an empty file has none.

    Raises:
        BadFile: a line is not a record as written by `to_lines`.
    """
    if path.is_file() and path.stat().st_size == 0:  # the file of a split without records
        return ()
    return tuple(_record(row) for row in json_lines(path))


def _fields(record: Record) -> dict[str, Any]:
    paraphrases = [
        {"source": each.source, "text": each.text, **({"held_out": True} if each.held_out else {})}
        for each in record.paraphrases
    ]
    values: dict[str, Any] = {
        "id": record.id,
        "fact": record.fact,
        "prompt": record.prompt,
        "answers": list(record.answers),
        "paraphrases": paraphrases,
        "subject": record.subject,
        "relation": record.relation,
        "alternatives": list(record.alternatives),
        "held_out": record.held_out,
        "further": [_own_fields(question) for question in record.further],
    }
    stored = {"prediction": record.prediction, "logit": record.logit}  # here "" and 0.0 are values
    return {name: value for name, value in values.items() if value} | {
        name: value for name, value in stored.items() if value is not None
    }


def _own_fields(question: OwnQuestion) -> dict[str, Any]:
    values = {**vars(question), "answers": list(question.answers)}
    return {name: value for name, value in values.items() if value}


def _own_question(row: Row) -> OwnQuestion:
    """A neighbourhood question, or a portability question, which names the target that it follows from."""
    kind = row.text("kind")
    answers = row.texts("answers") if "answers" in row.value else ()
    if kind == "neighbourhood":
        if "target" in row.value:
            row.wrong("target", row.value["target"], "none: a neighbourhood question follows from no target")
        return OwnQuestion("neighbourhood", row.text("prompt"), answers)
    if kind != "portability":
        row.wrong("kind", kind, "neighbourhood or portability")
    if not answers:
        row.wrong("answers", [], "at least one answer")
    return OwnQuestion("portability", row.text("prompt"), answers, row.text("target"))


def _record(row: Row) -> Record:
    for name in row.value:
        if name not in FIELDS:
            raise BadFile(row.path, f"{name}: unknown field{did_you_mean(name, FIELDS)}", place=row.place)
    answers = row.texts("answers")
    if not answers:
        row.wrong("answers", [], "at least one answer")
    return Record(
        id=row.text("id"),
        fact=row.text("fact"),
        prompt=row.text("prompt"),
        answers=answers,
        paraphrases=tuple(
            Paraphrase(each.text("text"), each.text("source"), each.flag("held_out"))
            for each in (row.rows("paraphrases") if "paraphrases" in row.value else ())
        ),
        subject=row.text("subject") if "subject" in row.value else None,
        relation=row.text("relation") if "relation" in row.value else None,
        alternatives=row.texts("alternatives") if "alternatives" in row.value else (),
        held_out=row.flag("held_out"),
        prediction=row.said("prediction") if "prediction" in row.value else None,
        logit=row.number("logit") if "logit" in row.value else None,
        further=tuple(map(_own_question, row.rows("further") if "further" in row.value else ())),
    )
