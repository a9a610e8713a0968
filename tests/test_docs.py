"""What the documents show is run: every marked block, as a reader would."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from worlds import World

ROOT = Path(__file__).parent.parent


def block(file: str, mark: str) -> str:
    """The code block that stands under a mark like `<!-- test: editor -->`."""
    found = re.search(
        rf"<!-- {re.escape(mark)} -->\n```\w*\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.S
    )
    assert found, f"{file} has no block '{mark}'"
    return found[1]


def test_a_mark_that_is_missing_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no block 'test: nothing'"):
        block("README.md", "test: nothing")


def test_the_example_editor_is_whole_short_and_runs(
    classifier: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kebench

    code, settings = (
        block("baselines/README.md", "test: editor"),
        block("baselines/README.md", "test: settings"),
    )
    assert len(code.splitlines()) < 40
    (tmp_path / "gradient_step.py").write_text(code, encoding="utf-8")
    file = tmp_path / "gradient_step.yaml"
    file.write_text(settings.replace("kebench.baselines.", ""), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    result = kebench.evaluate(str(file), str(classifier.task), limit=8)

    assert result.record.editor == "gradient_step"
    assert result.record.editor_settings == {"rate": 0.5}
    assert result.record.scores.edits == 8
    assert not result.record.scores.failures
    # It edits: a step on the edit's own loss makes the target likelier, and never writes to the base.
    assert result.record.scores.success_rate.hits > 0
    sys.modules.pop("gradient_step")


def test_the_example_of_one_edit_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("README.md", "test: edit"), {})
    assert capsys.readouterr().out == "Paris Rome\n"


def test_the_example_task_is_whole(tmp_path: Path) -> None:
    from kebench.packs.build import build_pack
    from kebench.task import load_task

    file = tmp_path / "mine.yaml"
    file.write_text(block("tasks/README.md", "test: task"), encoding="utf-8")
    task = load_task(str(file))
    assert task.labels == ("no", "yes")
    claims = [
        {
            "id": number,
            "label": "SUPPORTS",
            "claim": f"Person {number} lives in town {number}.",
            "evidence": [[[number, number, f"Person_{number}", 0]]],
        }
        for number in range(40)
    ]
    (tmp_path / "claims.jsonl").write_text(
        "".join(json.dumps(claim) + "\n" for claim in claims), encoding="utf-8"
    )
    pack = build_pack(task, "mine", tmp_path, tmp_path / "pack")
    assert sum(file.records for file in pack.lock.files.values()) == 40


def test_the_rows_of_ones_own_are_read(tmp_path: Path) -> None:
    from kebench.packs.formats import read_source
    from kebench.packs.formats.records import FIELDS

    page = (ROOT / "docs/data.md").read_text(encoding="utf-8").partition("\n## ")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.M)))
    assert sorted(told) == sorted(FIELDS)
    (tmp_path / "mine.jsonl").write_text(block("docs/data.md", "test: records"), encoding="utf-8")
    first, second = read_source("records", tmp_path / "mine.jsonl").entries
    assert (first.record.answers, second.record.answers) == (("Westland", "West Land"), ("Ina Holm",))


def test_every_promise_names_a_test_that_exists() -> None:
    page = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| **")]
    assert len(rows) >= 10
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert all("::" in row for row in rows)
    assert len(named) == page.count("::")
    for file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", text, re.M), f"{file} has no {test}"


def test_the_readme_from_python(classifier: "World", monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import kebench

    evaluate = kebench.evaluate

    def on_the_toy_world(editor: str, task: str, **options: Any) -> Any:
        assert task == "fever"
        return evaluate(editor, str(classifier.task), **options)

    monkeypatch.setattr(importlib.import_module("kebench"), "evaluate", on_the_toy_world, raising=False)
    exec(block("README.md", "test: python"), {})
    assert "Estimate(value=" in capsys.readouterr().out


def test_the_readme_metric(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("README.md", "test: metric"), {})
    assert "'success_rate': 0.5" in capsys.readouterr().out


def test_the_readme_table_is_a_published_one() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and re.search(r"\[-?\d+\.\d\d, ", line)]
    assert rows, "the README's first screen shows no table"
    published = {
        cell
        for table in ROOT.glob("leaderboards/*/*.md")
        for line in table.read_text(encoding="utf-8").splitlines()
        for cell in map(str.strip, line.split("|"))
    }
    for row in rows:
        for cell in map(str.strip, row.strip("|").split("|")):
            assert cell in published, f"{cell} stands in no table of leaderboards/"


@pytest.mark.slow
def test_the_published_tables_agree_with_their_records() -> None:
    from kebench.leaderboard import check

    assert check(ROOT / "leaderboards") == []
