"""One edit by itself: made, asked, made again from a run, saved, and shipped as an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from commands import assert_usual_modes
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.identity import Identity
from worlds import World

import kebench
from kebench.errors import BadSetting, NotFound
from kebench.models.load import load_model
from kebench.running.one_edit import edit_again
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.task import load_task

Kebench = Callable[..., tuple[int, str, str]]
EDITORS = ("fine_tuning_all", pytest.param("knowledge_editor", marks=pytest.mark.slow))
PROMPT, OTHER = "What is the capital of France?", "What is the capital of Spain?"


def made(name: str) -> kebench.Edited:
    """An edit of the model that comes with kebench, by an editor that has nothing to learn any more."""
    return kebench.edit(name, model="kebench/bart-mini", prompt=PROMPT, target="Rome", also=[OTHER])


made_once = cache(made)


@pytest.mark.parametrize("name", EDITORS)
def test_an_edit_answers_its_target_and_the_base_model_is_as_before(name: str) -> None:
    edited = made_once(name)
    assert [each.prompt for each in edited.answers] == [PROMPT, OTHER]
    assert (edited.answers[1].before, edited.answers[1].after) == ("Madrid", "Madrid")
    assert edited.answers[0].after == "Rome" != edited.answers[0].before
    assert edited.model is not None
    assert edited.model.answer([PROMPT]) == ["Rome"]
    assert edited.base.answer([PROMPT]) == [edited.answers[0].before]
    assert edited.network.generate is not None


@pytest.mark.parametrize("name", EDITORS)
def test_what_is_saved_answers_as_the_edited_model(name: str, tmp_path: Path) -> None:
    edited = made_once(name)
    loaded = load_model(str(edited.save(tmp_path / "saved")), load_task("zsre"))
    assert loaded.answer([PROMPT]) == ["Rome"]
    assert kebench.Update.load(tmp_path / "saved" / "update.safetensors") == edited.update
    assert json.loads((tmp_path / "saved" / "edit.json").read_text())["target"] == "Rome"
    assert_usual_modes(tmp_path / "saved")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_an_adapter_answers_as_the_edited_model(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="adapters are read back by peft, an extra of the tests")
    edited = made("knowledge_editor")
    residuals = edited.to_lora(tmp_path / "adapter")
    assert set(residuals.values()) == {0.0}
    base = edited.base
    assert base.answer([PROMPT, OTHER]) == ["Paris", "Madrid"]
    base.network = peft.PeftModel.from_pretrained(base.network, tmp_path / "adapter").merge_and_unload()
    assert base.answer([PROMPT, OTHER]) == ["Rome", "Madrid"]
    with pytest.raises(BadSetting, match="give the rank"):
        made("fine_tuning_all").to_lora(tmp_path / "dense")


def test_what_changes_no_weights_cannot_be_shipped(seq2seq: World, tmp_path: Path) -> None:
    edited = kebench.edit("oracle", task=str(seq2seq.task), prompt=PROMPT, target="Rome")
    assert edited.answers[0].after == "Rome"
    for ship in (edited.save, edited.to_lora):
        with pytest.raises(BadSetting, match="editor oracle changes no weights"):
            ship(tmp_path / "x")


def test_a_target_that_is_no_label_is_refused(classifier: World) -> None:
    with pytest.raises(NotFound, match="no label named 'Rome'"):
        kebench.edit("identity", task=str(classifier.task), prompt="x", target="Rome")
    with pytest.raises(BadSetting, match="--task: missing, wanted the task"):
        kebench.edit("identity", prompt="x", target="Rome")


def test_an_edit_of_a_run_is_made_again(
    seq2seq: World, tmp_path: Path, kebench: Kebench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = FineTuning(layers="first", learning_rate=1e-2, max_steps=3)
    settings = seq2seq.settings(tmp_path / "run", "quick", "same", limit=3, retain=4)
    run(settings, editors={"quick": quick, "same": Identity()}, progress=Silent())
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "quick" / "edits.jsonl").read_text().splitlines()
    ]
    where = {"task": str(seq2seq.task)}
    for row in rows:
        again = edit_again(tmp_path / "run", row["id"], editor="quick", **where)
        assert (again.answers[0].before, again.answers[0].after) == (row["prediction"], row["answer"])
    flags = ("--task", seq2seq.task, "--editor", "quick", "--save", tmp_path / "saved")
    status, out, _ = kebench("export", tmp_path / "run", "--edit", rows[0]["id"], *flags)
    assert status == 0
    assert out.count("(wanted: ") == 1
    assert (tmp_path / "saved" / "model.safetensors").is_file()

    with pytest.raises(BadSetting, match=r"--editor: missing, wanted one of the editors of .*: quick, same"):
        edit_again(tmp_path / "run", rows[0]["id"])
    with pytest.raises(NotFound, match=r"no edit of .*quick named 'nothing'"):
        edit_again(tmp_path / "run", "nothing", editor="quick", **where)
    with pytest.raises(NotFound, match="no editor of the run named 'x'"):
        edit_again(tmp_path / "run", rows[0]["id"], editor="x")
    run(
        seq2seq.settings(tmp_path / "batch", "identity", regime="batch", batch=3, limit=3),
        progress=Silent(),
    )
    with pytest.raises(BadSetting, match=r"found a run of the regime batch\(3\), wanted single"):
        edit_again(tmp_path / "batch", rows[0]["id"])


@pytest.mark.slow
def test_the_command_shows_the_answers_before_and_after(kebench: Kebench) -> None:
    flags = ("--model", "kebench/bart-mini", "--prompt", PROMPT, "--target", "Rome", "--also", OTHER)
    status, out, _ = kebench("edit", "--editor", "fine_tuning_all", "-s", "max_steps=50", *flags)
    assert status == 0
    assert out.splitlines() == [
        PROMPT,
        "  before: Paris",
        "  after:  Rome   (wanted: Rome)",
        OTHER,
        "  before: Madrid",
        "  after:  Madrid",
    ]
