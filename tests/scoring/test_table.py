"""The table of scores: rows, slices, times, and what a result is called."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from scenes import BASE, EDITS, FAILED, STUBBORN, TAKES

from kebench.scoring.answers import NEAR, Answer, EditAnswers, Kind, Question, Reference
from kebench.scoring.protocols import STRICT
from kebench.scoring.regimes import FINAL, IMMEDIATE, after, edits_made, edits_of_a_stream, in_order
from kebench.scoring.scorer import per_edit, score
from kebench.scoring.scores import Scores, key_of, name_of
from kebench.scoring.statistics import Estimate
from kebench.scoring.table import TABLE, Difference, Key, LostShare, Score, Slice, row

NEAR_HALF = Slice("near", questions=frozenset({NEAR}))


def test_a_new_score_is_a_new_row() -> None:
    near = Score("near_kept", ("retain",), "base answer", "retain", weights="strata", slices=(NEAR_HALF,))
    scores = score(EDITS, BASE, STRICT, resamples=20, table=(*TABLE, near))
    # Strata 0 and 1 are both in the nearer half of four: as retain accuracy, over the same questions.
    found = scores.values[Key("near_kept", FINAL, "near")]
    assert found == scores.retain_accuracy
    assert scores.to_json()["near_kept (near)"] == found.to_json()
    assert list(scores.to_json())[-4:] == ["near_kept (near)", "seed", "resamples", "interval"]


def test_a_slice_of_questions_leaves_the_others_out() -> None:
    near = Score("near_kept", ("retain",), "base answer", "retain", weights="strata", slices=(NEAR_HALF,))
    far_away = [replace(each, stratum=3 * each.stratum) for each in BASE]
    found = score([TAKES], far_away, STRICT, resamples=20, table=(*TABLE, near)).values
    # Of q3 (kept) and q4 (not) in stratum 0, and q5 (kept) in stratum 3.
    assert found[Key("near_kept", FINAL, "near")].value == 1 / 2
    assert found[Key("near_kept", FINAL, "near")].total == 2


def test_every_row_is_made_of_rows_that_are_there() -> None:
    names = [each.name for each in TABLE]
    assert len(set(names)) == len(names)
    for each in TABLE:
        if isinstance(each, Difference):
            assert row(each.first).edits == row(each.second).edits
        elif isinstance(each, LostShare):
            assert row(each.lost).of == "lost"
            assert row(each.before).of == "base"
    with pytest.raises(ValueError, match="the table of scores has no row grace"):
        row("grace")


def further(
    kind: Kind, said: str | None, references: dict[Reference, tuple[str, ...]], id_: str = "further"
) -> Answer:
    return Answer(Question(id_, kind, "Which river runs there?", references, "rivers"), "q1", said)


NEIGHBOURS = (
    further("neighbourhood", "the Seine", {"base answer": ("Seine",)}, "n1"),
    further("neighbourhood", "Rhone", {"base answer": ("Loire",)}, "n2"),
    further("portability", "Haworth", {"target": ("Haworth", "Thornton")}, "p1"),
)


def test_questions_that_belong_to_an_edit_have_scores_of_their_own() -> None:
    edits = [replace(TAKES, further=NEIGHBOURS), STUBBORN]
    scores = score(edits, BASE, STRICT, resamples=20)
    neighbourhood = scores.values[Key("neighbourhood_accuracy")]
    assert (neighbourhood.value, neighbourhood.total, neighbourhood.edits) == (1 / 2, 2, 1)
    portability = scores.values[Key("portability_accuracy")]
    assert (portability.value, portability.total, portability.edits) == (1, 1, 1)
    takes, stubborn = (each.row() for each in per_edit(edits, BASE, STRICT))
    assert (takes["neighbourhood_accuracy"], takes["neighbourhood_accuracy_hits"]) == (1 / 2, 1)
    assert stubborn["portability_accuracy_total"] == 0
    assert takes.keys() == stubborn.keys()
    without = score([TAKES, STUBBORN], BASE, STRICT, resamples=20)
    assert without.get("neighbourhood_accuracy") is None
    assert all(without.get(name) == each for name, each in without.estimates().items())
    assert {name: scores.to_json()[name] for name in without.to_json()} == without.to_json()


def test_a_failed_edit_has_no_answer_to_its_own_questions_either() -> None:
    scores = score([replace(FAILED, further=NEIGHBOURS)], BASE, STRICT, resamples=20)
    for name in ("neighbourhood_accuracy", "portability_accuracy"):
        assert scores.values[Key(name)].value == 0


# On file ---------------------------------------------------------------------------------------------


def through_json(edit: EditAnswers) -> EditAnswers:
    return EditAnswers.from_json(json.loads(json.dumps(edit.to_json())))


def test_rows_are_written_as_before_and_read_again() -> None:
    names = (
        "id", "fact", "prompt", "prediction", "target", "answer", "forced", "paraphrases", "sample",
        "failure", "held_out",
    )  # fmt: skip
    for edit in EDITS:
        assert tuple(edit.to_json()) == names
        assert through_json(edit) == edit
    more = replace(TAKES, also_edited=("B", "C"), further=NEIGHBOURS)
    assert tuple(more.to_json()) == (*names, "also_edited", "further")
    assert through_json(more) == more


@pytest.mark.parametrize("change", [{"surplus": 1}, {"paraphrases": [{"txt": ""}]}, {"further": [{}]}])
def test_rows_that_are_none_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, KeyError)):
        EditAnswers.from_json({**TAKES.to_json(), **change})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("success_rate", Key("success_rate")),
        ("held_out_success_rate", Key("success_rate", FINAL, "held-out relations")),
        ("equivalence_seen_wordings", Key("equivalence_target", FINAL, "seen wordings")),
        ("grace", Key("grace")),
        ("grace (far)", Key("grace", FINAL, "far")),
        ("grace (far) (near)", Key("grace (far)", FINAL, "near")),
        ("grace)", Key("grace)")),
    ],
)
def test_a_result_has_one_name_in_json(name: str, key: Key) -> None:
    assert key_of(name) == key
    assert name_of(key) == name_of(key._replace(time="after 3")) == name
    assert key_of(name, "after 3") == key._replace(time="after 3")


def test_a_score_that_is_missing_or_unknown_is_read() -> None:
    saved = score(EDITS, BASE, STRICT, resamples=20).to_json()
    del saved["inflation_gap"]
    saved["grace (far)"] = {"value": 0.5, "low": 0.0, "high": 1.0, "total": 4, "edits": 2}
    read = Scores.from_json(saved)
    assert read.get("inflation_gap") is None
    assert math.isnan(read.inflation_gap.value)
    assert read.values[Key("grace", FINAL, "far")] == Estimate(0.5, 0.0, 1.0, None, 4, 2)
    assert read.to_json() == saved
    assert list(read.further()) == ["grace (far)"]


@pytest.mark.parametrize("content", [3, "much", None, {"value": 0.5}])
def test_what_is_no_score_is_refused(content: Any) -> None:
    saved = score(EDITS, BASE, STRICT, resamples=20).to_json()
    with pytest.raises((ValueError, KeyError)):
        Scores.from_json({**saved, "grace": content})


def test_a_time_is_in_the_json_unless_it_is_the_final_one() -> None:
    final = score(EDITS, BASE, STRICT, resamples=20)
    early = score(EDITS, BASE, STRICT, resamples=20, time="after 10")
    assert early.to_json() == {**final.to_json(), "time": "after 10"}
    assert "time" not in final.to_json()
    assert Scores.from_json(early.to_json()).to_json() == early.to_json()
    assert {key.time for key in early.values} == {"after 10"}
    assert early.retain_accuracy == final.retain_accuracy


# Times -----------------------------------------------------------------------------------------------


def test_times_stand_in_the_order_in_which_they_come() -> None:
    times = [FINAL, after(100), "later", after(9), IMMEDIATE]
    assert in_order(times) == [IMMEDIATE, after(9), after(100), "later", FINAL]


@pytest.mark.parametrize(
    ("time", "made"),
    [("after 10", 10), (FINAL, None), (IMMEDIATE, None), ("after 010", None), ("after", None)],
)
def test_edits_made_at_a_time(time: str, made: int | None) -> None:
    assert edits_made(time) == made


@pytest.mark.parametrize(
    ("regime", "n"),
    [("single", 1), ("batch(8)", 8), ("sequential(100, batch=10)", 100), ("sequential(x)", 1), ("batch", 1)],
)
def test_edits_of_a_stream(regime: str, n: int) -> None:
    assert edits_of_a_stream(regime) == n


# Other edits in the same model -------------------------------------------------------------------------


def test_facts_that_are_edited_in_the_same_model_are_no_retain_questions() -> None:
    # Without q1 and q2, O^x of TAKES has q3 (kept), q4 (not), q5 (kept). The fact of q4 is C.
    alone, together = (
        score([replace(TAKES, also_edited=facts)], BASE, STRICT, resamples=20)
        for facts in ((), ("C", "none"))
    )
    assert alone.retain_accuracy.value == pytest.approx((2 * 1 / 2 + 4 * 1) / 6)
    assert (together.retain_accuracy.value, together.retain_accuracy.total) == (1, 2)
    # Elsewhere, q4 was gained; without it nothing changes. On the whole test set it still counts.
    assert alone.performance_deterioration_elsewhere.value < 0
    assert together.performance_deterioration_elsewhere.value == 0
    assert together.performance_deterioration == alone.performance_deterioration


def test_by_row_only_the_edited_record_itself_is_left_out() -> None:
    by_row = replace(STRICT, left_out_of_retain="row")
    alone, together = (
        score([replace(TAKES, also_edited=facts)], BASE, by_row, resamples=20) for facts in ((), ("C",))
    )
    assert together == alone
