"""Tables of runs that were asked at several times, and of scores that are missing or unknown."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_leaderboard as leaderboards
from scenes import BASE, EDITS, STUBBORN, TAKES

from kebench.leaderboard import add_records, check, contradictions, curves, rebuild, record_path, table_text
from kebench.leaderboard.settings import by_setting, table_name
from kebench.leaderboard.spreadsheet import csv_table
from kebench.leaderboard.tables import markdown_table
from kebench.scoring.protocols import STRICT
from kebench.scoring.record import RunRecord
from kebench.scoring.scorer import score
from kebench.scoring.statistics import Estimate

DASH = "\N{EN DASH}"
REGIME = "sequential(4, batch=1)"
TIMES = {
    "immediate": score(EDITS, BASE, STRICT, resamples=50, time="immediate"),
    "after 1": score([TAKES], BASE, STRICT, resamples=50, time="after 1"),
    "after 2": score([TAKES, STUBBORN], BASE, STRICT, resamples=50, time="after 2"),
}


def sequential(editor: str = "mend", **changes: Any) -> RunRecord:
    """A record of a sequence of four edits, asked as it went."""
    made = leaderboards.record(editor, regime=REGIME, ask_after=(1, 2), **changes)
    return replace(made, times=TIMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tables of two editors and a control, and of a run that was asked once."""
    records = [sequential("mend"), sequential("rome"), sequential("oracle", is_control=True)]
    add_records(tmp_path, [*records, leaderboards.record("mend")])
    rebuild(tmp_path)
    return tmp_path


def cells(text: str) -> list[dict[str, str]]:
    """The rows of the first table in Markdown."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(heads, row, strict=True)) for row in rows]


# --- times


def test_each_time_has_a_table_of_its_own(folder: Path) -> None:
    assert check(folder) == []
    key = sequential().setting.key
    name = f"bart--mini--strict--{key}"
    made = {path.name for path in (folder / "zsre").glob(f"*{key}*.csv")}
    endings = ("", "--immediate", "--after-1", "--after-2")
    assert made == {f"{name}{end}.csv" for end in endings}
    successes = []
    for end, time, n_edits in zip(endings, ("final", *TIMES), (4, 4, 1, 2), strict=True):
        text = (folder / "zsre" / f"{name}{end}.md").read_text()
        assert f"# zsre version 1: bart on mini, strict protocol, {time} ({key})\n" in text
        rows = cells(text.partition("What no editor")[0])
        assert [row["Editor"] for row in rows] == ["mend", "rome", "**Controls**", "oracle (control)"]
        assert rows[0]["Edits"] == str(n_edits)
        successes.append(rows[0]["Success"].split()[0])
        (row, *_) = csv.DictReader((folder / "zsre" / f"{name}{end}.csv").read_text().splitlines())
        assert row.get("time", "final") == time
    assert successes == ["33.33", "33.33", "100.00", "50.00"]
    page = (folder / "zsre" / "README.md").read_text()
    assert page.count(f"({key})") == 4 + page.count(f"--{key}.svg)")
    assert "- Asked: after 1 edit of a stream, the questions of all edits so far\n" in page
    assert "- Asked: the questions of each edit right after its batch of edits\n" in page
    assert "- Regime: sequential(4, batch=1), 4 edits follow each other in one model\n" in page


def test_a_run_asked_once_does_not_name_the_time(folder: Path) -> None:
    name = f"bart--mini--strict--{leaderboards.record().setting.key}"
    assert (folder / "zsre" / f"{name}.md").read_text().count("final") == 0
    assert "time" not in (folder / "zsre" / f"{name}.csv").read_text().splitlines()[0].split(",")


def test_rows_of_a_table_are_of_one_time_and_stand_in_their_order() -> None:
    tables = by_setting([sequential("rome"), sequential("mend")])
    found = [(rows[0].scores.time, [row.editor for row in rows]) for rows in tables]
    assert found == [(time, ["mend", "rome"]) for time in ("immediate", "after 1", "after 2", "final")]
    assert by_setting([row for rows in tables for row in rows]) == tables


def test_a_terminal_shows_every_time() -> None:
    text = table_text([sequential()])
    assert text.count("zsre version 1") == 4
    assert "strict protocol, after 1;" in " ".join(text.split())


@pytest.mark.parametrize(
    ("time", "name"),
    [
        ("final", "x"),
        ("immediate", "x--immediate"),
        ("after 10", "x--after-10"),
        ("after-10", "x--time-after-10"),
    ],
)
def test_names_of_tables_stay_apart(time: str, name: str) -> None:
    assert table_name("x", time) == name
    assert "/" not in table_name("x", "../evil")


def test_contradictions_are_looked_for_at_every_time(tmp_path: Path) -> None:
    assert contradictions(sequential()) == []
    wrong = replace(TIMES["after 2"], no_ops=1)
    record = replace(sequential(), times={**TIMES, "after 2": wrong})
    assert "times.after 2: no_ops and no_op_share.hits differ: 1 and 0" in contradictions(record)
    more = score([*EDITS, replace(TAKES, id="q2")], BASE, STRICT, resamples=50, time="after 1")
    record = replace(sequential(), times={"after 1": more})
    assert contradictions(record) == ["times.after 1: edits: found 5, of 4 at most"]


def test_edits_that_a_later_one_replaced_are_missing_in_streams_only() -> None:
    fewer = score(EDITS[:3], BASE, STRICT, resamples=50)
    assert contradictions(replace(sequential(), scores=fewer)) == []
    assert contradictions(replace(leaderboards.record(), scores=fewer)) == [
        "setting.edits and scores.edits differ: 4 and 3"
    ]


# --- the curve


def test_the_curve_has_a_line_for_each_editor_and_the_same_bytes(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    (path,) = (folder / "zsre").glob("*.svg")
    assert path.name == f"bart--mini--strict--{sequential().setting.key}--curve.svg"
    assert f"![Scores against edits made]({path.name})" in (folder / "zsre" / "README.md").read_text()
    before = path.read_text()
    for name in ("mend", "rome", "oracle", "success", "equivalence", "retain", "edits made"):
        assert f">{name}</text>" in before.replace("> ", ">")
    rebuild(folder)
    assert path.read_text() == before
    path.write_text(before.replace("success", "failure"))
    assert [line.partition(":")[0] for line in check(folder)] == [str(path)]


def test_the_curve_shows_the_scores_against_the_edits_made() -> None:
    points = curves.points(sequential())
    assert {made: scores.success_rate.value for made, scores in points.items()} == {1: 1, 2: 1 / 2, 4: 1 / 3}
    assert not curves.has_curve([leaderboards.record()])
    assert not curves.has_curve([replace(sequential(), times={"immediate": TIMES["immediate"]})])


def test_names_of_a_stranger_are_drawn_as_they_are() -> None:
    pytest.importorskip("matplotlib")
    drawn = curves.curves([sequential("$x^$ <script>"), sequential("_hidden")])
    assert "$x^$ &lt;script&gt;" in drawn
    assert "_hidden" in drawn
    assert "<script" not in drawn


def test_without_matplotlib_the_curve_is_skipped_and_the_reason_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = [path.read_bytes() for path in (folder / "zsre").glob("*.svg")]
    monkeypatch.setattr("kebench.leaderboard.folder.can_draw", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert check(folder) == []
        rebuild(folder)
    assert "--curve.svg: skipped, a drawing needs matplotlib: pip install 'kebench[plots]'" in caplog.text
    assert [path.read_bytes() for path in (folder / "zsre").glob("*.svg")] == there


def test_a_curve_without_records_is_removed_and_another_drawing_is_left_alone(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    (path,) = (folder / "zsre").glob("*.svg")
    (folder / "zsre" / "mine.svg").write_text("<svg/>")
    for record in (folder / "zsre" / "records").glob("*.json"):
        if "times" in json.loads(record.read_text()):
            record.unlink()
    assert f"{path}: no record stands behind it; `kebench leaderboard` removes it" in check(folder)
    rebuild(folder)
    assert [path.name for path in (folder / "zsre").glob("*.svg")] == ["mine.svg"]
    assert check(folder) == []


# --- missing and unknown scores


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the scores of one record on file, and makes the tables again."""
    path = record_path(folder, leaderboards.record("mend"))
    content = json.loads(path.read_text())
    change(content["scores"])
    path.write_text(json.dumps(content))
    rebuild(folder)
    assert check(folder) == []


def two_tables(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows in Markdown and in CSV."""
    text = next(folder.glob("zsre/bart*.md")).read_text().partition("What no editor")[0]
    lines = next(folder.glob("zsre/bart*.csv")).read_text().splitlines()
    return cells(text), list(csv.DictReader(lines))


def test_a_missing_score_is_a_dash(tmp_path: Path) -> None:
    add_records(tmp_path, [leaderboards.record("mend"), leaderboards.record("rome")])
    missing = (
        "no_op_share", "success_rate", "inflation_gap", "equivalence_target", "equivalence_seen_wordings",
        "retain_accuracy", "accuracy_before", "performance_deterioration", "held_out_equivalence",
        "performance_deterioration_elsewhere",
    )  # fmt: skip

    def take_away(scores: dict[str, Any]) -> None:
        for name in missing:
            del scores[name]

    changed(tmp_path, take_away)
    shown, rows = two_tables(tmp_path)
    for column in (
        "Success",
        "Inflation gap",
        "Retain",
        "Performance deterioration",
        "Deterioration elsewhere",
    ):
        assert shown[0][column] == DASH
        assert shown[1][column] != DASH
    assert shown[0]["Smallest detectable deterioration"] == DASH
    for name in missing:
        assert [bool(row[name] or name.endswith("gap")) for row in rows] in ([False, True], [True, True])
        assert rows[0][f"{name}_edits"] == ""


def test_each_score_alone_may_be_missing() -> None:
    whole = leaderboards.record()
    for name in whole.scores.estimates():
        lacking = replace(whole, scores=whole.scores.with_estimates(**{name: None}))
        assert contradictions(lacking) == [], name
        assert markdown_table([lacking])
        assert table_text([lacking])
        assert f",{name}," not in csv_table([lacking]).splitlines()[0]


def test_an_unknown_score_is_kept_and_shown(tmp_path: Path) -> None:
    add_records(tmp_path, [leaderboards.record("mend"), leaderboards.record("rome")])
    grace = Estimate(0.25, 0.0, 0.5, None, 8, 4, 0.125)
    changed(tmp_path, lambda scores: scores.update({"grace|score (far)": grace.to_json()}))
    text = next(tmp_path.glob("zsre/bart*.md")).read_text()
    rows = list(csv.DictReader(next(tmp_path.glob("zsre/bart*.csv")).read_text().splitlines()))
    assert r" Grace\|score (far) " in text
    (heads, _, mend, rome, *_) = (line.split(" | ") for line in text.splitlines() if line.startswith("|"))
    place = next(index for index, head in enumerate(heads) if "Grace" in head)
    assert (mend[place].strip(), rome[place].strip()) == ("25.00 [0.00, 50.00]", DASH)
    assert [row["grace|score (far)"] for row in rows] == ["0.25", ""]


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(0.9, 0.0, 0.5, None, 8, 4, 0.1), "grace: value 0.9 is not within [0.0, 0.5]"),
        (Estimate(0.5, 0.0, 1.0, None, 8, 5, 0.1), "grace: over 5 of 4 edits"),
        (Estimate(math.nan, 0.0, 1.0, None, 0, 0, 0.1), "grace: an interval of nothing"),
    ],
)
def test_an_unknown_score_may_not_contradict_itself(estimate: Estimate, said: str) -> None:
    whole = leaderboards.record()
    assert contradictions(replace(whole, scores=whole.scores.with_estimates(grace=estimate))) == [said]
