"""Packs: written whole or not at all, read only as locked; merged, built, and checked on real data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from at_hand import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from kebench.errors import BadFile, BadSetting, KebenchError, NotFound
from kebench.files.checked import file_sha256
from kebench.packs.build import build_pack, import_pack
from kebench.packs.jsonl import from_lines, to_lines
from kebench.packs.merge import merge
from kebench.packs.pack import Origin, Pack, read_pack, verify_pack, write_pack
from kebench.packs.reading import Addition, Entry, Reading
from kebench.packs.record import Paraphrase, Record
from kebench.packs.split import linked
from kebench.task import DEFAULT_SPLIT, PackRecipe, PackSource, Task, load_task

ORIGIN = (Origin("fever", "made_up.jsonl", 3),)
FRACTIONS = {"train": 0.5, "dev": 0.0, "test": 0.5}
RECORDS = {
    "train": (
        Record("1", "f", "Orvil Tarn painted barns.", ("SUPPORTS",), (Paraphrase("Barns, by Tarn.", "me"),)),
    ),
    "test": (Record("2", "g", "Ina Holm sailed.", ("REFUTES",), subject="Ina Holm"),),
}


def written(folder: Path, records: dict[str, tuple[Record, ...]] = RECORDS) -> Pack:
    return write_pack(folder, records, name="made up", licence="CC0", origin=ORIGIN, split=FRACTIONS, seed=0)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_lock_holds_unicode(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"^pack 'x': its name, licence or sources are not Unicode$"):
        write_pack(
            tmp_path / "p", RECORDS, name="x", licence="\udcff", origin=ORIGIN, split=FRACTIONS, seed=0
        )
    assert not (tmp_path / "p").exists()


# The format ----------------------------------------------------------------------------------------------


def test_a_pack_read_back_is_the_pack_written(tmp_path: Path) -> None:
    pack = written(tmp_path / "deep" / "pack")
    assert read_pack(tmp_path / "deep" / "pack") == verify_pack(tmp_path / "deep" / "pack") == pack
    assert pack.records("train") == RECORDS["train"]
    assert pack.records("dev") == ()
    assert sorted(path.name for path in pack.folder.iterdir()) == [
        "dev.jsonl",
        "pack.lock",
        "test.jsonl",
        "train.jsonl",
    ]


def test_a_line_is_canonical(tmp_path: Path) -> None:
    line = '{"answers":["REFUTES"],"fact":"g","id":"2","prompt":"Ina Holm sailed.","subject":"Ina Holm"}\n'
    written(tmp_path / "pack")
    assert (tmp_path / "pack" / "test.jsonl").read_text() == line


def test_what_is_held_out_is_marked_and_nothing_else(tmp_path: Path) -> None:
    texts = (Paraphrase("Barns, by Tarn.", "me", held_out=True), Paraphrase("Tarn did barns.", "me"))
    marked = replace(RECORDS["test"][0], held_out=True, paraphrases=texts)
    written(tmp_path / "pack", {"test": (marked,)})
    assert (tmp_path / "pack" / "test.jsonl").read_text() == (
        '{"answers":["REFUTES"],"fact":"g","held_out":true,"id":"2","paraphrases":['
        '{"held_out":true,"source":"me","text":"Barns, by Tarn."},{"source":"me","text":"Tarn did barns."}'
        '],"prompt":"Ina Holm sailed.","subject":"Ina Holm"}\n'
    )
    assert read_pack(tmp_path / "pack").records("test") == (marked,)


def test_identity_is_the_content_and_not_the_name(tmp_path: Path) -> None:
    one = written(tmp_path / "one")
    other = write_pack(
        tmp_path / "other", RECORDS, name="other", licence="MIT", origin=(), split=FRACTIONS, seed=9
    )
    third = written(tmp_path / "third", RECORDS | {"dev": (Record("3", "h", "A door.", ("SUPPORTS",)),)})
    assert one.sha256 == other.sha256 != third.sha256


def test_an_unknown_split_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^no split named 'trian'; did you mean 'train'\?$"):
        written(tmp_path / "pack").records("trian")


def test_the_lock_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "claims.jsonl").write_text(FEVER_LINES)
    pack = import_pack("fever", [tmp_path / "claims.jsonl"], tmp_path / "pack")
    assert str(tmp_path) not in (pack.folder / "pack.lock").read_text()
    assert pack.lock.origin[0].path == "claims.jsonl"
    assert pack.lock.origin[0].sha256 == file_sha256(tmp_path / "claims.jsonl")


TEXT = st.text(min_size=1).map(str.strip).filter(bool)
ANY_RECORD = st.builds(
    Record,
    id=TEXT,
    fact=TEXT,
    prompt=TEXT,
    answers=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    paraphrases=st.lists(st.builds(Paraphrase, TEXT, TEXT, st.booleans()), max_size=3).map(tuple),
    subject=st.none() | TEXT,
    relation=st.none() | TEXT,
    held_out=st.booleans(),
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(ANY_RECORD, max_size=4))
def test_records_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "train.jsonl"
    path.write_bytes(to_lines(records))
    assert from_lines(path) == tuple(records)
    assert path.read_bytes().count(b"\n") == len(records)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"id": "1"}', "answers: missing, wanted a list; found: id"),
        ('{"promt": "x"}', "promt: unknown field; did you mean 'prompt'?"),
        ('{"answers": []}', "answers: found [], wanted at least one answer"),
        ('{"answers": ["a"], "id": 1}', "id: found 1, wanted text"),
        (
            '{"answers": ["a"], "id": "1", "fact": "f", "prompt": "p", "paraphrases": [{"text": "t"}]}',
            "paraphrases[0].source: missing, wanted text; found: text",
        ),
        (
            '{"answers": ["a"], "id": "1", "fact": "f", "prompt": "p", "held_out": "yes"}',
            "held_out: found 'yes', wanted true or false",
        ),
        (
            '{"answers": ["a"], "id": "1", "fact": "f", "prompt": "p", '
            '"paraphrases": [{"text": "t", "source": "s", "held_out": 1}]}',
            "paraphrases[0].held_out: found 1, wanted true or false",
        ),
        ('{"answers": ["a"], "heldout": true}', "heldout: unknown field; did you mean 'held_out'?"),
    ],
)
def test_a_line_that_is_no_record(line: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(line)
    with pytest.raises(BadFile) as error:
        from_lines(path)
    assert str(error.value) == f"{path}:1: {text}"


# What a changed pack says --------------------------------------------------------------------------------


def edit_lock(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        lock = json.loads((folder / "pack.lock").read_text())
        change(lock)
        (folder / "pack.lock").write_text(json.dumps(lock))

    return edit


def one_byte(folder: Path) -> None:
    content = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(content.replace("barns", "barms"))


SPOILT: list[tuple[Callable[[Path], object], str]] = [
    (one_byte, "train.jsonl: found sha256 "),
    (lambda folder: (folder / "test.jsonl").unlink(), "test.jsonl: missing, wanted 1 records"),
    (edit_lock(lambda lock: lock.update(format=2)), "pack.lock: format: found 2, wanted 1"),
    (edit_lock(lambda lock: lock.pop("licence")), "pack.lock: licence: missing"),
    (
        edit_lock(lambda lock: lock.update(licens="x")),
        "pack.lock: licens: unknown field; did you mean 'licence'?",
    ),
    (edit_lock(lambda lock: lock["files"].pop("dev.jsonl")), "pack.lock: files: found ['test.jsonl', 'train"),
    (
        edit_lock(lambda lock: lock["files"]["train.jsonl"].update(records=2)),
        "train.jsonl: found 1 records, wanted 2 as in pack.lock",
    ),
    (
        edit_lock(lambda lock: lock["files"]["train.jsonl"].update(paraphrases=0)),
        "train.jsonl: found 1 paraphrases, wanted 0 as in pack.lock",
    ),
    (
        edit_lock(lambda lock: lock["files"]["train.jsonl"].update(facts=0)),
        "train.jsonl: found 1 facts, wanted 0 as in pack.lock",
    ),
]


@pytest.mark.parametrize(("spoil", "text"), SPOILT)
def test_a_spoilt_pack_is_refused(spoil: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    written(tmp_path / "pack")
    spoil(tmp_path / "pack")
    with pytest.raises(BadFile) as error:
        read_pack(tmp_path / "pack")
    assert str(error.value).startswith(f"{tmp_path}/pack/{text}")
    assert "\n" not in str(error.value)


def test_no_pack_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^no pack named '.*'$"):
        read_pack(tmp_path)


def test_verify_refuses_an_id_that_stands_twice(tmp_path: Path) -> None:
    twice = replace(RECORDS["test"][0], id="1")
    written(tmp_path / "pack", RECORDS | {"test": (twice,)})
    assert read_pack(tmp_path / "pack")
    with pytest.raises(BadFile, match=r"test.jsonl:1: the id 1 is also in train.jsonl:1$"):
        verify_pack(tmp_path / "pack")


@pytest.mark.parametrize("part", ["train", "dev"])
def test_verify_refuses_what_is_held_out_outside_test(part: str, tmp_path: Path) -> None:
    kept, (plain,) = replace(RECORDS["test"][0], held_out=True), RECORDS["train"]
    pack = written(tmp_path / "sound", {"train": (plain,), "test": (kept,)})
    assert verify_pack(tmp_path / "sound") == pack
    written(tmp_path / "pack", {part: (plain, kept)})
    assert read_pack(tmp_path / "pack")
    with pytest.raises(BadFile) as error:
        verify_pack(tmp_path / "pack")
    assert (
        str(error.value) == f"{tmp_path}/pack/{part}.jsonl:2: 2 is held out: found in {part}, wanted in test"
    )


def test_verify_refuses_a_planted_crossing(tmp_path: Path) -> None:
    planted = replace(RECORDS["test"][0], paraphrases=(Paraphrase("barns by tarn", "me"),))
    written(tmp_path / "pack", RECORDS | {"test": (planted,)})
    with pytest.raises(BadFile, match=r"pack: the text 'barns by tarn' is in train/1 and in test/2$"):
        verify_pack(tmp_path / "pack")


# Written whole or not at all -----------------------------------------------------------------------------


def test_a_pack_replaces_a_pack_but_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "pack")
    (tmp_path / "empty").mkdir()
    written(tmp_path / "empty")
    again = written(tmp_path / "pack", {"test": RECORDS["test"]})
    assert read_pack(tmp_path / "pack") == again
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    before = everything_in(tmp_path)
    with pytest.raises(BadSetting, match=r"thesis: exists and is not a pack; remove it or choose another"):
        written(tmp_path / "thesis")
    assert everything_in(tmp_path) == before


def test_a_failure_while_writing_leaves_the_old_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = written(tmp_path / "pack")
    before = everything_in(tmp_path)
    rename = Path.rename

    def fails_the_second_time(self: Path, target: Path) -> Path:
        if self.name.startswith(".") and target.name == "pack" and ".replaced." not in self.name:
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_the_second_time)
    with pytest.raises(BadFile, match=r"pack: cannot be written \(OSError\)$"):
        written(tmp_path / "pack", {})
    assert everything_in(tmp_path) == before
    assert read_pack(tmp_path / "pack") == old
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


# Merging -------------------------------------------------------------------------------------------------


def entry(id_: str, prompt: str, *paraphrases: str, answer: str = "SUPPORTS", clues: str = "") -> Entry:
    kept = tuple(Paraphrase(text, "me") for text in paraphrases)
    return Entry(Record(id_, "", prompt, (answer,), kept), frozenset(clues.split()))


def claims(*entries: Entry, additions: tuple[Addition, ...] = ()) -> Reading:
    return Reading(entries, additions, one_answer=True)


def test_the_same_id_and_the_same_words_are_one_record() -> None:
    merged = merge(
        [
            claims(entry("2", "The barn is red.", "Red barn.", clues="p#1")),
            claims(
                entry("1", "the barn is red", "A barn in red.", clues="p#0"),
                entry("3", "Doors.", clues="p#1"),
            ),
            claims(entry("1", "The barn is red.", "Red barn!", "It is red, the barn.")),
        ]
    )
    one, other = merged.records
    assert (one.id, one.prompt, one.fact) == ("1", "The barn is red.", "p#0")
    assert [each.text for each in one.paraphrases] == ["Red barn.", "A barn in red.", "It is red, the barn."]
    assert (other.id, other.fact) == ("3", "p#0")  # through p#1
    assert merged.set_aside == {"repeated records, merged": 2}


@pytest.mark.parametrize("first", [True, False])
def test_a_merged_record_is_held_out_if_any_of_its_entries_is(first: bool) -> None:
    one, other = (
        Entry(Record(id_, "", "Where?", ("Osk",), (Paraphrase("At?", "me", flag),), held_out=flag))
        for id_, flag in (("1", first), ("2", not first))
    )
    (record,) = merge([Reading((one,)), Reading((other,))]).records
    assert (record.id, record.held_out) == ("1", True)
    assert record.paraphrases == (Paraphrase("At?", "me", held_out=True),)
    (plain,) = merge([claims(entry("1", "Where?"), entry("2", "Where?"))]).records
    assert not plain.held_out


def test_answers_of_one_question_add_up_the_first_stays_canonical() -> None:
    one, other = entry("1", "Where?", answer="Osk"), entry("1", "Where?", answer="Old Osk")
    (record,) = merge([Reading((one,)), Reading((other, one))]).records
    assert record.answers == ("Osk", "Old Osk")


def test_claims_with_contradicting_labels_are_set_aside_and_counted() -> None:
    one, other = entry("1", "Barns are red."), entry("2", "barns are red", answer="REFUTES")
    merged = merge([claims(one, other, entry("3", "Doors are blue."))])
    assert [record.id for record in merged.records] == ["3"]
    assert merged.records[0].fact == "?doors are blue"
    assert merged.set_aside == {"claims with contradicting labels": 2}


def test_additions_join_by_any_merged_id_or_are_counted() -> None:
    def addition(id_: str, answer: str = "SUPPORTS") -> Addition:
        return Addition(id_, (answer,), (Paraphrase(f"from {id_} {answer}", "eren"),))

    reading = claims(
        entry("1", "Barns are red."),
        entry("2", "barns are red"),
        additions=(addition("2"), addition("1", "REFUTES"), addition("9")),
    )
    merged = merge([reading])
    (record,) = merged.records
    assert record.paraphrases == (Paraphrase("from 2 SUPPORTS", "eren"),)
    assert merged.set_aside == {
        "additions that contradict the label": 1,
        "additions that join no record": 1,
        "repeated records, merged": 1,
    }


# Building ------------------------------------------------------------------------------------------------

FEVER_LINES = "".join(
    f'{{"id": {n}, "label": "SUPPORTS", "claim": "Claim{n} about thing{n}.", '
    f'"evidence": [[[1, 2, "Page{n}", 0]]]}}\n'
    for n in range(40)
)


def task(**recipes: PackRecipe) -> Task:
    return Task("made_up", 1, "classifier", "", "", recipes, next(iter(recipes)), {}, "none")


def recipe(sha256: str, *more: PackSource) -> PackRecipe:
    return PackRecipe((PackSource("fever", "claims.jsonl", sha256), *more), "CC0", FRACTIONS)


def test_a_recipe_becomes_its_pack(tmp_path: Path) -> None:
    (tmp_path / "claims.jsonl").write_text(FEVER_LINES)
    made = task(paper=recipe(file_sha256(tmp_path / "claims.jsonl")))
    pack = build_pack(made, "paper", tmp_path, tmp_path / "out")
    assert (pack.name, pack.lock.licence, dict(pack.lock.split)) == ("paper", "CC0", FRACTIONS)
    assert {name: each.records for name, each in pack.lock.files.items()} == {
        "train.jsonl": 20,
        "dev.jsonl": 0,
        "test.jsonl": 20,
    }
    assert verify_pack(tmp_path / "out") == pack
    shutil.move(tmp_path / "out", tmp_path / "first")
    again = build_pack(made, "paper", tmp_path, tmp_path / "out")
    names = [path.name for path in (tmp_path / "first").iterdir()]
    assert all((tmp_path / "first" / n).read_bytes() == (again.folder / n).read_bytes() for n in names)


def test_a_hub_source_that_lies_below_the_data_folder_is_read_there(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name" / "fever").mkdir(parents=True)
    row = {"id": "1", "input": "Barns are red.", "output": [{"answer": "SUPPORTS"}]}
    (tmp_path / "owner" / "name" / "fever" / "train.jsonl").write_text(json.dumps(row))
    source = PackSource("kilt_fever", "owner/name", configuration="fever", revision="0" * 40)
    pack = build_pack(task(kilt=PackRecipe((source,), "MIT")), "kilt", tmp_path, tmp_path / "out")
    (record,) = (record for records in pack.splits.values() for record in records)
    assert record.id == "fever-1"


BAD = "0" * 64
WRONG_RECIPES: list[tuple[str, PackRecipe | None, str]] = [
    ("papr", None, "no pack of the task made_up named 'papr'; did you mean 'paper'?"),
    ("paper", recipe(BAD), "{data}/claims.jsonl: found sha256 {sha}…, wanted 000000000000…"),
    (
        "paper",
        recipe("", PackSource("fever", "gone.jsonl")),
        "no file named '{data}/gone.jsonl'",
    ),
    (
        "paper",
        recipe("", PackSource("fever", "broken.jsonl")),
        "{data}/broken.jsonl:1: label: missing, wanted SUPPORTS, REFUTES or NOT ENOUGH INFO",
    ),
    (
        "paper",
        recipe("", PackSource("fver", "broken.jsonl")),
        "no format named 'fver'; did you mean 'fever'?",
    ),
]


@pytest.mark.parametrize(("name", "wrong", "text"), WRONG_RECIPES)
def test_a_recipe_that_cannot_be_built_writes_nothing(
    name: str, wrong: PackRecipe | None, text: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "claims.jsonl").write_text(FEVER_LINES)
    (data / "broken.jsonl").write_text("{}\n")
    sha = file_sha256(data / "claims.jsonl")
    made = wrong or recipe(sha)
    if not made.sources[0].sha256:
        made = replace(made, sources=(replace(made.sources[0], sha256=sha), *made.sources[1:]))
    with pytest.raises(KebenchError) as error:
        build_pack(task(paper=made), name, data, tmp_path / "out")
    assert str(error.value) == text.format(data=data, sha=sha[:12])
    assert list(tmp_path.iterdir()) == [data]


# Kept as published ----------------------------------------------------------------------------------------


def annotated(id_: str, prompt: str, **more: Any) -> str:
    row = {"id": id_, "input": prompt, "output": [{"answer": "SUPPORTS"}], "filtered_rephrases": ["Say so."]}
    return json.dumps(row | more) + "\n"


def test_the_sources_own_splits_are_kept_row_by_row(tmp_path: Path) -> None:
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    train.write_text(annotated("1", "Barns are red."))
    dev.write_text(
        annotated("2", "Barns are red.")
        + annotated("2", "Barns are blue.", prediction="REFUTES", alternatives=["SUPPORTS"], logit=-0.5)
        + annotated("3", "Barns are red.", output=[{"answer": "REFUTES"}])
    )
    pack = import_pack("decao_fever", {"train": [train], "test": [dev]}, tmp_path / "pack")
    assert [record.id for record in pack.records("train")] == ["fever-1"]
    # Pooled, the first and the third row would be one, and the fourth would contradict them.
    assert [(record.id, record.answers) for record in pack.records("test")] == [
        ("fever-2", ("SUPPORTS",)),
        ("fever-2-2", ("SUPPORTS",)),
        ("fever-3", ("REFUTES",)),
    ]
    stored = pack.records("test")[1]
    assert (stored.prediction, stored.alternatives, stored.logit) == ("REFUTES", ("SUPPORTS",), -0.5)
    assert pack.lock.split == {}
    assert [(origin.path, origin.split) for origin in pack.lock.origin] == [
        ("train.jsonl", "train"),
        ("dev.jsonl", "test"),
    ]
    assert verify_pack(tmp_path / "pack") == pack  # what crosses its splits is the source's own affair


def test_all_sources_keep_their_splits_or_none(tmp_path: Path) -> None:
    (tmp_path / "claims.jsonl").write_text(FEVER_LINES)
    kept = PackSource("fever", "claims.jsonl", split="train")
    made = task(paper=recipe(file_sha256(tmp_path / "claims.jsonl"), kept))
    with pytest.raises(BadSetting, match=r"found a split for some sources, wanted one for all or for none$"):
        build_pack(made, "paper", tmp_path, tmp_path / "out")


def test_what_was_said_of_answers_is_in_the_lock(tmp_path: Path) -> None:
    row = {
        "subject": "Port Wessel",
        "src": "In which land is Port Wessel?",
        "rephrase": "Where?",
        "alt": "Westland",
    }
    (tmp_path / "zsre.json").write_text(json.dumps([row]))
    pack = import_pack("mend_zsre", [tmp_path / "zsre.json"], tmp_path / "pack", answers_are="truth")
    assert [origin.answers_are for origin in read_pack(tmp_path / "pack").lock.origin] == ["truth"]
    assert [record.answers for records in pack.splits.values() for record in records] == [("Westland",)]
    with pytest.raises(
        BadSetting, match=r"no record is left for a pack \(1 rows whose only answer is a counterf"
    ):
        import_pack("mend_zsre", [tmp_path / "zsre.json"], tmp_path / "none", answers_are="counterfactual")


def test_a_source_without_records_makes_no_pack(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "label": "NOT ENOUGH INFO", "claim": "Barns."}')
    with pytest.raises(
        BadSetting, match=r"^a.jsonl: no record is left for a pack \(1 claims labelled NOT ENOUGH INFO\)$"
    ):
        import_pack("fever", [tmp_path / "a.jsonl"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_packs_do_without_torch_and_the_hub_client() -> None:
    code = """
import sys
import kebench.packs.build, kebench.packs.pack
from kebench.packs.formats import format_names
from importlib import import_module
for name in format_names():
    import_module(f"kebench.packs.formats.{name}")
print([name for name in ("torch", "transformers", "datasets", "pyarrow") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


# Real data, where it is ----------------------------------------------------------------------------------

DATA = SHARED / "data"
needs_shared_data = pytest.mark.skipif(
    not (DATA / "MANIFEST.json").is_file(),
    reason=f"no published files in {DATA}; set KEBENCH_SHARED",
)


def shared_task(*sources: tuple[str, str]) -> Task:
    pinned = {each["file"]: each["sha256"] for each in json.loads((DATA / "MANIFEST.json").read_text())}
    made = tuple(PackSource(format, path, pinned[path]) for format, path in sources)
    return task(pack=PackRecipe(made, "see its sources"))


def check_shared(pack: Pack, n_records: int, n_with_paraphrases: int) -> None:
    records = [record for part in pack.splits.values() for record in part]
    assert len(records) == n_records
    assert sum(bool(record.paraphrases) for record in records) == n_with_paraphrases
    assert verify_pack(pack.folder) == pack  # nothing crosses
    assert max(map(len, linked(records))) < 0.01 * n_records
    for part, fraction in {"train": 0.75, "dev": 0.05, "test": 0.2}.items():
        assert len(pack.records(part)) == pytest.approx(fraction * n_records, rel=0.02)


@pytest.mark.slow
@needs_shared_data
def test_published_fever(tmp_path: Path) -> None:
    sources = [("fever", "fever/paper_dev.jsonl"), ("fever", "fever/paper_test.jsonl")]
    made = shared_task(*sources, ("eren", "fever/eren_fever_filtered.json"))
    pack = build_pack(made, "pack", DATA, tmp_path / "fever")
    # 13,332 supported or refuted claims: 8 contradict one another, 245 repeat another's words.
    check_shared(pack, 13_079, 1_972)
    assert [each.records for each in pack.lock.origin] == [6_666, 6_666, 1_997]
    assert pack.lock.set_aside == {
        "claims labelled NOT ENOUGH INFO": 6_666,
        "claims with contradicting labels": 8,
        "repeated records, merged": 1_235,
        "statements without paraphrases": 51,
    }


@pytest.mark.slow
@needs_shared_data
def test_published_zsre(tmp_path: Path) -> None:
    recipe = load_task("zsre").packs["zsre-mend"]
    made = task(pack=replace(recipe, split=DEFAULT_SPLIT))
    check_shared(build_pack(made, "pack", DATA, tmp_path / "zsre"), 11_285, 11_181)


@needs_shared_data
@pytest.mark.parametrize(
    ("format", "path", "n"),
    [
        ("mend_zsre", "zsre/zsre_mend_train-1k.json", 1_000),
        ("mend_zsre", "zsre/zsre_mend_eval_portability_gpt4.json", 1_037),
        ("knowedit_zsre", "knowedit/ZsRE-test-all.json", 1_304),
    ],
)
def test_other_published_files_import(format: str, path: str, n: int, tmp_path: Path) -> None:
    pack = import_pack(format, [DATA / path], tmp_path / "pack")
    assert pack.lock.origin[0].records == n
    assert verify_pack(tmp_path / "pack") == pack
