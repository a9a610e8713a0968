from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from scenes import BASE, EDITS

from kebench.errors import BadFile, BadSetting
from kebench.files.json import write_json
from kebench.leaderboard import (
    add_records,
    check,
    contradictions,
    differences,
    printed,
    read_record,
    rebuild,
    record_path,
    table_text,
)
from kebench.leaderboard.escape import csv_cell, distinct_slug, markdown, slug
from kebench.leaderboard.settings import in_words
from kebench.leaderboard.spreadsheet import csv_table
from kebench.leaderboard.tables import markdown_page, markdown_table
from kebench.scoring.protocols import DECAO2021, STRICT, Protocol, protocol
from kebench.scoring.record import FORMAT, Cost, RunRecord, Setting
from kebench.scoring.scorer import Scores, score
from kebench.scoring.statistics import NO_ESTIMATE, Estimate

DASH = "\N{EN DASH}"
COST = Cost(0.1234, 0.5, 0.2, 0.6, 12.0, 1536 * 2**20)
SCORES = score(EDITS, BASE, STRICT, resamples=50)
NONE_COUNTED = replace(NO_ESTIMATE, hits=0)


def setting(rules: Protocol = STRICT, **changes: Any) -> Setting:
    defaults: dict[str, Any] = {
        "task": "zsre",
        "task_version": 1,
        "pack": "mini",
        "pack_sha256": "aa" * 32,
        "model": "bart",
        "model_fingerprint": "bb" * 32,
        "protocol": rules.to_json(),
        "targets": "alternative",
        "regime": "single",
        "retain": "sample of 5",
        "seed": 0,
        "edits": 4,
        "edits_sha256": "cc" * 32,
        "test_sha256": "cc" * 32,
        "retain_seed": 0,
    }
    return Setting(**{**defaults, **changes})


def record(
    editor: str = "mend",
    *,
    scores: Scores = SCORES,
    is_control: bool = False,
    base: Mapping[str, Any] | None = None,
    cost: Cost = COST,
    **changes: Any,
) -> RunRecord:
    return RunRecord(
        format=FORMAT,
        setting=setting(scores.protocol, **changes),
        editor=editor,
        editor_path="kebench.baselines.mend:Mend",
        editor_settings={"learning_rate": 0.5},
        is_control=is_control,
        citation="mitchell2022fast",
        scores=scores,
        base={"accuracy": 0.625} if base is None else base,
        cost=cost,
        versions={"python": "3.12"},
        hardware={"device": "cpu", "cores": 2},
    )


def by_hand(*, forced: bool = True) -> Scores:
    """Scores of two edits with round numbers and intervals; nothing is held out."""
    half = Estimate(0.5, 0.0, 1.0, 1, 2, 2, 0.35)
    whole = Estimate(1.0, 1.0, 1.0, 2, 2, 2, math.nan)
    none = Estimate(0.0, 0.0, 0.0, 0, 2, 2, math.nan)
    loss = Estimate(-1.0, -1.0, 0.0, None, 2, 2, 0.1)
    bare = Scores(
        protocol=STRICT, edits=2, failures={}, no_ops=0, edits_with_paraphrases=2, held_out_edits=0,
        values={}, seed=0, resamples=50,
    )  # fmt: skip
    return bare.with_estimates(
        no_op_share=none,
        success_rate=half,
        success_rate_teacher_forced=whole if forced else NONE_COUNTED,
        inflation_gap=half if forced else NONE_COUNTED,
        equivalence_target=Estimate(1 / 3, 0.125, 0.99999, None, 3, 2, 0.2),
        equivalence_own=Estimate(2 / 3, 0.125, 0.99999, None, 3, 2, 0.2),
        equivalence_seen_wordings=NO_ESTIMATE,
        equivalence_held_out_wordings=NO_ESTIMATE,
        held_out_success_rate=NONE_COUNTED,
        held_out_equivalence=NO_ESTIMATE,
        held_out_retain_accuracy=NO_ESTIMATE,
        retain_accuracy=replace(whole, hits=None),
        retain_accuracy_gold=replace(half, hits=None),
        accuracy_before=Estimate(0.5, 0.5, 0.5, 1, 2, 2, 0.0),
        accuracy_after=Estimate(1.0, 0.5, 1.0, None, 2, 2, 0.05),
        performance_deterioration=loss,
        performance_deterioration_elsewhere=replace(loss, value=-0.5),
    )


def held_out_by_hand() -> Scores:
    """The same where a wording of the first edit, and the second edit, are held out."""
    return replace(by_hand(), held_out_edits=1).with_estimates(
        equivalence_target=Estimate(0.5, 0.5, 0.5, None, 10, 2, 0.1),
        equivalence_seen_wordings=Estimate(0.25, 0.25, 0.25, None, 4, 1, 0.1),
        equivalence_held_out_wordings=Estimate(0.75, 0.75, 0.75, None, 4, 1, 0.1),
        held_out_success_rate=Estimate(0.0, 0.0, 0.0, 0, 1, 1, math.nan),
        held_out_equivalence=Estimate(0.5, 0.5, 0.5, None, 2, 1, 0.1),
        held_out_retain_accuracy=Estimate(1.0, 1.0, 1.0, None, 1, 1, 0.1),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two editors and a control in one setting, one editor in another; tables made."""
    path = tmp_path_factory.mktemp("made") / "leaderboards"
    records = [record("mend"), record("rome"), record("oracle", is_control=True), record("mend", seed=1)]
    add_records(path, records)
    rebuild(path)
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "leaderboards"))


def tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".md", ".csv"))


# --- records


def test_a_record_stands_under_its_task_and_setting_and_editor(tmp_path: Path) -> None:
    mend = record("mend")
    (path,) = add_records(tmp_path, [mend])
    assert path == tmp_path / "zsre" / "records" / f"bart--mini--strict--{mend.setting.key}--mend.json"
    assert read_record(path) == mend
    assert record_path(tmp_path, mend) == path


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    add_records(tmp_path, [record("mend")])
    again = record("mend", cost=replace(COST, prepare_seconds=1.0))
    (path,) = add_records(tmp_path, [again])
    assert [read_record(each) for each in (tmp_path / "zsre" / "records").iterdir()] == [again]
    assert path.is_file()


def test_a_row_of_other_settings_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    def mend(**settings: Any) -> RunRecord:
        return replace(record("mend"), editor_settings=settings)

    there, comes = mend(learning_rate=0.5, steps=3), mend(learning_rate=0.1, steps=3)
    (path,) = add_records(tmp_path, [there])
    with pytest.raises(BadSetting) as error:
        add_records(tmp_path, [record("rome"), comes])
    assert str(error.value) == (
        f"{path}: mend is there with learning_rate 0.5, and comes with learning_rate 0.1; replace it with "
        "--replace, or give the editor another name"
    )
    assert list(path.parent.iterdir()) == [path]
    assert read_record(path) == there
    add_records(tmp_path, [comes], replace=True)
    assert read_record(path) == comes
    with pytest.raises(BadSetting, match=r"there with learning_rate 0\.1, steps 3, and comes with learning_"):
        add_records(tmp_path, [mend(learning_rate=0.2)])
    with pytest.raises(BadSetting, match=r"there with class kebench\.baselines\.mend:Mend, and comes with "):
        add_records(tmp_path, [replace(comes, editor_path="other:Mend")])


def test_two_records_of_one_name_are_told_apart_before_either_is_stored(tmp_path: Path) -> None:
    other = replace(record("mend"), editor_settings={"learning_rate": 0.1})
    with pytest.raises(BadSetting, match=r"there with learning_rate 0\.5, and comes with learning_rate 0\.1"):
        add_records(tmp_path / "new", [record("mend"), other])
    assert not (tmp_path / "new").exists()


def test_a_row_of_an_older_format_is_known_by_its_settings(tmp_path: Path) -> None:
    (path,) = add_records(tmp_path, [record("mend")])
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}), encoding="utf-8")
    add_records(tmp_path, [record("mend")])
    assert read_record(path) == record("mend")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(BadFile, match="not a run record"):
        add_records(tmp_path, [record("mend")])


def test_records_are_added_from_files(tmp_path: Path) -> None:
    record("mend").write(tmp_path / "run" / "record.json")
    (path,) = add_records(tmp_path / "leaderboards", [tmp_path / "run" / "record.json"])
    assert read_record(path) == record("mend")


def test_nothing_is_stored_where_one_record_is_wrong(tmp_path: Path) -> None:
    wrong = record("rome", scores=replace(SCORES, no_ops=2))
    with pytest.raises(BadFile, match=r"record of rome: no_ops and no_op_share\.hits differ: 2 and 1"):
        add_records(tmp_path / "leaderboards", [record("mend"), wrong])
    assert not (tmp_path / "leaderboards").exists()


@pytest.mark.parametrize(
    "broken",
    [
        record(cost=replace(COST, prepare_seconds=math.nan)),
        record(cost=replace(COST, prepare_seconds=-1.0)),
        record("half a \ud800 character"),
        record(task_version="one"),
    ],
    ids=["nan", "negative", "surrogate", "type"],
)
def test_what_cannot_be_a_record_is_refused(tmp_path: Path, broken: RunRecord) -> None:
    with pytest.raises(BadFile):
        add_records(tmp_path, [broken])


@pytest.mark.parametrize(
    "editor", ["../../../evil", "MEND", "mend", "a b", "a/b", "", "..", "me--nd", "x" * 300]
)
def test_file_names_stay_inside_and_apart(tmp_path: Path, editor: str) -> None:
    others = ["mend", "a-b", "unnamed", "evil", "me-nd"]
    path = record_path(tmp_path, record(editor, task=f"../{editor}"))
    assert path.parent.parent.parent == tmp_path
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(path.name) < 255
    name = distinct_slug(editor)
    assert all(name.lower() != distinct_slug(other).lower() for other in others if other != editor)


def test_slugs_keep_their_parts_apart() -> None:
    assert slug("facebook/bart--base") == "facebook-bart-base"
    assert distinct_slug("knowledge_editor") == "knowledge_editor"


OLD = Path(__file__).parents[1] / "samples" / "format_2"
"""A record of format 2 and its tables: as kebench made them before format 3, but for the column Tuned."""


def test_records_of_format_2_are_shown_as_they_were() -> None:
    assert check(OLD) == []


def test_scores_of_two_versions_never_share_a_table(tmp_path: Path) -> None:
    (path,) = (OLD / "zsre" / "records").iterdir()
    old = read_record(path)
    assert old.scores.protocol.scoring == 1
    assert old.scores.retain_accuracy.hits == 8
    add_records(tmp_path, [old, record("mend", retain_seed=None)])
    rebuild(tmp_path)
    assert check(tmp_path) == []
    assert len([path for path in tables(tmp_path) if path.suffix == ".csv"]) == 2
    page = (tmp_path / "zsre" / "README.md").read_text()
    assert page.count("apart by protocol.scoring\n") == 2
    for of_version in (
        "percentile bootstrap over edits, 50 resamples",
        "bootstrap over facts, each with all",
    ):
        assert page.count(of_version) == 1


# --- settings


CHANGES: dict[str, Any] = {
    "task": "fever",
    "task_version": 2,
    "pack": "full",
    "pack_sha256": "dd" * 32,
    "model": "t5",
    "model_fingerprint": "dd" * 32,
    "protocol": DECAO2021.to_json(),
    "targets": "gold",
    "regime": "batch",
    "retain": "exact",
    "seed": 1,
    "ask_after": (2,),
    "edits": 5,
    "edits_sha256": "dd" * 32,
    "test_sha256": "dd" * 32,
    "precision": 0.5,
    "split": "dev",
    "retain_seed": 1,
    "edit_timeout": 5.0,
}


def precise(precision: float, n_edits: int = 4, **changes: Any) -> RunRecord:
    """A record of the scene's four edits, where there could have been more."""
    rule = setting(precision=precision, edits=n_edits).stopping
    return record(
        scores=score(EDITS, BASE, STRICT, resamples=50, stopping=rule), precision=precision, edits=n_edits,
        **changes,
    )  # fmt: skip


def test_a_precision_is_told_and_whether_it_was_reached() -> None:
    missed = precise(1)
    retain = missed.scores.retain_accuracy
    assert (retain.low, retain.high) == (0, 1)  # four edits tell next to nothing
    note = "Precision not reached after all 4 edits: mend (± 50.00)."
    for text in (markdown_table([missed]), table_text([missed])):
        assert note in text
        assert "edits until retain is known to ± 1 points, 4 at most" in " ".join(text.split())
    assert "of retain accuracy a confidence sequence" in markdown_table([missed])
    assert "precision" not in csv_table([record()]).splitlines()[0]
    (row,) = csv.DictReader(csv_table([missed]).splitlines())
    assert (row["precision"], row["edits"]) == ("1", "4")
    assert "not reached" not in markdown_table([record()])


def test_stopping_without_reason_is_a_contradiction(tmp_path: Path) -> None:
    assert contradictions(precise(1)) == []
    assert contradictions(precise(1, 9)) == [
        "edits: stopped after 4 of 9 without the precision of the setting"
    ]
    assert contradictions(precise(1, 3)) == ["edits: found 4, of 3 at most"]
    add_records(tmp_path, [precise(1), record()])
    rebuild(tmp_path)
    assert check(tmp_path) == []


def test_only_the_score_that_stops_a_run_has_its_interval() -> None:
    fixed, stopped = record().scores, precise(1).scores
    same = replace(stopped, interval=fixed.interval).with_estimates(retain_accuracy=fixed.retain_accuracy)
    assert same.to_json() == fixed.to_json()
    one, other = (
        replace(each.retain_accuracy, low=0, high=0, standard_error=None) for each in (stopped, fixed)
    )
    assert one == other


def test_every_field_of_a_setting_is_tried() -> None:
    assert set(CHANGES) == {field.name for field in fields(Setting)}


def other_in(name: str) -> RunRecord:
    """A record of an editor called `other`, whose setting differs in one field."""
    if name == "protocol":
        return record("other", scores=score(EDITS, BASE, DECAO2021, resamples=50))
    if name == "edits":
        fifth = replace(EDITS[0], id="q2", fact="A")
        return record("other", scores=score([*EDITS, fifth], BASE, STRICT, resamples=50), edits=5)
    return record("other", **{name: CHANGES[name]})


@pytest.mark.parametrize("name", CHANGES)
def test_two_settings_never_share_a_table(tmp_path: Path, name: str) -> None:
    add_records(tmp_path, [record("mend"), other_in(name)])
    made = [path for path in rebuild(tmp_path) if path.suffix == ".csv"]
    editors = [[row["editor"] for row in csv.DictReader(path.read_text().splitlines())] for path in made]
    assert sorted(editors) == [["mend"], ["other"]]
    for path in made:
        shown = path.with_suffix(".md").read_text()
        assert ("| mend" in shown) != ("| other" in shown)
    assert check(tmp_path) == []


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "protocol"])
def test_differences_name_the_field(name: str) -> None:
    assert differences(setting(), setting(**{name: CHANGES[name]})) == [name]


def test_differences_name_the_field_of_the_protocol() -> None:
    beams = {**STRICT.to_json(), "beams": 5}
    assert differences(setting(), setting(protocol=beams, seed=3)) == ["seed", "protocol.beams"]
    assert differences(setting(protocol={}), setting(protocol={"new": None})) == ["protocol.new"]
    assert differences(setting(), setting()) == []


def test_tables_of_the_same_name_carry_their_key(folder: Path) -> None:
    keys = sorted(setting(seed=seed).key for seed in (0, 1))
    names = [path.name for path in tables(folder) if path.suffix == ".csv"]
    assert names == [f"bart--mini--strict--{key}.csv" for key in keys]
    page = (folder / "zsre" / "README.md").read_text()
    assert page.count("- Not to be compared with the tables of the same name: apart by seed\n") == 2


def test_names_that_differ_in_case_only_carry_their_key(tmp_path: Path) -> None:
    add_records(tmp_path, [record("mend", model="BART"), record("mend", model="bart")])
    names = [path.name.lower() for path in rebuild(tmp_path)]
    assert len(set(names)) == len(names) == 5


EARLIER_DECAO2021 = Protocol.from_json(
    {**DECAO2021.to_json(), "base_answers": "own", "left_out_of_success": "no_ops", "retain_over": "all"}
)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (STRICT, "with the target;"),
        (STRICT, "every question about its fact"),
        (STRICT, "free greedy decoding"),
        (DECAO2021, "with the edited model's own answer to the prompt;"),
        (DECAO2021, "the edited record only"),
        (DECAO2021, "again are kept"),
        (DECAO2021, "free decoding with 5 beams"),
        (DECAO2021, "equivalence and retain compared as raw strings"),
        (DECAO2021, "retain questions are those that could be edited themselves"),
        (DECAO2021, "edits that ask for what the base model says already count too"),
        (DECAO2021, "they are taken as they are; docs/decao2021.md says what is not as in that code"),
        (EARLIER_DECAO2021, "an earlier reading of that code: docs/decao2021.md says what was not as in it"),
        (protocol("strict", labels=True), "nothing is decoded; answers are compared as labels"),
    ],
)
def test_protocols_in_words(rules: Protocol, said: str) -> None:
    assert said in in_words(rules)


# --- tables


GOLDEN_HEAD = """\
<!-- Made by `kebench leaderboard` from records/. Changes here are lost. -->

# zsre version 1: bart on mini, strict protocol

- Pack: mini, sha256 aaaaaaaaaaaa
- Model: bart, sha256 bbbbbbbbbbbb
- Protocol: strict: equivalence compares the answer to each paraphrase with the target; paraphrases that are \
the prompt again are left out; left out of the retain questions: the edited record, every question about its \
fact, and every one worded like the prompt or a paraphrase of it; free greedy decoding; answers are compared \
once case, articles, punctuation and spacing are normalised
- Edits: 2; no-ops: 0; with paraphrases: 2; sha256 cccccccccccc
- Targets: alternative
- Regime: single, every edit starts from the base model
- Retain: sample of 5
- Seed: 0 (of the retain samples: 0)
- Base model: accuracy 62.50 %; paraphrases set aside 7
- Scores: version 2, defined in docs/scores.md
- Setting: KEY

"""

GOLDEN_ROWS = [
    ["Editor", "mend", "**Controls**", "Ask (control)"],
    ["Tuned", "no", "", DASH],
    ["Success", "50.00 [0.00, 100.00]", "", "50.00 [0.00, 100.00]"],
    ["Teacher-forced success", "100.00 [100.00, 100.00]", "", DASH],
    ["Inflation gap", "50.00 [0.00, 100.00]", "", DASH],
    ["Equivalence (target)", "33.33 [12.50, 100.00]", "", "33.33 [12.50, 100.00]"],
    ["Other equivalence (own answer)", "66.67 [12.50, 100.00]", "", "66.67 [12.50, 100.00]"],
    ["Retain", "100.00 [100.00, 100.00]", "", "100.00 [100.00, 100.00]"],
    ["Retain vs gold", "50.00 [0.00, 100.00]", "", "50.00 [0.00, 100.00]"],
    ["Performance deterioration", "-100.00 [-100.00, 0.00]", "", "-100.00 [-100.00, 0.00]"],
    # 2.80159 · 0.1
    ["Smallest detectable deterioration", "28.02", "", "28.02"],
    ["Deterioration elsewhere", "-50.00 [-100.00, 0.00]", "", "-50.00 [-100.00, 0.00]"],
    ["No-ops", "0", "", "0"],
    ["Failures", "0", "", "0"],
    ["Edits", "2", "", "2"],
    ["Seconds per edit", "0.123", "", "0.123"],
    ["Peak memory", "1.50 GiB", "", "1.50 GiB"],
]
"""The table's columns."""

GOLDEN_FOOT = f"""
Tuned: no row's settings were chosen by `kebench tune` on this pack with this model. The rows may have been \
tuned unequally, so this table ranks no editor.

Scores, gap and deterioration are in percent, `value [low, high]`; the seconds are the median over edits; \
{DASH} stands where nothing was measured. Success leaves no-ops out; failed edits count as wrong everywhere.

Intervals: 95 %, percentile bootstrap over facts, each with all its edits, 50 resamples, seed 0. Where all \
facts scored the same, resampling gives no width; there the interval supposes that of n facts a share of \
0.05^(1/n) scores so, the least at 95 % confidence, and the others anything. A deterioration below the \
smallest detectable one, 2.8 standard errors of the bootstrap, is more often missed than one time in five \
(two-sided at 95 %); a dash there says that the standard error is unknown. Deterioration is over the whole \
test set and counts the change that was asked for; elsewhere, it is over the retain questions.

Rows stand by the editor's name, which ranks nothing; controls, whose score is known beforehand, stand \
below. Tables are made from `records/` by `kebench leaderboard`, and `kebench leaderboard --check` says \
whether they still agree.
"""


def test_a_small_table_as_it_is_written() -> None:
    records = [
        record("mend", scores=by_hand(), edits=2, base={"accuracy": 0.625, "paraphrases_set_aside": 7}),
        record("Ask", scores=by_hand(forced=False), edits=2, is_control=True, base={"accuracy": 0.625}),
    ]
    lines = markdown_table(records).splitlines(keepends=True)
    table = [line for line in lines if line.startswith("|")]
    start = lines.index(table[0])
    assert "".join(lines[:start]) == GOLDEN_HEAD.replace("KEY", records[0].setting.key)
    assert "".join(lines[start + len(table) :]) == GOLDEN_FOOT
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table]
    assert set("".join(rows.pop(1))) == {":", "-"}
    assert [list(column) for column in zip(*rows, strict=True)] == GOLDEN_ROWS
    assert len({len(line) for line in table}) == 1


def test_what_cannot_be_edited_is_said_in_words() -> None:
    base = {
        "test_questions": 2257,
        "editable": 1090,
        "set_aside": {"no alternative answer": 6, "no paraphrase the base model agrees on": 1161},
        "gold_answers": {"mend_zsre": "answers, else alt, taken as truth"},
    }
    table = markdown_table([record(base=base)])
    assert (
        "- Can be edited: 1090 of 2257 questions; of the others, 6 have no other answer that could be "
        "asked for, 1161 have no paraphrase that the base model answers alike\n"
    ) in table
    assert "gold answers: mend zsre answers, else alt, taken as truth" in table
    assert "Can be edited" not in markdown_table([record()])


HELD_OUT_ROWS = [
    ["Editor", "mend", "**Controls**", "Ask (control)"],
    ["Equivalence, seen wordings", "25.00 [25.00, 25.00]", "", DASH],
    ["Equivalence, held-out wordings", "75.00 [75.00, 75.00]", "", DASH],
    ["Held-out relations: edits", "1", "", "0"],
    ["their success", "0.00 [0.00, 0.00]", "", DASH],
    ["their equivalence", "50.00 [50.00, 50.00]", "", DASH],
    ["their retain", "100.00 [100.00, 100.00]", "", DASH],
]
"""The second table's columns."""


def test_what_is_held_out_has_a_table_of_its_own() -> None:
    records = [
        record("mend", scores=held_out_by_hand(), edits=2),
        record("Ask", scores=by_hand(), edits=2, is_control=True),
    ]
    _, _, after = markdown_table(records).partition("What no editor was trained on: ")
    told, table, foot, *_ = after.split("\n\n")
    assert "of the edits whose relation is in training" in told
    assert "are part of the table above too" in told
    assert "every equivalence here compares with the target" in told
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    del rows[1]
    assert [list(column) for column in zip(*rows, strict=True)] == HELD_OUT_ROWS
    assert foot.startswith("Scores, gap and deterioration")


@pytest.mark.parametrize(
    "scores",
    [
        replace(held_out_by_hand(), held_out_edits=0),
        held_out_by_hand().with_estimates(equivalence_held_out_wordings=NO_ESTIMATE),
    ],
    ids=["wordings", "relations"],
)
def test_either_will_do_for_a_second_table(scores: Scores) -> None:
    one = record(scores=scores, edits=2)
    for text in (markdown_table([one]), markdown_page([one]), table_text([one])):
        assert text.count("What no editor was trained on") == 1


def test_where_nothing_is_held_out_there_is_no_second_table() -> None:
    one = record(scores=by_hand(), edits=2)
    for text in (markdown_table([one]), markdown_page([one]), table_text([one])):
        assert "What no editor was trained on" not in text
        assert text.count("mend") == 1


GOLDEN_TEXT = f"""
What no editor was trained on: held-out wordings of paraphrases (like seen wordings, of the edits
whose relation is in training), and held-out relations, whose edits are part of the table above too;
every equivalence here compares with the target. Edits of held-out relations: 1.

editor       equivalence,    equivalence,     success,    equivalence,          retain,
                     seen        held-out     held-out        held-out         held-out
                 wordings        wordings    relations       relations        relations
---------  --------------  --------------  -----------  --------------  ---------------
mend                25.00           75.00         0.00           50.00           100.00
            [25.00,25.00]   [75.00,75.00]  [0.00,0.00]   [50.00,50.00]  [100.00,100.00]
controls:
Ask                     {DASH}           75.00         0.00           50.00           100.00
                            [75.00,75.00]  [0.00,0.00]   [50.00,50.00]  [100.00,100.00]
"""


def test_what_is_held_out_as_it_is_printed() -> None:
    no_seen = held_out_by_hand().with_estimates(equivalence_seen_wordings=NO_ESTIMATE)
    records = [
        record("mend", scores=held_out_by_hand(), edits=2),
        record("Ask", scores=no_seen, edits=2, is_control=True),
    ]
    assert table_text(records).endswith(f"\n{GOLDEN_TEXT}")


def test_rows_stand_by_name_and_controls_below() -> None:
    records = [record("a_control", is_control=True), record("rome"), record("Alpha"), record("mend")]
    text = markdown_table(records)
    places = [text.index(f"\n| {name} ") for name in ("Alpha", "mend", "rome", "**Controls**")]
    places.append(text.index("\n| a_control (control) "))
    assert places == sorted(places)
    above, below = (
        [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| ")]
        for part in text.split("What no editor was trained on")
    )
    assert above == below
    assert markdown_table(records[::-1]) == text
    rows = csv.DictReader(csv_table(records).splitlines())
    assert [row["editor"] for row in rows] == ["Alpha", "mend", "rome", "a_control"]
    plain = table_text(records)
    assert plain.index("\nrome") < plain.index("\ncontrols:") < plain.index("\na_control")


def test_the_protocol_names_the_headline_equivalence() -> None:
    text = markdown_table([record(scores=score(EDITS, BASE, DECAO2021, resamples=50))])
    heads, row = (
        [cell.strip() for cell in line.split("|")]
        for line in text.partition("What no editor")[0].splitlines()
        if line.startswith(("| Editor", "| mend"))
    )
    assert heads[6:8] == ["Equivalence (own answer)", "Other equivalence (target)"]
    # 4/9 and 1/9, see scenes.py
    assert [cell.split()[0] for cell in row[6:8]] == ["44.44", "11.11"]


def test_failed_edits_are_itemised() -> None:
    assert "\n- mend: out of memory: 1\n" in markdown_table([record()])


def test_the_page_shows_every_table(folder: Path) -> None:
    page = (folder / "zsre" / "README.md").read_text()
    for path in tables(folder):
        if path.name != "README.md":
            assert f"]({path.name})" in page
    table = next(path for path in tables(folder) if path.suffix == ".md" and path.name != "README.md")
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert all(row in page for row in rows)


def test_base_facts_on_which_rows_disagree_are_given_for_each() -> None:
    base = {"accuracy": 0.5, "prompts": {"asked": 8, "margin_nats": 0.25}, "note": None}
    same = markdown_table([record("mend", base=base), record("rome", base=base)])
    assert (
        "- Base model: accuracy 50.00 %; prompts: asked 8; prompts: margin nats 0.25; note &#8211;\n" in same
    )
    apart = markdown_table([record("mend", base={"accuracy": 0.5}), record("rome", base={"accuracy": 0.51})])
    assert "- Base model: accuracy 50.00 % (mend), 51.00 % (rome)\n" in apart


def test_csv_has_everything_as_measured() -> None:
    text = csv_table([record("mend", scores=by_hand(forced=False), edits=2)])
    (row,) = csv.DictReader(text.splitlines())
    assert float(row["equivalence_accuracy"]) == 1 / 3
    assert float(row["equivalence_target_high"]) == 0.99999
    assert (row["success_rate_hits"], row["success_rate_total"]) == ("1", "2")
    assert row["equivalence_target_total"] == "3"
    assert "equivalence_target_hits" not in row  # 1/3 is not 1 of 3 where edits differ in paraphrases
    assert (row["performance_deterioration_standard_error"], row["scoring"]) == ("0.1", "2")
    assert row["performance_deterioration_elsewhere"] == "-0.5"
    assert row["success_rate_teacher_forced"] == row["inflation_gap_low"] == ""
    assert row["performance_deterioration"] == "-1.0"
    assert (row["held_out_edits"], row["held_out_equivalence"]) == ("0", "")
    assert "held_out" not in row["failures_by_reason"]
    assert "\r" not in text


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0.0, "0.00"),
        (-0.000001, "0.00"),
        (2 / 3, "66.67"),
        (0.99999, "100.00"),
        (1.0, "100.00"),
        (-0.5, "-50.00"),
        (math.nan, DASH),
    ],
)
def test_percent(fraction: float, shown: str) -> None:
    assert printed.percent(fraction) == shown


def test_nothing_measured_is_a_dash() -> None:
    assert printed.with_interval(NO_ESTIMATE) == DASH
    assert printed.seconds(math.nan) == DASH


@pytest.mark.parametrize(("n_bytes", "shown"), [(0, "0.0 MiB"), (1 << 20, "1.0 MiB"), (3 << 29, "1.50 GiB")])
def test_memory(n_bytes: int, shown: str) -> None:
    assert printed.memory(n_bytes) == shown


def test_text_fits_a_terminal() -> None:
    text = table_text([record("constrained_fine_tuning"), record("mend", seed=1)])
    assert max(map(len, text.splitlines())) <= 100
    assert "\nconstrained_fine_tuning  " in text
    assert "· 1 failed, 0.123 s/edit" in text
    assert text.count("zsre version 1") == 2


@pytest.mark.parametrize("failures", [{}, {"out of memory": 12}], ids=["no failure", "failures"])
def test_text_fits_a_terminal_whatever_the_names_and_intervals(failures: dict[str, int]) -> None:
    widest = Estimate(1.0, 1.0, 1.0, 2, 2, 2)
    scores = replace(held_out_by_hand(), failures=failures)
    wide = scores.with_estimates(**dict.fromkeys(scores.estimates(), widest))
    name = "knowledge_editor_paraphrases_loop"
    text = table_text([record(name, scores=wide, edits=2), record("mend", scores=wide, edits=2)])
    assert max(map(len, text.splitlines())) <= 100
    assert text.count(f"\n{name}\n") == 2  # on a line of its own
    assert text.count("\nmend  ") == 2
    assert "\n\n\n" not in text


# --- escaping


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("[x](y) `z` *w* ~v~", r"\[x\](y) \`z\` \*w\* \~v\~"),
        ("fine_tuning", "fine_tuning"),
        ("_em_ __x__", r"\_em\_ \_\_x\_\_"),
        ("two\nlines\u2028\x1b[31m", r"two lines \[31m"),
        ("http://x www.x.org me@x", "http&#58;//x www&#46;x.org me&#64;x"),
        ("\u202eé\ud800", "&#233;"),
    ],
)
def test_markdown_only_shows(text: str, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("=1+1", "'=1+1"), ("+x", "'+x"), ("-x", "'-x"), (" @x", "'@x"), ("\t=x", "'=x"), ("a=b", "a=b")],
)
def test_csv_computes_nothing(text: str, shown: str) -> None:
    assert csv_cell(text) == shown


def test_names_of_a_stranger_stay_in_their_cell(tmp_path: Path) -> None:
    nasty = 'x|</td>\n# Title "q",=1'
    add_records(tmp_path, [record(nasty, task=nasty, model=nasty, pack=nasty, base={nasty: nasty})])
    rebuild(tmp_path)
    assert check(tmp_path) == []
    page = next(tmp_path.glob("*/README.md")).read_text()
    assert "<" not in page.removeprefix("<!--")
    assert [line for line in page.splitlines() if line.startswith("# Title")] == []
    assert "\n| x\\|&lt;/td&gt; # Title " in page
    (row,) = csv.DictReader(next(tmp_path.glob("*/*.csv")).read_text().splitlines())
    assert row["editor"] == 'x|</td> # Title "q",=1'
    assert "\x1b" not in table_text([record("\x1b[2J")])


# --- check


def test_what_was_rebuilt_is_right_and_stays_the_same(folder: Path) -> None:
    assert check(folder) == []
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert rebuild(folder) == tables(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("which", range(5))
def test_a_changed_byte_is_found(folder: Path, which: int) -> None:
    path = tables(folder)[which]
    text = path.read_bytes()
    path.write_bytes(text[:-2] + b"#" + text[-1:])
    (line,) = check(folder)
    n_lines = text.count(b"\n")
    assert line == f"{path}:{n_lines}: not what its records give; `kebench leaderboard` makes it anew"


def test_a_changed_number_is_found_and_mended(folder: Path) -> None:
    path = tables(folder)[1]
    path.write_text(path.read_text().replace("0.3333333333333333", "0.9333333333333333", 1))
    assert [line.partition(":")[0] for line in check(folder)] == [str(path)]
    rebuild(folder)
    assert check(folder) == []


def test_a_deleted_table_is_found(folder: Path) -> None:
    path = tables(folder)[2]
    path.unlink()
    assert check(folder) == [f"{path}: missing; `kebench leaderboard` makes it"]


def test_a_table_without_records_is_found_and_removed(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        if setting(seed=1).key in path.name:
            path.unlink()
    left = [path for path in tables(folder) if setting(seed=1).key in path.name]
    assert {line for line in check(folder) if "no record stands" in line} == {
        f"{path}: no record stands behind it; `kebench leaderboard` removes it"
        for path in tables(folder)
        if path.name != "README.md"  # the table that is left is now alone, and needs no key in its name
    }
    rebuild(folder)
    assert check(folder) == []
    assert not any(path.exists() for path in left)


def test_tables_of_a_task_without_any_record_are_removed(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        path.unlink()
    assert len(check(folder)) == 5
    assert rebuild(folder) == []
    assert tables(folder) == []


def test_a_file_by_hand_is_found_and_kept(folder: Path) -> None:
    path = folder / "zsre" / "notes.md"
    path.write_text("Mine.\n")
    rebuild(folder)
    assert check(folder) == [f"{path}: no record stands behind it; remove it"]
    (folder / "README.md").write_text("Not in a task's folder.\n")
    assert len(check(folder)) == 1


def edited(change: Callable[[dict[str, Any]], None], folder: Path) -> list[str]:
    """What `check` says once one record is changed on disk."""
    path = record_path(folder, record("mend"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    lines = check(folder)
    assert lines[0].startswith(f"{path}: ")
    with pytest.raises(BadFile):
        rebuild(folder)
    return [line.removeprefix(f"{path}: ") for line in lines]


PARTS = "seen wordings, held-out wordings and held-out relations"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("scores.success_rate.hits", 4, "success_rate: 4 hits of 3"),
        ("scores.success_rate.value", 0.9, "success_rate: value 0.9 is not 1 / 3"),
        ("scores.retain_accuracy.high", 1.5, "is not within [0, 1]"),
        ("scores.retain_accuracy.low", 0.9, "is not within [0.9, "),
        ("scores.retain_accuracy.value", None, "retain_accuracy: value nan of 13 answers"),
        ("scores.retain_accuracy.edits", 5, "retain_accuracy: over 5 of 4 edits"),
        ("scores.retain_accuracy.hits", 13, "retain_accuracy.hits: found 13"),
        ("scores.accuracy_before.hits", 8, "value 0.75 with 8 hits of 8"),
        ("scores.accuracy_after.value", 0.45, "performance_deterioration: value 0.375"),
        ("scores.performance_deterioration.total", 7, "performance_deterioration: total is not 15"),
        ("scores.performance_deterioration_elsewhere.high", 0.1, "0.1]"),
        ("scores.protocol.scoring", 1, "format 3: found scoring version 1"),
        ("scores.failures", {"out of memory": 5}, "failures: found"),
        ("scores.no_ops", 0, "no_ops and no_op_share.hits differ: 0 and 1"),
        ("scores.protocol.beams", 5, "setting.protocol and scores.protocol differ"),
        ("scores.protocol.beams", "many", "scores.protocol.beams: found 'many', wanted"),
        ("setting.edits", 5, "setting.edits and scores.edits differ: 5 and 4"),
        ("setting.seed", 9, "by its content it should be zsre"),
        ("editor", "rome", "by its content it should be zsre"),
        ("cost.peak_memory_bytes", -1, "cost.peak_memory_bytes: found -1"),
        ("scores.retain_accuracy.edits", 3.5, "holds something that a record does not"),
        ("scores.retain_accuracy.note", "!", "holds something that a record does not"),
        ("format", 99, "found format 99, wanted 2 or 3"),
        ("scores.held_out_edits", 5, "held_out_edits: found 5 of 4 edits"),
        ("scores.held_out_edits", 1, "held_out_retain_accuracy: over 2 of 1 edits"),
        ("scores.held_out_edits", 4, "held_out_success_rate: all edits are held out, but it is not"),
        ("scores.held_out_success_rate.value", 0.9, "held_out_success_rate: value 0.9 is not 0 / 1"),
        ("scores.held_out_equivalence.total", 2, f"4 answers, but {PARTS} have 5"),
        ("scores.held_out_equivalence.edits", 2, f"over 3 edits, but {PARTS} over 2, 1 and 2"),
        ("scores.held_out_retain_accuracy.total", 14, "14 answers, but retain_accuracy has 13"),
        ("scores.equivalence_seen_wordings.total", 3, f"4 answers, but {PARTS} have 5"),
        ("scores.equivalence_seen_wordings.edits", 0, f"over 3 edits, but {PARTS} over 0, 1 and 1"),
        ("scores.equivalence_held_out_wordings.edits", 3, f"over 3 edits, but {PARTS} over 2, 3 and 1"),
        ("scores.equivalence_held_out_wordings.value", None, "value nan of 1 answers"),
        ("scores.retain_accuracy.hits", math.inf, "not a run record (OverflowError)"),
    ],
)
def test_a_record_that_contradicts_itself_is_found(folder: Path, place: str, value: Any, said: str) -> None:
    *above, last = place.split(".")

    def change(content: dict[str, Any]) -> None:
        for name in above:
            content = content[name]
        content[last] = value

    assert said in edited(change, folder)[0]


def test_a_plausible_change_of_a_record_shows_in_the_tables(folder: Path) -> None:
    path = record_path(folder, record("mend"))
    path.write_text(path.read_text().replace('"edit_seconds_p50": 0.1234', '"edit_seconds_p50": 0.0001'))
    assert len(check(folder)) == 3
    rebuild(folder)
    assert check(folder) == []


def test_a_record_in_another_place_is_found(folder: Path) -> None:
    path = record_path(folder, record("rome"))
    (folder / "fever" / "records").mkdir(parents=True)
    path.rename(folder / "fever" / "records" / path.name)
    assert f"by its content it should be zsre/records/{path.name}" in check(folder)[0]


def test_what_is_no_record_is_found(folder: Path) -> None:
    path = folder / "zsre" / "records" / "broken.json"
    path.write_text("[")
    assert check(folder)[0].startswith(f"{path}: not a run record")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    for verb in (check, rebuild):
        with pytest.raises(BadFile, match="no such folder"):
            verb(tmp_path / "nowhere")


@pytest.mark.parametrize("rules", [STRICT, DECAO2021], ids=lambda rules: rules.name)
@pytest.mark.parametrize("n_edits", range(5))
def test_what_was_scored_never_contradicts_itself(rules: Protocol, n_edits: int) -> None:
    scores = score(EDITS[:n_edits], BASE, rules, resamples=50)
    one = record(scores=scores, edits=n_edits)
    assert contradictions(one) == []
    assert markdown_page([one])
    assert table_text([one])


def test_scores_by_hand_where_something_is_held_out_agree_too() -> None:
    assert contradictions(record(scores=held_out_by_hand(), edits=2)) == []


def test_needs_no_torch() -> None:
    code = "import sys, kebench.leaderboard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Many records ----------------------------------------------------------------------------------------


def calls_of_a_check(folder: Path, n_settings: int) -> int:
    """How many functions are called to check a folder with that many settings of one name."""
    add_records(folder, [record("mend", seed=seed) for seed in range(n_settings)])
    rebuild(folder)
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        assert check(folder) == []
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_grows_linearly_with_the_settings(tmp_path: Path) -> None:
    calls_of_a_check(tmp_path / "warm", 1)
    few, many = calls_of_a_check(tmp_path / "few", 6), calls_of_a_check(tmp_path / "many", 24)
    assert many < 4.4 * few


# A full disk, and a field that is changed --------------------------------------------------------------


def test_a_full_disk_stores_no_record_and_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(name) for name in ("a", "b", "c")]
    done: list[int] = []
    folder, plain = tmp_path / "boards", os.fsync
    add_records(folder, records[:1])
    rebuild(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) == 2:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        add_records(folder, records)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    add_records(folder, records)
    done.clear()
    with pytest.raises(OSError, match="No space left"):
        rebuild(folder)
    tables = {path: text for path, text in before.items() if path.parent.name != "records"}
    assert {path: path.read_bytes() for path in tables} == tables
    assert not list(folder.rglob(".*"))


@pytest.mark.parametrize("field", ["editor_settings", "citation", "base", "cost", "versions", "hardware"])
def test_a_record_that_was_changed_is_found(field: str, tmp_path: Path) -> None:
    (path,) = add_records(tmp_path, [record("mend").sealed()])
    rebuild(tmp_path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    other: dict[str, Any] = {"citation": "someone2030", "cost": {**fields["cost"], "prepare_seconds": 1.5}}
    fields[field] = other[field] if field in other else {**fields[field], "other": "1"}
    write_json(fields, path)
    assert any(f"{path}: " in line and "changed after the run" in line for line in check(tmp_path))
