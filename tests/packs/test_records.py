"""The format `records`: a file of one's own, in every kind of file, and the packs made from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from kebench.errors import BadFile, BadSetting, KebenchError
from kebench.packs.build import build_pack, import_pack
from kebench.packs.formats import read_source
from kebench.packs.pack import verify_pack
from kebench.packs.reading import Reading
from kebench.packs.record import OwnQuestion, Paraphrase, Record
from kebench.task import PackRecipe, PackSource, load_task

Row = Mapping[str, Any]
QUESTION = {
    "id": "w1",
    "prompt": "In which land is Port Wessel?",
    "answers": ["Westland", "West Land"],
    "paraphrases": ["Where does Port Wessel lie?"],
    "target": "Sudland",
    "subject": "Port Wessel",
    "relation": "country",
    "retain": ["In which land is Holm?"],
}
PLAIN = {"id": "", "prompt": "Who founded Holm?", "answers": "Ina Holm"}
WANTED = (
    Record(
        "w1",
        "",
        "In which land is Port Wessel?",
        ("Westland", "West Land"),
        (Paraphrase("Where does Port Wessel lie?", "own"),),
        subject="Port Wessel",
        relation="country",
        alternatives=("Sudland",),
        further=(OwnQuestion("neighbourhood", "In which land is Holm?"),),
    ),
    Record("own-c255dea927", "", "Who founded Holm?", ("Ina Holm",)),
)


def as_lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def as_array(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps({"data": rows}))


def as_csv(path: Path, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in rows
    ]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(cells)


def as_parquet(path: Path, rows: Sequence[Row]) -> None:
    lists = [
        {
            name: [value] if name == "answers" and isinstance(value, str) else value or None
            for name, value in row.items()
        }
        for row in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lists), path)


KINDS = {"jsonl": as_lines, "json": as_array, "csv": as_csv, "tsv": as_csv, "parquet": as_parquet}


def read(path: Path, *rows: Row, write: Callable[[Path, Sequence[Row]], None] = as_lines) -> Reading:
    write(path, rows)
    return read_source("records", path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_records(kind: str, tmp_path: Path) -> None:
    plain = {name: value for name, value in PLAIN.items() if value}
    reading = read(tmp_path / f"own.{kind}", QUESTION, plain, write=KINDS[kind])
    assert tuple(entry.record for entry in reading.entries) == WANTED
    assert reading.entries[0].clues == {"port wessel|westland", "port wessel|west land"}
    assert not reading.one_answer
    assert reading.set_aside == {}


def test_a_cell_may_hold_commas_lines_and_brackets(tmp_path: Path) -> None:
    row = {"prompt": '[X], they said,\n"who?"', "answers": "[someone]"}
    (entry,) = read(tmp_path / "own.csv", row, write=as_csv).entries
    assert (entry.record.prompt, entry.record.answers) == (row["prompt"], ("[someone]",))


def test_a_label_is_the_one_answer_of_a_claim(tmp_path: Path) -> None:
    claim = {"prompt": "Wessel is in Westland.", "label": "SUPPORTS", "subject": "Wessel"}
    other = {"prompt": "Wessel is a port.", "label": "SUPPORTS", "subject": "Wessel"}
    reading = read(tmp_path / "own.jsonl", claim, other)
    assert reading.one_answer
    assert [entry.record.answers for entry in reading.entries] == [("SUPPORTS",), ("SUPPORTS",)]
    one, two = reading.entries
    assert not one.clues & two.clues  # both claims are true, and about one subject, and not the same fact


def test_rows_with_one_fact_share_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}?", "answers": f"{n}", "fact": n // 2} for n in range(4)]
    entries = read(tmp_path / "own.jsonl", *rows).entries
    assert [sorted(entry.clues) for entry in entries] == [["fact:0"]] * 2 + [["fact:1"]] * 2


def test_years_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"prompt": "When?", "answers": 1984, "target": [1985, "never"]}]
    (entry,) = read(tmp_path / "own.parquet", {**rows[0], "target": 1985}, write=as_parquet).entries
    assert (entry.record.answers, entry.record.alternatives) == (("1984",), ("1985",))
    (entry,) = read(tmp_path / "own.jsonl", *rows).entries
    assert entry.record.alternatives == ("1985", "never")


def test_other_fields_are_counted(tmp_path: Path) -> None:
    reading = read(tmp_path / "own.jsonl", QUESTION | {"notes": "x"}, PLAIN | {"id": 3, "notes": "y"})
    assert reading.set_aside == {"fields not used: notes": 2}


SOUND = {"prompt": "Who?", "answers": "X"}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"answers": "X"}, "2: prompt: missing, wanted text; found: answers"),
        ({"prompt": "Who?"}, "2: answers: missing, wanted an answer or a list of answers; found: prompt"),
        (SOUND | {"answers": []}, "2: answers: found [], wanted at least one answer"),
        (SOUND | {"answers": None}, "2: answers: found None, wanted at least one answer"),
        (SOUND | {"answers": 1.5}, "2: answers: found 1.5, wanted text"),
        (SOUND | {"answers": ["a", True]}, "2: answers[1]: found True, wanted text"),
        (SOUND | {"paraphrase": "y"}, "2: paraphrase: unknown field; did you mean 'paraphrases'?"),
        (SOUND | {"split": "test"}, "2: split: found one, and none at 1, wanted it in all rows or in none"),
        (SOUND | {"label": "yes"}, "2: label: found one, and none at 1, wanted it in all rows or in none"),
    ],
)
def test_a_wrong_row_is_named(row: Row, text: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile) as error:
        read(tmp_path / "own.jsonl", SOUND, row)
    assert str(error.value) == f"{tmp_path / 'own.jsonl'}:{text}"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ": found nothing, wanted records"),
        ("prompt,,answers\n", ":1: the field 2 has no name"),
        ("prompt,prompt\n", ":1: the field 'prompt' appears twice"),
        ("prompt,answers\nWho?\n", ":2: found 1 cells, wanted 2"),
        ("prompt,answers\nWho?,\"X", ":2: not a table in text: unexpected end of data"),
        ("prompt,answers\nWho?,\"['a', 'b']\"\n",
         ":2: answers: found \"['a', 'b']\", wanted text, or a list in JSON such as [\"a\", \"b\"]"),
    ],
)  # fmt: skip
def test_a_broken_table_is_named(content: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(BadFile) as error:
        read_source("records", tmp_path / "own.csv")
    assert str(error.value) == f"{tmp_path / 'own.csv'}{text}"


# Packs -------------------------------------------------------------------------------------------------


def in_splits() -> list[dict[str, Any]]:
    return [{"prompt": f"Who is {s}?", "answers": s, "split": s} for s in ("train", "dev", "test", "test")]


def test_rows_that_name_their_splits_stay_there(tmp_path: Path) -> None:
    as_lines(tmp_path / "own.jsonl", in_splits())
    pack = import_pack("records", [tmp_path / "own.jsonl"], tmp_path / "pack")
    assert {name: len(records) for name, records in pack.splits.items()} == {"train": 1, "dev": 1, "test": 2}
    assert verify_pack(tmp_path / "pack").lock.keeps_splits
    with pytest.raises(BadSetting, match=r"own.jsonl: its rows name their splits, wanted no --test$"):
        import_pack("records", {"test": [tmp_path / "own.jsonl"]}, tmp_path / "other")


@pytest.mark.parametrize("told", [True, False])
def test_a_recipe_says_that_rows_name_their_splits(told: bool, tmp_path: Path) -> None:
    as_lines(tmp_path / "own.jsonl", in_splits())
    source = PackSource("records", "own.jsonl", split="rows" if told else None)
    task = load_task("zsre")
    object.__setattr__(task, "packs", {"own": PackRecipe((source,), "CC0")})
    if told:
        assert build_pack(task, "own", tmp_path, tmp_path / "pack").lock.split == {}
    else:
        with pytest.raises(
            KebenchError, match=r"own.jsonl: found rows that name their splits, and split: None"
        ):
            build_pack(task, "own", tmp_path, tmp_path / "pack")


def test_the_same_prompt_twice_is_one_record_with_both_rows_questions(tmp_path: Path) -> None:
    as_lines(tmp_path / "own.jsonl", [SOUND | {"retain": "A?"}, SOUND | {"retain": ["A?", "B?"]}])
    pack = import_pack("records", [tmp_path / "own.jsonl"], tmp_path / "pack")
    (record,) = pack.records("train")
    assert [question.prompt for question in record.further] == ["A?", "B?"]
    assert verify_pack(tmp_path / "pack").splits == pack.splits


def test_an_empty_test_split_is_told_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_lines(tmp_path / "own.jsonl", [SOUND])
    import_pack("records", [tmp_path / "own.jsonl"], tmp_path / "pack")
    assert "the test split is empty" in caplog.text
