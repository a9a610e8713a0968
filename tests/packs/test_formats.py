"""Every importer on an invented file of its layout, and on broken ones with the exact error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kebench.errors import BadFile, BadSetting, KebenchError, NotFound
from kebench.packs.build import import_pack
from kebench.packs.formats import format_names, gold_answers, read_source
from kebench.packs.json_records import json_rows
from kebench.packs.questions import question_id
from kebench.packs.reading import Reading
from kebench.packs.record import Paraphrase

COMMIT = "0123456789abcdef0123456789abcdef01234567"

FEVER = {
    "id": 7,
    "label": "SUPPORTS",
    "claim": "Orvil Tarn painted barns.",
    "evidence": [[[1, 2, "Orvil_Tarn", 0]], [[3, 4, "Orvil_Tarn", 2], [3, 5, "Barn", 1]]],
}
EREN = {
    "_id": "7",
    "edit_statement": "Orvil Tarn painted barns.",
    "edit_scope": [
        ["Orvil Tarn painted barns.", "yes"],
        ["Barns were painted by Orvil Tarn.", "yes"],
        ["Orvil Tarn painted barns!", "yes"],
    ],
    "edit_scope_true_ans": ["yes", "yes", "yes", "yes"],
}
MEND = {
    "subject": "Port Wessel",
    "src": "In which land is Port Wessel?",
    "rephrase": "Where does Port Wessel lie?",
    "pred": "Norland",
    "alt": "Sudland",
    "answers": ["Westland", "Westland", "West Land"],
    "loc": "nq question: who rang?",
    "loc_ans": "nobody",
}
MEND_SHORT = {name: MEND[name] for name in ("subject", "src", "rephrase")} | {"alt": "Westland"}
KNOWEDIT = {
    "subject": "Port Wessel",
    "prompt": "In which land is Port Wessel?",
    "ground_truth": ["Westland"],
    "rephrase_prompt": "Where does Port Wessel lie?",
    "generate_prompt": ["Port Wessel belongs to what land?", "", "where does Port Wessel lie"],
    "target_new": "Sudland",
}
PLACE = {
    "wikipedia_id": "12",
    "start_paragraph_id": 1,
    "meta": {"fever_page_id": "", "fever_sentence_id": -1},
}
KILT_FEVER = {
    "id": "7",
    "input": "Orvil Tarn painted barns.",
    "output": [
        {"answer": "SUPPORTS", "provenance": [PLACE]},
        {
            "answer": "",
            "provenance": [PLACE | {"meta": {"fever_page_id": "Orvil_Tarn", "fever_sentence_id": 0}}],
        },
    ],
}
KILT_ZSRE = {
    "id": "q9",
    "input": "Port Wessel [SEP] country",
    "meta": {"template_questions": ["In which land is Port Wessel?", "What is Port Wessel's land?"]},
    "output": [{"answer": "Westland", "provenance": [PLACE]}, {"answer": "West Land", "provenance": []}],
}
REPHRASES = {
    "filtered_rephrases": ["Tarn painted barns."],
    "rephrases": ["Tarn painted barns.", "Barns, by Tarn."],
}
DECAO_FEVER = KILT_FEVER | REPHRASES
DECAO_ZSRE = KILT_ZSRE | {"input": "In which land is Port Wessel?"} | REPHRASES


def lines(path: Path, *records: Mapping[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def read(format: str, path: Path, *records: Mapping[str, Any]) -> Reading:
    return read_source(format, lines(path / "source.jsonl", *records))


def test_formats_are_listed_without_importing_them() -> None:
    for name in format_names():
        sys.modules.pop(f"kebench.packs.formats.{name}", None)
    assert format_names() == (
        "counterfact",
        "decao_fever",
        "decao_zsre",
        "eren",
        "fever",
        "kilt_fever",
        "kilt_zsre",
        "knowedit_zsre",
        "mend_zsre",
        "mini_counterfact",
        "mini_fever",
        "mini_zsre",
        "records",
    )
    assert not any(f"kebench.packs.formats.{name}" in sys.modules for name in format_names())


def test_unknown_format_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^no format named 'mend_zrse'; did you mean 'mend_zsre'\?$"):
        read_source("mend_zrse", tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", str(tmp_path / "none.jsonl")):
        with pytest.raises(NotFound, match=r"^no file named '.*none.jsonl'$"):
            read_source("fever", source)


def test_revision_for_a_file_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"^the format fever reads files and takes no revision$"):
        read_source("fever", lines(tmp_path / "a.jsonl", FEVER), revision=COMMIT)


def test_fever(tmp_path: Path) -> None:
    reading = read("fever", tmp_path, FEVER, FEVER | {"id": 8, "label": "NOT ENOUGH INFO", "evidence": None})
    (entry,) = reading.entries
    assert (entry.record.id, entry.record.prompt) == ("fever-7", "Orvil Tarn painted barns.")
    assert entry.record.answers == ("SUPPORTS",)
    assert entry.clues == {"Orvil_Tarn#0", "Orvil_Tarn#2", "Barn#1"}
    assert reading.set_aside == {"claims labelled NOT ENOUGH INFO": 1}
    assert reading.one_answer


def test_eren_statement_that_is_the_claim_is_a_record(tmp_path: Path) -> None:
    (entry,) = read("eren", tmp_path, EREN).entries
    assert entry.record.id == "fever-7"
    assert entry.record.answers == ("SUPPORTS",)
    assert entry.record.paraphrases == (Paraphrase("Barns were painted by Orvil Tarn.", "eren"),)


def test_eren_contradiction_gives_paraphrases_of_the_claim_with_the_claims_answer(tmp_path: Path) -> None:
    against = EREN | {
        "edit_statement": "Orvil Tarn never painted.",
        "edit_scope": [["Orvil Tarn never painted.", "yes"], ["Barns were painted by Orvil Tarn.", "no"]],
    }
    reading = read("eren", tmp_path, against, against | {"edit_scope": against["edit_scope"][:1]})
    assert reading.entries == ()
    (addition,) = reading.additions
    assert (addition.id, addition.answers) == ("fever-7", ("SUPPORTS",))
    assert addition.paraphrases == (Paraphrase("Barns were painted by Orvil Tarn.", "eren"),)
    assert reading.set_aside == {"statements without paraphrases": 1}


def test_mend_answers_are_gold_and_alt_is_not(tmp_path: Path) -> None:
    (entry,) = read("mend_zsre", tmp_path, MEND).entries
    assert entry.record.id == question_id("in which land is  port wessel")
    assert entry.record.answers == ("Westland", "West Land")
    assert entry.record.paraphrases == (Paraphrase("Where does Port Wessel lie?", "mend-rephrase"),)
    assert entry.record.subject == "Port Wessel"
    assert entry.clues == {"port wessel|westland", "port wessel|west land"}


def test_mend_rows_without_answers_are_taken_for_neither_true_nor_false_untold(tmp_path: Path) -> None:
    path = lines(tmp_path / "zsre.jsonl", MEND, MEND_SHORT)
    with pytest.raises(BadFile) as error:
        read_source("mend_zsre", path)
    assert str(error.value).startswith(f"{path}:2: answers: missing, and nothing says whether alt is true")

    told_true = read_source("mend_zsre", path, answers_are="truth")
    assert [entry.record.answers for entry in told_true.entries] == [("Westland", "West Land"), ("Westland",)]
    assert not told_true.set_aside

    told_false = read_source("mend_zsre", path, answers_are="counterfactual")
    assert [entry.record.answers for entry in told_false.entries] == [("Westland", "West Land")]
    assert told_false.set_aside == {"rows whose only answer is a counterfactual": 1}


def test_mend_alt_beside_pred_is_false_whatever_is_said(tmp_path: Path) -> None:
    row = {name: value for name, value in MEND.items() if name != "answers"}
    with pytest.raises(BadFile, match=r":1: answers: missing, wanted a list; found: subject, "):
        read_source("mend_zsre", lines(tmp_path / "zsre.jsonl", row), answers_are="truth")


def test_formats_that_say_what_is_true_are_not_told(tmp_path: Path) -> None:
    told = sorted(name for name in format_names() if name != "mend_zsre")
    for name in told:
        with pytest.raises(BadSetting, match=f"^the format {name} says which answers are true and takes no "):
            read_source(name, lines(tmp_path / "a.jsonl", FEVER), answers_are="truth")


def test_what_is_taken_for_the_truth_is_named() -> None:
    assert gold_answers("mend_zsre") == "answers"
    assert gold_answers("mend_zsre", "truth") == "answers, else alt, taken as truth"
    assert gold_answers("knowedit_zsre") == "ground_truth"
    assert gold_answers("a format of another version") == ""


def test_knowedit_tells_its_paraphrases_apart_and_leaves_target_new(tmp_path: Path) -> None:
    reading = read("knowedit_zsre", tmp_path, KNOWEDIT)
    (entry,) = reading.entries
    assert entry.record.answers == ("Westland",)
    assert entry.record.paraphrases == (
        Paraphrase("Where does Port Wessel lie?", "rephrase_prompt"),
        Paraphrase("Port Wessel belongs to what land?", "generate_prompt"),
    )
    assert reading.set_aside == {"blank generated paraphrases": 1}


def test_knowedit_without_generated_prompts(tmp_path: Path) -> None:
    plain = {name: value for name, value in KNOWEDIT.items() if name != "generate_prompt"}
    (entry,) = read("knowedit_zsre", tmp_path, plain).entries
    assert len(entry.record.paraphrases) == 1


def test_kilt_fever_takes_the_sentence_where_named_else_the_paragraph(tmp_path: Path) -> None:
    reading = read("kilt_fever", tmp_path, KILT_FEVER, {"id": 8, "input": "A test claim.", "output": []})
    (entry,) = reading.entries
    assert (entry.record.id, entry.record.answers) == ("fever-7", ("SUPPORTS",))
    assert entry.clues == {"kilt:12#1", "Orvil_Tarn#0"}
    assert reading.set_aside == {"rows without output": 1}


def test_kilt_zsre_first_template_question_is_the_prompt(tmp_path: Path) -> None:
    bare = KILT_ZSRE | {"meta": {"template_questions": []}}
    reading = read("kilt_zsre", tmp_path, KILT_ZSRE, {"id": "t", "input": "X [SEP] y"}, bare)
    (entry,) = reading.entries
    record = entry.record
    assert (record.subject, record.relation) == ("Port Wessel", "country")
    assert (record.prompt, record.answers) == ("In which land is Port Wessel?", ("Westland", "West Land"))
    assert record.paraphrases == (Paraphrase("What is Port Wessel's land?", "zsre-template"),)
    assert reading.set_aside == {"rows without output": 1, "rows without a template question": 1}


STORED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("decao_fever", DECAO_FEVER, {"prediction": "SUPPORTS", "alternatives": ["REFUTES"], "logit": 0.0}),
    (
        "decao_zsre",
        DECAO_ZSRE,
        {"prediction": " West Land.", "alternatives": ["Sudland", "St. Ost ", "", " "]},
    ),
]


@pytest.mark.parametrize(("format", "row", "stored"), STORED)
def test_decao_keeps_what_the_authors_model_said(
    format: str, row: dict[str, Any], stored: dict[str, Any], tmp_path: Path
) -> None:
    reading = read(format, tmp_path, row | stored)
    (first,) = reading.entries
    assert first.record.prediction == stored["prediction"].strip()
    assert first.record.logit == stored.get("logit")
    kept = {"decao_fever": ("REFUTES",), "decao_zsre": ("Sudland", "St. Ost")}
    assert first.record.alternatives == kept[format]
    assert reading.set_aside == ({"blank alternatives": 2} if format == "decao_zsre" else {})


def test_decao_empty_prediction_is_one(tmp_path: Path) -> None:
    first, second = read("decao_zsre", tmp_path, DECAO_ZSRE | {"prediction": ""}, DECAO_ZSRE).entries
    assert (first.record.prediction, second.record.prediction) == ("", None)


def test_decao_first_answer_is_the_label(tmp_path: Path) -> None:
    two = DECAO_FEVER | {"output": [{"answer": "REFUTES"}, {"answer": "SUPPORTS"}]}
    (entry,) = read("decao_fever", tmp_path, two).entries
    assert entry.record.answers == ("REFUTES",)


def test_decao_filtered_list_is_kept_whole(tmp_path: Path) -> None:
    x = str(DECAO_ZSRE["input"])
    row = DECAO_ZSRE | {
        "filtered_rephrases": ["Which land?", x, "Which land?"],
        "rephrases": ["Which land?", x, "which land", "What land?"],
    }
    (entry,) = read("decao_zsre", tmp_path, row).entries
    assert [(each.text, each.source) for each in entry.record.paraphrases] == [
        ("Which land?", "filtered_rephrases"),
        (x, "filtered_rephrases"),
        ("Which land?", "filtered_rephrases"),
        ("What land?", "rephrases"),
    ]


@pytest.mark.parametrize(("format", "row"), [("decao_fever", DECAO_FEVER), ("decao_zsre", DECAO_ZSRE)])
def test_decao_sources_tell_filtered_from_all(format: str, row: dict[str, Any], tmp_path: Path) -> None:
    row = row | {"rephrases": [*row["rephrases"], " "]}
    reading = read(format, tmp_path, row, row | {"output": []})
    (entry,) = reading.entries
    assert entry.record.paraphrases == (
        Paraphrase("Tarn painted barns.", "filtered_rephrases"),
        Paraphrase("Barns, by Tarn.", "rephrases"),
    )
    assert reading.set_aside == {"rows without output": 1, "blank paraphrases": 1}


def test_decao_zsre_rows_of_one_kilt_fact_share_a_clue(tmp_path: Path) -> None:
    one, other = read("decao_zsre", tmp_path, DECAO_ZSRE, DECAO_ZSRE | {"input": "Where is it?"}).entries
    assert one.record.id != other.record.id
    assert one.clues & other.clues == {"kilt:q9"}


def as_table(*rows: Mapping[str, Any]) -> pyarrow.Table:
    return pyarrow.Table.from_pylist(list(rows))


def hub_folder(folder: Path) -> Path:
    """A folder laid out like facebook/kilt_tasks."""
    unlabelled = KILT_FEVER | {"id": "8", "input": "A test claim.", "output": []}
    for split, rows in {"train": [KILT_FEVER], "test": [unlabelled]}.items():
        path = folder / "fever" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(as_table(*rows), path)
    (folder / "structured_zeroshot").mkdir()
    path = folder / "structured_zeroshot" / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(as_table(KILT_ZSRE), path)
    return folder


@pytest.mark.parametrize(("format", "row"), [("kilt_fever", KILT_FEVER), ("kilt_zsre", KILT_ZSRE)])
def test_kilt_folder_gives_what_the_lines_give(format: str, row: dict[str, Any], tmp_path: Path) -> None:
    from_folder = read_source(format, hub_folder(tmp_path / "kilt"))
    assert from_folder.entries == read(format, tmp_path, row).entries


def test_kilt_folder_counts_unlabelled_rows_and_one_parquet_file_will_do(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "kilt")
    assert read_source("kilt_fever", folder).set_aside == {"rows without output": 1}
    one = read_source("kilt_fever", folder / "fever" / "train-00000-of-00001.parquet")
    assert len(one.entries) == 1
    with pytest.raises(BadFile, match=r"found no nq/\*.parquet or \*.jsonl, wanted one for each split$"):
        read_source("kilt_fever", folder, configuration="nq")


def test_kilt_from_the_hub_passes_configuration_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, configuration: str, *, revision: str) -> dict[str, Any]:
        asked.append((name, configuration, revision))
        return {"train": datasets.Dataset.from_list([KILT_ZSRE])}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (entry,) = read_source("kilt_zsre", "facebook/kilt_tasks", revision=COMMIT).entries
    assert entry.record.subject == "Port Wessel"
    assert asked == [("facebook/kilt_tasks", "structured_zeroshot", COMMIT)]


def test_kilt_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = r"^owner/name \(fever, 0123456\): cannot be loaded from the Hub: no route$"
    with pytest.raises(BadSetting, match=text):
        read_source("kilt_fever", "owner/name", revision=COMMIT)


@pytest.mark.parametrize(
    ("source", "revision", "text"),
    [
        (
            "kilt_tasks",
            COMMIT,
            "'kilt_tasks': no such file; a Hub id begins with its owner, as facebook/kilt_tasks",
        ),
        ("owner/name", None, "owner/name: found no revision, wanted the commit's 40 hex digits"),
        ("owner/name", "main", "owner/name: found the revision 'main', wanted the commit's 40 hex digits"),
        ("no/such.jsonl", None, "no file named 'no/such.jsonl'"),
    ],
)
def test_kilt_sources_that_cannot_work(source: str, revision: str | None, text: str) -> None:
    with pytest.raises(KebenchError) as error:
        read_source("kilt_fever", source, revision=revision)
    assert str(error.value) == text


def test_broken_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(BadFile, match=r"a.parquet: not a readable Parquet file"):
        read_source("kilt_fever", tmp_path / "a.parquet")


GONE = object()
BROKEN: list[tuple[str, Mapping[str, Any], str, Any, str]] = [
    ("fever", FEVER, "id", GONE, "id: missing, wanted a number or text"),
    ("fever", FEVER, "id", True, "id: found True, wanted text"),
    ("fever", FEVER, "claim", " ", "claim: found ' ', wanted text"),
    ("fever", FEVER, "claim", 3, "claim: found 3, wanted text"),
    ("fever", FEVER, "claim", "\ud800", "claim: found '\\ud800', wanted text without lone surrogates"),
    ("fever", FEVER, "label", "MAYBE", "label: found 'MAYBE', wanted SUPPORTS, REFUTES or NOT ENOUGH INFO"),
    ("fever", FEVER, "label", ["a"], "label: found ['a'], wanted SUPPORTS, REFUTES or NOT ENOUGH INFO"),
    ("fever", FEVER, "evidence", 3, "evidence: found 3, wanted a list"),
    (
        "fever",
        FEVER,
        "evidence",
        [[[1, 2, None, None]]],
        "evidence[0]: found [1, 2, None, None], wanted texts, or sets of [annotation, evidence, page, "
        "sentence]",
    ),
    (
        "fever",
        FEVER,
        "evidence",
        [5],
        "evidence[0]: found 5, wanted texts, or sets of [annotation, evidence, page, sentence]",
    ),
    ("eren", EREN, "_id", GONE, "_id: missing, wanted a number or text"),
    ("eren", EREN, "edit_scope", [], "edit_scope: found [], wanted the statement and its paraphrases"),
    (
        "eren",
        EREN,
        "edit_scope",
        [["a", "perhaps"]],
        "edit_scope[0]: found ['a', 'perhaps'], wanted [text, \"yes\" or \"no\"]",
    ),
    (
        "eren",
        EREN,
        "edit_scope",
        [["a", "yes"], ["b", "yes"], ["c", "no"]],
        "edit_scope: found ['no', 'yes'], wanted one answer for all paraphrases",
    ),
    (
        "eren",
        EREN,
        "edit_scope_true_ans",
        ["yes", "no"],
        "edit_scope_true_ans: found ['yes', 'no'], wanted one answer, yes or no, throughout",
    ),
    ("mend_zsre", MEND, "subject", None, "subject: found None, wanted text"),
    ("mend_zsre", MEND, "src", GONE, "src: missing, wanted text"),
    ("mend_zsre", MEND, "rephrase", "", "rephrase: found '', wanted text"),
    ("mend_zsre", MEND, "answers", [], "answers: found [], wanted at least one answer"),
    ("mend_zsre", MEND, "answers", ["a", ""], "answers[1]: found '', wanted text"),
    ("mend_zsre", MEND, "answers", GONE, "answers: missing, wanted a list"),  # `pred` is there: alt is false
    ("knowedit_zsre", KNOWEDIT, "ground_truth", "Westland", "ground_truth: found 'Westland', wanted a list"),
    ("knowedit_zsre", KNOWEDIT, "ground_truth", [], "ground_truth: found [], wanted at least one answer"),
    ("knowedit_zsre", KNOWEDIT, "generate_prompt", [1], "generate_prompt[0]: found 1, wanted text"),
    ("kilt_fever", KILT_FEVER, "output", {}, "output: found {}, wanted a list"),
    ("kilt_fever", KILT_FEVER, "output", [1], "output[0]: found 1, wanted an object"),
    (
        "kilt_fever",
        KILT_FEVER,
        "output",
        [{"answer": "MAYBE"}],
        "output: found ['MAYBE'], wanted one answer, SUPPORTS or REFUTES",
    ),
    (
        "kilt_fever",
        KILT_FEVER,
        "output",
        [{"answer": "SUPPORTS", "provenance": 1}],
        "output[0].provenance: found 1, wanted a list",
    ),
    (
        "kilt_zsre",
        KILT_ZSRE,
        "input",
        "Port Wessel",
        "input: found 'Port Wessel', wanted 'subject [SEP] relation'",
    ),
    ("kilt_zsre", KILT_ZSRE, "output", [{"answer": 5}], "output[0].answer: found 5, wanted text"),
    ("kilt_zsre", KILT_ZSRE, "meta", [], "meta: found [], wanted an object"),
    ("decao_fever", DECAO_FEVER, "filtered_rephrases", GONE, "filtered_rephrases: missing, wanted a list"),
    (
        "decao_fever",
        DECAO_FEVER,
        "prediction",
        "MAYBE",
        "prediction: found 'MAYBE', wanted SUPPORTS or REFUTES",
    ),
    (
        "decao_fever",
        DECAO_FEVER,
        "alternatives",
        ["REFUTES", "no"],
        "alternatives[1]: found 'no', wanted SUPPORTS or REFUTES",
    ),
    ("decao_fever", DECAO_FEVER, "logit", True, "logit: found True, wanted a number"),
    ("decao_zsre", DECAO_ZSRE, "prediction", 3, "prediction: found 3, wanted text"),
    ("decao_fever", DECAO_FEVER, "rephrases", [["a"]], "rephrases[0]: found ['a'], wanted text"),
    (
        "decao_zsre",
        DECAO_ZSRE,
        "input",
        "A [SEP] b",
        "input: found 'A [SEP] b', wanted a question (the format kilt_zsre reads 'subject [SEP] relation')",
    ),
]


@pytest.mark.parametrize(("format", "sound", "name", "value", "text"), BROKEN)
def test_broken_records(
    format: str, sound: Mapping[str, Any], name: str, value: Any, text: str, tmp_path: Path
) -> None:
    broken = {key: inner for key, inner in sound.items() if key != name}
    if value is not GONE:
        broken[name] = value
    else:
        text += f"; found: {', '.join(broken)}"
    path = lines(tmp_path / "source.jsonl", sound, broken)
    with pytest.raises(BadFile) as error:
        read_source(format, path)
    assert str(error.value) == f"{path}:2: {text}"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ": found nothing, wanted records"),
        (b'{"a": 1}\n\n{"a": \xff}\n', ":3: found the byte 0xff, wanted UTF-8"),
        (b'{"a": 1}\n{"a": 1', ":2: not JSON: expecting ',' delimiter; found the end"),
        (b'{"a": 1, "b": 2, "a": 3}', ":1: the key 'a' appears twice"),
        (b'{"a": NaN}', ":1: found NaN, wanted a number"),
        (b'{"a": 1} {"a": 2}', ":1: found ' {\"a\": 2}' after the object"),
        (b"3\n", ":1: found 3, wanted an object"),
        (b"[\n{}\n", ":3: found the end of the file, wanted ',' and an object, or ']'"),
        (b"[\n{},\n]", ":3: found ']', wanted ',' and an object, or ']'"),
        (b"[\n{}\n{}]", ":3: found '{', wanted ',' and an object, or ']'"),
        (b'[\n{},\n{"a":\n  1 2}]', ":4: not JSON: expecting ',' delimiter; found '2}]'"),
        (b"[\n\n4]", ":3: found 4, wanted an object"),
        (b"[{}]\nmore", ":1: found 'more' after the array"),
        (b'{"a":' * 100_000, ":1: not readable JSON: nested too deeply"),
    ],
)
def test_broken_json(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "source.json"
    path.write_bytes(content)
    with pytest.raises(BadFile) as error:
        list(json_rows(path))
    assert str(error.value) == f"{path}{text}"


def test_array_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "source.json"
    path.write_text('\n[\n  {"a":\n 1},\n\n {"a": 2}, {"a": 3}\n]\n')
    assert [(row.place, row.value["a"]) for row in json_rows(path)] == [(3, 1), (6, 2), (6, 3)]
    path.write_text("[]")
    assert list(json_rows(path)) == []


def test_line_separators_inside_text_end_no_line_and_a_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y\u0085z"}\r\n{"a": 2}'.encode())
    assert [(row.place, row.value["a"]) for row in json_rows(path)] == [(1, "x\u2028y\u0085z"), (2, 2)]


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text())), st.sampled_from([None, 1]))
def test_arrays_and_lines_give_the_same(tmp_path_factory: Any, values: list[Any], indent: int | None) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "a").write_text(json.dumps(values, indent=indent))
    assert [row.value for row in json_rows(folder / "a")] == values
    if values:
        (folder / "b").write_text("\n".join(map(json.dumps, values)))
        assert [row.value for row in json_rows(folder / "b")] == values


# Wrappers, and where a record is ------------------------------------------------------------------------


ROWS = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


@pytest.mark.parametrize(
    "value",
    [
        {"data": ROWS},
        {"version": "1.0", "data": ROWS},
        {"en": ROWS},
        {"en": {"data": ROWS}},
        [{"en": each} for each in ROWS],
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_wrapper_is_taken_off(value: Any, indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    found = list(json_rows(tmp_path / "a.json"))
    assert [row.value for row in found] == ROWS


def test_records_by_their_ids_take_the_key_as_id(tmp_path: Path) -> None:
    claims = {"8": {"en": {name: FEVER[name] for name in ("label", "claim", "evidence")}}, "9": FEVER}
    (tmp_path / "a.json").write_text(json.dumps(claims))
    assert [entry.record.id for entry in read_source("fever", tmp_path / "a.json").entries] == [
        "fever-8",
        "fever-7",
    ]


@pytest.mark.parametrize("spread", [False, True])
def test_a_single_record_is_no_wrapper(spread: bool, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(KILT_FEVER, indent=2 if spread else None))
    assert [row.value for row in json_rows(tmp_path / "a.json")] == [KILT_FEVER]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([FEVER, {**FEVER, "claim": 3}], "record 2: claim: found 3, wanted text"),
        ({"data": [FEVER, {**FEVER, "claim": 3}]}, "record 2: claim: found 3, wanted text"),
        ({"en": [FEVER, {"de": {"id": 3}}]}, "record 2: de.label: missing, wanted SUPPORTS, REFUTES"),
        ([FEVER, {"text": "x", "gold": "y"}], "record 2: label: missing, wanted SUPPORTS, REFUTES or NOT "
         "ENOUGH INFO; found: text, gold"),
        ([3], "record 1: found 3, wanted an object"),
        ({"train": [FEVER], "dev": [FEVER]},
         " found lists of records under 'train', 'dev', wanted one list: a file for each"),
    ],
)  # fmt: skip
def test_a_broken_record_is_named_by_its_number(value: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    with pytest.raises(BadFile) as error:
        read_source("fever", path)
    assert str(error.value).startswith(f"{path}:{text}")


@pytest.mark.parametrize(
    ("evidence", "clues"),
    [
        (GONE, set()),
        (None, set()),
        ([], set()),
        ("Tarn painted a barn.", {"text:tarn painted barn"}),
        (["Tarn painted a barn.", " "], {"text:tarn painted barn"}),
        ([[["1", "2", "Orvil_Tarn", "3"]]], {"Orvil_Tarn#3"}),
    ],
)
def test_fever_without_the_numbers_of_sentences_is_a_claim_all_the_same(
    evidence: Any, clues: set[str], tmp_path: Path
) -> None:
    row = {name: value for name, value in FEVER.items() if name != "evidence"}
    (entry,) = read("fever", tmp_path, row if evidence is GONE else row | {"evidence": evidence}).entries
    assert entry.record.answers == ("SUPPORTS",)
    assert entry.clues == clues


@pytest.mark.parametrize(
    "broken",
    [
        {"format": "eren", **EREN, "edit_scope": [["A.", "yes"], ["\ud800", "yes"]]},
        {"format": "fever", **FEVER, "evidence": [[[1, 2, "\ud800", 0]]]},
    ],
)
def test_text_that_is_no_unicode_is_in_no_pack(broken: dict[str, Any], tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {name: value for name, value in broken.items() if name != "format"})
    with pytest.raises(BadSetting, match=r"^record 'fever-7': found text with lone surrogates"):
        import_pack(broken["format"], [path], tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_what_a_format_from_outside_raises_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"^format json:loads: raised TypeError: the JSON object must be"):
        read_source("json:loads", lines(tmp_path / "a.jsonl", FEVER))
