from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import BASE, FAILED, STUBBORN, TAKES

from kebench.errors import BadFile
from kebench.files.json import write_json
from kebench.scoring.protocols import DECAO2021, STRICT
from kebench.scoring.record import FORMAT, Cost, RunRecord, Setting, editor_folder
from kebench.scoring.scorer import score
from kebench.scoring.statistics import Estimate
from kebench.scoring.table import Key

SETTING = Setting(
    task="toy", task_version=1, pack="toy", pack_sha256="0" * 64, model="tiny", model_fingerprint="1" * 64,
    protocol={"name": "strict", "beams": 1}, targets="alternative", regime="single", retain="sample of 8",
    seed=0, edits=3, edits_sha256="2" * 64, test_sha256="3" * 64,
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
words = st.text(max_size=30)
amounts = st.floats(0, 1e9)


@st.composite
def records(draw: st.DrawFn) -> RunRecord:
    edits = draw(st.lists(st.sampled_from((TAKES, STUBBORN, FAILED)), unique_by=lambda edit: edit.id))
    return RunRecord(
        format=FORMAT,
        setting=draw(
            st.builds(
                Setting, task=words, task_version=st.integers(), pack=words, pack_sha256=words, model=words,
                model_fingerprint=words, protocol=st.dictionaries(words, JSON, max_size=3), targets=words,
                regime=words, retain=words, seed=st.integers(), edits=st.integers(), edits_sha256=words,
                test_sha256=words, precision=st.none() | st.floats(0.01, 49),
            )
        ),
        editor=draw(words),
        editor_path=draw(words),
        editor_settings=draw(st.dictionaries(words, JSON, max_size=3)),
        is_control=draw(st.booleans()),
        citation=draw(words),
        scores=score(edits, BASE, draw(st.sampled_from((STRICT, DECAO2021))), resamples=5),
        base=draw(st.dictionaries(words, JSON, max_size=3)),
        cost=draw(
            st.builds(Cost, amounts, amounts, amounts, amounts, amounts, st.integers(0, 2**50))
        ),
        versions=draw(st.dictionaries(words, words, max_size=3)),
        hardware=draw(st.dictionaries(words, words | st.integers(), max_size=3)),
    )  # fmt: skip


def same(first: RunRecord, second: RunRecord) -> bool:
    """Equal, NaN included: NaN is None in JSON."""
    return first.to_json() == second.to_json()


@given(record=records())
def test_a_record_read_back_is_the_one_written(
    record: RunRecord, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("records") / "record.json"
    record.write(file)
    back = RunRecord.read(file)
    assert same(back, record)
    assert back.setting == record.setting
    assert back.cost == record.cost
    assert back.scores.protocol == record.scores.protocol
    first = file.read_bytes()
    back.write(file)
    assert file.read_bytes() == first


def a_record() -> RunRecord:
    return RunRecord(
        format=FORMAT, setting=SETTING, editor="e", editor_path="m:E", editor_settings={"rate": 0.1},
        is_control=False, citation="", scores=score([TAKES, FAILED], BASE, STRICT, resamples=5), base={},
        cost=Cost(0.1, 0.2, 0.3, 0.4, 5.0, 100), versions={}, hardware={},
    )  # fmt: skip


def test_nan_is_none_in_the_file_and_nan_again(tmp_path: Path) -> None:
    record = a_record()
    edit_without = score([], BASE, STRICT, resamples=5)
    assert math.isnan(edit_without.success_rate.value)
    assert edit_without.to_json()["success_rate"]["value"] is None
    record.write(tmp_path / "r.json")
    assert "NaN" not in (tmp_path / "r.json").read_text()
    assert math.isnan(Estimate.from_json(edit_without.to_json()["success_rate"]).value)


def test_scores_at_other_times_are_read_back_and_found_by_their_key(tmp_path: Path) -> None:
    plain = a_record()
    assert "times" not in plain.to_json()
    assert plain.all_times == ["final"]
    early = {time: score([TAKES], BASE, STRICT, resamples=5, time=time) for time in ("after 2", "immediate")}
    record = replace(plain, times=early)
    record.write(tmp_path / "r.json")
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved.pop("times") == {time: early[time].to_json() for time in ("immediate", "after 2")}
    assert saved == plain.to_json()
    back = RunRecord.read(tmp_path / "r.json")
    assert same(back, record)
    assert back.all_times == ["immediate", "after 2", "final"]
    assert back.at("final") is back
    assert back.at("after 2").scores.to_json() == early["after 2"].to_json()
    assert back.results[Key("success_rate", "after 2")].value == 1  # TAKES alone
    assert back.results[Key("success_rate")].value == 1 / 2  # and FAILED
    assert Key("success_rate", "after 3") not in back.results


def test_the_scores_of_a_record_are_the_final_ones(tmp_path: Path) -> None:
    early = score([TAKES, FAILED], BASE, STRICT, resamples=5, time="after 2").to_json()
    write_json(with_change(scores=early), tmp_path / "r.json")
    with pytest.raises(BadFile, match="scores: found scores of the time after 2"):
        RunRecord.read(tmp_path / "r.json")


@pytest.mark.parametrize(("time", "said"), [("after 3", "after 2"), ("final", "final")])
def test_scores_stand_under_their_own_time_and_the_final_ones_apart(
    time: str, said: str, tmp_path: Path
) -> None:
    scores = score([TAKES], BASE, STRICT, resamples=5, time=said).to_json()
    write_json(with_change(times={time: scores}), tmp_path / "r.json")
    with pytest.raises(BadFile, match=rf"times\.{time}: found scores of the time {said}"):
        RunRecord.read(tmp_path / "r.json")


def with_change(**changes: Any) -> dict[str, Any]:
    return {**a_record().to_json(), **changes}


def without(name: str) -> dict[str, Any]:
    fields = a_record().to_json()
    del fields[name]
    return fields


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_change(format=1), "r.json: found format 1, wanted 2 or 3"),
        (without("format"), "r.json: found format None, wanted 2 or 3"),
        ({}, "r.json: found format None, wanted 2 or 3"),
        (without("scores"), "r.json: not a run record (KeyError"),
        (without("editor"), "r.json: not a run record (TypeError"),
        (with_change(surplus=1), "r.json: not a run record (TypeError"),
        (with_change(setting={}), "r.json: not a run record (TypeError"),
        (with_change(cost=None), "r.json: not a run record (TypeError"),
        (with_change(times=[1]), "r.json: not a run record (AttributeError"),
        ([], "r.json: not a run record (AttributeError"),
    ],
)
def test_what_is_no_record(content: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(content))
    with pytest.raises(BadFile) as error:
        RunRecord.read(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_or_missing_file(tmp_path: Path) -> None:
    a_record().write(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text[: len(text) // 2])
    with pytest.raises(BadFile, match=r"r.json: not a run record \(JSONDecodeError"):
        RunRecord.read(tmp_path / "r.json")
    with pytest.raises(BadFile, match=r"none.json: not a run record \(FileNotFoundError"):
        RunRecord.read(tmp_path / "none.json")


def test_the_key_of_a_setting_is_all_of_it() -> None:
    fields = {each.name: getattr(SETTING, each.name) for each in dataclasses.fields(SETTING)}
    keys = {SETTING.key}
    for name, value in fields.items():
        other = value + 1 if isinstance(value, int) else {} if isinstance(value, dict) else f"{value}x"
        keys.add(Setting(**{**fields, name: other}).key)
    assert len(keys) == len(fields) + 1
    # Records older than `precision` keep their key and their bytes.
    assert "precision" not in SETTING.to_json()
    assert replace(SETTING, precision=0.5).to_json()["precision"] == 0.5
    assert "retain_seed" not in SETTING.to_json()
    assert replace(SETTING, retain_seed=0).to_json()["retain_seed"] == 0
    assert SETTING.key == "301a91059db0"
    assert Setting(**{**fields, "protocol": {"beams": 1, "name": "strict"}}).key == SETTING.key


@pytest.mark.parametrize(
    ("editor", "folder"),
    [("mend", "mend"), ("My Editor/2", "My-Editor-2"), ("../../etc", "-..-etc"), (".hidden", "hidden")],
)
def test_an_editors_folder_lies_in_the_runs(editor: str, folder: str) -> None:
    assert editor_folder(Path("run"), editor) == Path("run") / folder


# Writing ---------------------------------------------------------------------------------------------


def test_json_has_one_spelling(tmp_path: Path) -> None:
    write_json({"b": 1, "a": ["é", 0.1]}, tmp_path / "deep" / "x.json")
    expected = '{\n  "b": 1,\n  "a": [\n    "é",\n    0.1\n  ]\n}\n'
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == expected


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json([1], file)
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json([value], file)
    assert json.loads(file.read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json([1], file)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json([2], file)
    assert json.loads(file.read_text()) == [1]


def test_two_processes_do_not_write_each_others_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partials = set()
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        monkeypatch.setattr(Path, "replace", lambda self, target: partials.add(self))
        write_json([process], tmp_path / "x.json")
    write_json([3], tmp_path / "x.yaml")  # nor files that differ in their endings alone
    assert len(partials) == 3
