"""Tuning: which settings are tried, which are chosen, and what is kept of it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import test_leaderboard as leaderboards
from scenes import BASE, FAILED, NO_OP, STUBBORN, TAKES
from worlds import World

from kebench.edits.editor_files import find_editor
from kebench.errors import BadFile, BadSetting, BrokenEditor, DependentEdits, KebenchError
from kebench.files.json import write_json
from kebench.leaderboard import add_records, add_tunings, check, read_tuning, rebuild
from kebench.leaderboard.spreadsheet import csv_table
from kebench.leaderboard.tables import markdown_table
from kebench.leaderboard.tuning import tuned_by
from kebench.running import tune as tune_module
from kebench.running.progress import Silent
from kebench.running.tune import chosen_as_yaml, read_grid, tune
from kebench.scoring.protocols import STRICT
from kebench.scoring.record import RunRecord
from kebench.scoring.scorer import Scores, score
from kebench.scoring.statistics import Estimate
from kebench.scoring.tuning import CRITERION, FILE, Trial, Tuning, criterion

Kebench = Callable[..., tuple[int, str, str]]
DIAL = "doubles:Dial"
REACHES = [{"reach": reach} for reach in ("nothing", "prompt", "all", "too far")]


def tuned(world: World, output: Path, grid: list[dict[str, Any]], **changes: Any) -> Tuning:
    return tune(world.settings(output, DIAL, **changes), grid, progress=Silent())[1]


# The criterion ---------------------------------------------------------------------------------------


def record(
    success: float, equivalence: float, retain: float, *, paraphrases: bool = True, **changes: Any
) -> RunRecord:
    def rate(value: float) -> Estimate:
        return Estimate(value, value, value, 1, 2, 2)

    by_hand = replace(leaderboards.by_hand(), edits_with_paraphrases=2 if paraphrases else 0)
    scores = by_hand.with_estimates(
        success_rate=rate(success), equivalence_target=rate(equivalence), retain_accuracy=rate(retain)
    )
    return leaderboards.record(scores=scores, split="dev", **changes)


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [
        ((1.0, 1.0, 1.0), 1.0),
        ((1.0, 0.5, 0.25), 3 / 7),  # 3 / (1 + 2 + 4)
        ((1.0, 0.0, 1.0), 0.0),
        ((math.nan, 1.0, 1.0), 0.0),
        ((1.0, 1.0, math.nan), 0.0),
    ],
)
def test_the_criterion_is_the_harmonic_mean(rates: tuple[float, float, float], wanted: float) -> None:
    assert criterion(record(*rates).scores) == wanted


def test_equivalence_is_left_out_where_no_edit_has_a_paraphrase() -> None:
    assert criterion(record(1.0, math.nan, 0.5, paraphrases=False).scores) == 2 / 3  # 2 / (1 + 2)


def trials(*records: RunRecord | None) -> Tuning:
    found = [
        Trial(str(number), {"n": number}, {"n": number}, each, "" if each else "broke")
        for number, each in enumerate(records)
    ]
    first = next(each for each in records if each)
    return Tuning("editor", first.editor_path, first.setting, found)


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([record(1.0, 0.5, 1.0), record(1.0, 1.0, 0.9)], "1"),
        ([record(1.0, 0.5, 1.0), record(1.0, 1.0, 0.5)], "0"),  # a tie goes to the higher retain
        ([record(1.0, 1.0, 0.5), record(1.0, 0.5, 1.0)], "1"),
        ([record(1.0, 0.5, 1.0), record(1.0, 0.5, 1.0)], "0"),  # then to the earlier
        ([None, record(0.0, 0.0, 0.0)], "1"),  # a trial that failed is never chosen
        ([None, record(0.0, 0.0, math.nan)], "1"),
    ],
)
def test_the_best_is_chosen(records: list[RunRecord | None], wanted: str) -> None:
    chosen = trials(*records).chosen
    assert chosen is not None
    assert chosen.name == wanted


# Grids -----------------------------------------------------------------------------------------------


def test_a_grid_is_a_list_or_a_product(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("- {rate: 1.0e-4}\n- {rate: 0.5, steps: 3}\n- {}\n", encoding="utf-8")
    assert read_grid(file) == [{"rate": 1e-4}, {"rate": 0.5, "steps": 3}, {}]
    file.write_text("rate: [1, 2]\nsteps: [3, 4]\n", encoding="utf-8")
    assert read_grid(file) == [
        {"rate": 1, "steps": 3},
        {"rate": 1, "steps": 4},
        {"rate": 2, "steps": 3},
        {"rate": 2, "steps": 4},
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", "rate: 3", "rate: []", "- 3", "3"])
def test_anything_else_is_no_grid(text: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadFile, match=r"grid\.yaml: wanted a list of mappings"):
        read_grid(tmp_path / "grid.yaml")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([{"reach": "all"}, {"raech": "all"}], "raech: unknown field; did you mean 'reach'"),
        ([{"reach": "far"}], "reach: found 'far', wanted"),
        ([{"reach": "all"}, {"reach": "all"}], "trial 2 is 'Dial (reach=all)' again"),
        ([{"reach": "all"}, {"lessons": 1, "reach": "all"}], "trial 2 is 'Dial (reach=all)' again"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(
    grid: list[dict[str, Any]], message: str, seq2seq: World, tmp_path: Path
) -> None:
    with pytest.raises(KebenchError) as error:
        tuned(seq2seq, tmp_path / "out", grid)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


# Tuning ----------------------------------------------------------------------------------------------


def test_every_trial_is_run_on_dev_and_the_best_is_chosen(seq2seq: World, tmp_path: Path) -> None:
    found = tuned(seq2seq, tmp_path, REACHES)
    assert [trial.name for trial in found.trials] == [
        "Dial (reach=nothing)",
        "Dial (reach=prompt)",
        "Dial (reach=all)",
        "Dial (reach=too far)",
    ]
    assert found.setting.split == "dev"
    assert found.setting.regime == "single"
    assert found.chosen is not None
    assert found.chosen.changes == {"reach": "all"}
    assert [trial.criterion for trial in found.trials] == [0, 0, 1, 0]
    assert chosen_as_yaml(found, find_editor(DIAL)) == "tuned:\n  toy/toy: {reach: all}"


def test_the_file_says_everything(seq2seq: World, tmp_path: Path) -> None:
    found = tuned(seq2seq, tmp_path, REACHES[1:3])
    assert Tuning.read(tmp_path / FILE) == found
    written = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert written["budget"] == 2
    assert written["chosen"] == "Dial (reach=all)"
    assert written["dev_edits"] == found.setting.edits > 0
    assert written["pack_sha256"] == seq2seq.pack.sha256
    assert written["trials"][1]["settings"] == {"reach": "all", "lessons": 1}
    assert written["trials"][1]["equivalence"]["value"] == 1
    hashes = {sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*/record.json")}
    assert {trial["record_sha256"] for trial in written["trials"]} == hashes
    assert RunRecord.read(tmp_path / "Dial--reach-all-" / "record.json") == found.trials[1].record


def test_a_failed_trial_counts_and_has_its_reason(seq2seq: World, tmp_path: Path) -> None:
    found = tuned(seq2seq, tmp_path, [{"lessons": 0}, {"lessons": 2, "reach": "all"}])
    assert [trial.criterion for trial in found.trials] == [0, 1]
    assert [trial.failure for trial in found.trials] == ["too little to learn from", ""]
    assert Tuning.read(tmp_path / FILE) == found


def test_a_trial_whose_edits_depend_on_rounding_fails_and_a_broken_editor_ends_the_tuning(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[KebenchError] = [DependentEdits("apart"), BrokenEditor("it wrote to the base model")]

    def raises(*_arguments: Any) -> None:
        raise errors[0]

    monkeypatch.setattr(tune_module, "run_editor", raises)
    found = tuned(seq2seq, tmp_path, [{"reach": "all"}])
    assert [(trial.failure, trial.criterion) for trial in found.trials] == [("apart", 0)]
    del errors[0]
    with pytest.raises(BrokenEditor, match="it wrote to the base model"):
        tuned(seq2seq, tmp_path, [{"reach": "all"}])


def test_a_trial_that_failed_cannot_be_left_out(seq2seq: World, tmp_path: Path) -> None:
    tuned(seq2seq, tmp_path, [{"lessons": 0}, {"reach": "all"}])
    with pytest.raises(BadSetting, match=r"Dial--lessons-0-: a trial that is not in the grid"):
        tuned(seq2seq, tmp_path, [{"reach": "all"}])


def test_where_all_trials_fail_none_is_chosen(seq2seq: World, tmp_path: Path) -> None:
    found = tuned(seq2seq, tmp_path, [{"lessons": 0}, {"lessons": -1}])
    assert found.chosen is None
    assert chosen_as_yaml(found, find_editor(DIAL)) == ""
    assert Tuning.read(tmp_path / FILE) == found


def test_what_was_done_is_kept(seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_editor = tune_module.run_editor

    def cut_off(name: str, *rest: Any) -> RunRecord:
        if "all" in name:
            raise KeyboardInterrupt
        return run_editor(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(tune_module, "run_editor", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tuned(seq2seq, tmp_path, REACHES)
    assert not (tmp_path / FILE).exists()
    done = {path: path.read_bytes() for path in tmp_path.glob("*/record.json")}
    assert len(done) == 2
    tuned(seq2seq, tmp_path, REACHES)
    assert {path: path.read_bytes() for path in done} == done
    assert len(list(tmp_path.glob("*/record.json"))) == 4


def test_a_trial_that_was_made_cannot_be_left_out(seq2seq: World, tmp_path: Path) -> None:
    tuned(seq2seq, tmp_path, REACHES[:2])
    with pytest.raises(BadSetting, match=r"Dial--reach-prompt-: a trial that is not in the grid"):
        tuned(seq2seq, tmp_path, REACHES[2:] + REACHES[:1])
    assert len(tuned(seq2seq, tmp_path, REACHES[:3]).trials) == 3


def test_trials_that_learn_the_same_share_a_state(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from doubles import Dial

    learnt = []
    prepare = Dial.prepare

    def counted(self: Dial, *rest: Any) -> Any:
        learnt.append(self.lessons)
        return prepare(self, *rest)

    monkeypatch.setattr(Dial, "prepare", counted)
    grid = [{"lessons": lessons, "reach": reach} for lessons in (11, 12) for reach in ("nothing", "all")]
    tuned(seq2seq, tmp_path, grid)
    assert learnt == [11, 12]


# The command -----------------------------------------------------------------------------------------


def test_the_command_shows_the_trials_best_first(seq2seq: World, tmp_path: Path, kebench: Kebench) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("reach: [nothing, all]\nlessons: [0, 1]\n", encoding="utf-8")
    code, out, err = kebench(
        "tune", "--editor", DIAL, "--task", seq2seq.task, "--grid", grid, "--output", tmp_path / "out"
    )
    assert code == 0, err
    names = [line.split("  ")[0] for line in out.splitlines() if line.startswith("Dial (")]
    assert names[:2] == ["Dial (reach=all, lessons=1)", "Dial (reach=nothing, lessons=1)"]
    assert "Dial (reach=nothing, lessons=0): too little to learn from" in out
    assert out.rstrip().endswith("tuned:\n  toy/toy: {reach: all, lessons: 1}")
    assert "4 trials of Dial" in out


# Where chosen settings live --------------------------------------------------------------------------


FILE_TEXT = """
editor: doubles:Dial
settings: {lessons: 3}
tuned:
  toy/toy: {reach: all}
  toy/other: {reach: prompt, lessons: 4}
"""


@pytest.fixture
def dial(tmp_path: Path) -> Path:
    file = tmp_path / "dial.yaml"
    file.write_text(FILE_TEXT, encoding="utf-8")
    return file


def test_an_editor_runs_with_what_was_tuned_for_its_pack(dial: Path) -> None:
    from doubles import Dial

    from kebench.edits.editor import load_editor

    assert load_editor(str(dial))[1] == Dial(lessons=3)
    assert load_editor(str(dial), task="toy", pack="toy")[1] == Dial(reach="all", lessons=3)
    assert load_editor(str(dial), task="toy", pack="other")[1] == Dial(reach="prompt", lessons=4)
    assert load_editor(str(dial), task="other", pack="toy")[1] == Dial(lessons=3)


def test_everything_that_runs_an_editor_does_so(
    dial: Path, classifier: World, tmp_path: Path, kebench: Kebench
) -> None:
    import kebench as package
    from kebench.running.run import run

    (record,) = run(classifier.settings(tmp_path / "run", str(dial), limit=2), progress=Silent())[1]
    assert record.editor_settings == {"reach": "all", "lessons": 3}
    evaluated = package.evaluate(str(dial), str(classifier.task), limit=2).record
    assert evaluated.editor_settings == {"reach": "all", "lessons": 3}
    # A folder is the pack that its lock says.
    evaluated = package.evaluate(
        str(dial), str(classifier.task), pack=str(classifier.pack.folder), limit=2
    ).record
    assert evaluated.editor_settings == {"reach": "all", "lessons": 3}


ROWS = """
editor: doubles:Dial
recipes: {plain: {lessons: 3}}
variants: {far: {reach: all}}
rows: {dial_far: {recipe: plain+far}}
"""
TOP = "tuned:\n  toy/toy: {lessons: 5}"
IN_ROW = "rows:\n  dial_far:\n    tuned:\n      toy/toy: {lessons: 5}"
NEW_ROW = "rows:\n  dial+far:\n    recipe: plain+far\n    tuned:\n      toy/toy: {lessons: 5}"


@pytest.mark.parametrize(
    ("text", "variant", "printed"),
    [
        (ROWS, "", TOP),
        (ROWS, "+far", IN_ROW),
        (ROWS.replace("rows: {dial_far: {recipe: plain+far}}", ""), "+far", NEW_ROW),
    ],
)
def test_the_printed_lines_belong_where_they_say(
    text: str, variant: str, printed: str, tmp_path: Path
) -> None:
    from kebench.edits.editor import load_editor, settings_of

    file = tmp_path / "dial.yaml"
    file.write_text(text, encoding="utf-8")
    name = f"{file}{variant}"
    setting = leaderboards.setting(task="toy", pack="toy")
    trial = Trial("dial (lessons=5)", {"lessons": 5}, {}, record(1, 1, 1))
    assert chosen_as_yaml(Tuning("dial", DIAL, setting, [trial]), find_editor(name)) == printed
    shown = load_editor(name)[0]
    # Pasted in place of the rows that were there, they are found.
    kept = text.replace("rows: {dial_far: {recipe: plain+far}}", "")
    file.write_text(
        kept + printed.replace("dial_far:\n", "dial_far:\n    recipe: plain+far\n"), encoding="utf-8"
    )
    again, editor = load_editor(name, task="toy", pack="toy")
    assert (again, settings_of(editor)["lessons"]) == (shown, 5)


def test_settings_of_the_command_line_hold_in_every_trial(
    dial: Path, seq2seq: World, tmp_path: Path, kebench: Kebench
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("lessons: [5, 6]\n", encoding="utf-8")
    words = (
        "tune",
        "--editor",
        dial,
        "--task",
        seq2seq.task,
        "--grid",
        grid,
        "-s",
        "reach=all",
        "--limit",
        2,
    )
    code, out, err = kebench(*words, "--output", tmp_path / "out")
    assert code == 0, err
    assert out.rstrip().endswith("tuned:\n  toy/toy: {reach: all, lessons: 5}")
    grid.write_text("lesons: [5]\n", encoding="utf-8")
    code, _, err = kebench(*words, "--output", tmp_path / "wrong")
    assert code == 2
    assert "grid: trial 1: lesons: unknown field; did you mean 'lessons'?" in err


def test_tuning_starts_from_the_settings_alone(dial: Path, seq2seq: World, tmp_path: Path) -> None:
    settings = seq2seq.settings(tmp_path / "out", str(dial))
    _, found = tune(settings, [{}, {"lessons": 5}], progress=Silent())
    assert [trial.settings for trial in found.trials] == [
        {"reach": "nothing", "lessons": 3},
        {"reach": "nothing", "lessons": 5},
    ]
    assert found.trials[0].name == "dial (unchanged)"


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ("{toy/toy: {raech: all}}", "tuned: toy/toy: raech: unknown field; did you mean 'reach'?"),
        ("{toy/toy: {reach: far}}", "tuned: toy/toy: reach: found 'far'"),
        ("{toy: {reach: all}}", "tuned: found 'toy', wanted the name of a task and of a pack: task/pack"),
        ("{toy/toy: all}", "tuned.toy/toy: found 'all'"),
    ],
)
def test_a_mistake_in_what_was_tuned_is_told_wherever_the_editor_runs(
    tuned: str, message: str, tmp_path: Path
) -> None:
    from kebench.edits.editor import load_editor

    file = tmp_path / "dial.yaml"
    file.write_text(f"editor: doubles:Dial\ntuned: {tuned}\n", encoding="utf-8")
    with pytest.raises(BadFile) as error:
        load_editor(str(file), task="another", pack="pack")
    assert message in str(error.value)


# The leaderboard -------------------------------------------------------------------------------------

DASH = "\N{EN DASH}"


WORSE = leaderboards.SCORES
BETTER = score(
    [TAKES, replace(STUBBORN, answer="Nice", paraphrases=()), FAILED, NO_OP], BASE, STRICT, resamples=50
)
"""Where one edit more takes."""


def row(settings: dict[str, Any], editor: str = "mend", **changes: Any) -> RunRecord:
    """A row of a table of test edits."""
    return replace(leaderboards.record(editor, **changes), editor_settings=settings, editor_path="a:Mend")


def tuning(*found: Scores, editor: str = "mend", path: str = "a:Mend", **changes: Any) -> Tuning:
    """Trials of a setting `n`, the first of which is 0."""
    made = []
    for n, scores in enumerate(found):
        each = row({"n": n}, f"{editor} (n={n})", scores=scores, split="dev", **changes)
        made.append(Trial(each.editor, {"n": n}, {"n": n}, replace(each, editor_path=path)))
    return Tuning(editor, path, each.setting, made)


def stored(found: Tuning, path: Path) -> Path:
    write_json(found.to_json(), path / FILE)
    return path / FILE


def tuned_cells(table: str) -> dict[str, str]:
    """The column Tuned by the editor's name."""
    first = table[table.index("| Editor") :].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:]] for line in first.splitlines()]
    assert lines[0][:2] == ["Editor", "Tuned"]
    return {name: cell for name, cell, *_ in lines[2:]}


def test_tables_say_which_rows_were_tuned(tmp_path: Path) -> None:
    folder = tmp_path / "leaderboards"
    (path,) = add_tunings(folder, [stored(tuning(WORSE, BETTER, WORSE), tmp_path)])
    chosen, other = row({"n": 1}), row({"n": 0}, "other")
    add_records(folder, [chosen, other, row({"n": 1}, "oracle", is_control=True)])
    rebuild(folder)
    assert check(folder) == []
    table = (folder / "zsre" / "bart--mini--strict.md").read_text(encoding="utf-8")
    cells = tuned_cells(table)
    assert (cells["mend"], cells["other"], cells["oracle (control)"]) == ("3 trials", "no", DASH)
    told = f"[mend](tuning/{path.name}): 3 trials on 4 dev edits, retain: sample of 5, seed 0; chosen: mend"
    assert told in table
    assert CRITERION in table
    assert "same budget" not in table
    page = (folder / "zsre" / "README.md").read_text(encoding="utf-8")
    assert "3 trials on 4 dev edits" in page
    text = (folder / "zsre" / "bart--mini--strict.csv").read_text(encoding="utf-8")
    found = {line["editor"]: line["tuned_trials"] for line in csv.DictReader(text.splitlines())}
    assert found == {"mend": "3", "other": "0", "oracle": ""}


@pytest.mark.parametrize("field", ["task_version", "pack_sha256", "model_fingerprint"])
def test_what_was_tuned_elsewhere_is_not_tuned_here(field: str) -> None:
    changed = 2 if field == "task_version" else "another"
    elsewhere = row({"n": 1}, **{field: changed})
    assert tuned_by(row({"n": 1}), [tuning(WORSE, BETTER)]) is not None
    assert tuned_by(elsewhere, [tuning(WORSE, BETTER)]) is None
    table = markdown_table([elsewhere], tunings=[tuning(WORSE, BETTER)])
    assert set(tuned_cells(table).values()) == {"no"}
    assert "no row's settings were chosen by `kebench tune`" in table


def test_another_class_with_the_same_settings_was_not_tuned() -> None:
    assert tuned_by(replace(row({"n": 1}), editor_path="another:Class"), [tuning(WORSE, BETTER)]) is None


def test_a_table_without_tunings_says_so_in_every_row() -> None:
    assert set(tuned_cells(markdown_table([row({"n": 1})])).values()) == {"no"}
    assert "tuned" not in csv_table([row({"n": 1})])


def test_unequal_budgets_are_told() -> None:
    rows = [row({"n": 1}), replace(row({"n": 0}, "rome"), editor_path="a:Rome")]
    mend, rome = tuning(WORSE, BETTER), tuning(BETTER, WORSE, editor="rome", path="a:Rome")
    assert "same budget" not in markdown_table(rows, tunings=[mend, rome])
    rome = tuning(BETTER, editor="rome", path="a:Rome")
    assert "**The tuned rows did not all have the same budget.**" in markdown_table(
        rows, tunings=[mend, rome]
    )


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    write_json(fields, path)


def _another_choice(fields: dict[str, Any]) -> None:
    fields["chosen"] = "mend (n=0)"


def _another_score(fields: dict[str, Any]) -> None:
    fields["records"]["mend (n=0)"]["scores"]["success_rate"]["value"] = 0.75


def _a_trial_less(fields: dict[str, Any]) -> None:
    del fields["trials"][0]


def _another_criterion(fields: dict[str, Any]) -> None:
    fields["criterion"] = "retain"


def _on_test(fields: dict[str, Any]) -> None:
    del fields["setting"]["split"]
    del fields["in_every_record"]["setting"]["split"]


def _another_setting(fields: dict[str, Any]) -> None:
    fields["in_every_record"]["setting"]["seed"] = 7


def _twice(fields: dict[str, Any]) -> None:
    for name in ("changes", "settings"):
        fields["trials"][2][name] = {"n": 0}


def _other_changes(fields: dict[str, Any]) -> None:
    fields["trials"][0]["changes"] = {"n": 7}


def _no_reason(fields: dict[str, Any]) -> None:
    del fields["records"]["mend (n=0)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_choice, "chosen: found mend (n=0), but by the trials' records it is mend (n=1)"),
        (_another_score, "trials: 0: criterion: found 0.28"),
        (_a_trial_less, "budget: found 3, but by the trials' records it is 2"),
        (_another_criterion, "criterion: found retain"),
        (_on_test, "setting.split: found test, wanted dev"),
        (_another_setting, "trial mend (n=0): its record is of another setting"),
        (_twice, "trial mend (n=2): its settings were tried before"),
        (_other_changes, "trial mend (n=0): its changes are not in its settings"),
        (_no_reason, "trial mend (n=0): wanted a record or the reason"),
        (dict.clear, "found format None, wanted 1"),
    ],
)
def test_a_tuning_that_does_not_follow_from_its_records_is_found(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "leaderboards"
    (path,) = add_tunings(folder, [stored(tuning(WORSE, BETTER, WORSE), tmp_path)])
    assert check(folder) == []
    changed(path, change)
    (line,) = check(folder)
    assert line.startswith(str(path))
    assert message in line
    with pytest.raises(BadFile):
        rebuild(folder)


def test_a_tuning_in_another_place_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "leaderboards"
    (path,) = add_tunings(folder, [stored(tuning(WORSE, BETTER), tmp_path)])
    path.rename(path.with_name("another.json"))
    (line,) = check(folder)
    assert f"by its content it should be {path.relative_to(folder)}" in line


def test_trials_on_file_are_not_lost_without_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "leaderboards"
    (path,) = add_tunings(folder, [stored(tuning(WORSE, BETTER), tmp_path)])
    assert add_tunings(folder, [stored(tuning(WORSE, BETTER, WORSE), tmp_path)]) == [path]  # one more
    fewer = stored(tuning(WORSE), tmp_path)
    with pytest.raises(BadSetting, match=r"not among the new ones: mend \(n=1\), mend \(n=2\); with"):
        add_tunings(folder, [fewer])
    elsewhere = stored(tuning(WORSE, BETTER, WORSE, seed=1), tmp_path)
    with pytest.raises(
        BadSetting, match="holds 3 trials of a setting with another seed; with --replace they are lost"
    ):
        add_tunings(folder, [elsewhere])
    add_tunings(folder, [elsewhere], replace=True)
    assert read_tuning(path).setting.seed == 1


def test_the_leaderboard_command_takes_a_tuning(
    seq2seq: World, tmp_path: Path, kebench: Kebench, dial: Path
) -> None:
    from kebench.running.run import run

    folder, output = tmp_path / "leaderboards", tmp_path / "tune"
    settings = seq2seq.settings(output, str(dial))
    tune(settings, [{"reach": "nothing"}, {"reach": "all"}], progress=Silent())
    (output / FILE).rename(tmp_path / FILE)
    code, _, err = kebench("leaderboard", output, "--folder", folder)
    assert code == 2
    assert "an unfinished tuning" in err
    (tmp_path / FILE).rename(output / FILE)
    run(seq2seq.settings(tmp_path / "run", str(dial), limit=2), progress=Silent())
    code, _, err = kebench("leaderboard", output, tmp_path / "run", "--folder", folder)
    assert code == 0, err
    (table,) = (folder / "toy").glob("tiny--*.md")
    assert "2 trials on" in table.read_text(encoding="utf-8")  # trials are no rows of a table
    assert kebench("leaderboard", "--check", "--folder", folder)[0] == 0
    rows = sorted(output.glob("*/edits.jsonl"))
    rows[0].write_bytes(rows[1].read_bytes())  # a trial's scores are computed again from its rows
    code, _, err = kebench("leaderboard", output, "--folder", folder)
    assert code == 2
    assert f"{rows[0]}:1: was altered, or is of another run or editor" in err
