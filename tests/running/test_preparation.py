"""What an editor learns from: what is held out of training is not among it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import doubles
import pytest
import tiny
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from worlds import World

from kebench.edits.editor import TrainingSet
from kebench.errors import BadSetting
from kebench.files.card import is_complete, remove_damaged_card, write_card
from kebench.files.home import pack_folder
from kebench.files.shipped import MODEL_CARD, STATE, STATE_CARD
from kebench.models.load import load_model
from kebench.models.model import AbstractModel
from kebench.packs.pack import Origin, write_pack
from kebench.running import preparation
from kebench.running.base_answers import AnsweredParaphrase, AnsweredRecord
from kebench.running.preparation import model_width, prepare_editor, state_folder
from kebench.running.progress import Silent
from kebench.running.run import inputs_of
from kebench.scoring.protocols import STRICT
from kebench.task import ModelRecipe, PackRecipe, PackSource, load_task
from kebench.training.base import training_key

HELD_OUT = (
    (False, True, False),
    (True, True),
    (False,),
)
"""Each record's paraphrases: whether the wording is held out. The second is left without any."""


def answered_record(split: str, number: int) -> AnsweredRecord:
    """Says Oslo to everything; Rome could be asked for."""
    name = f"{split} {number}"
    flags = HELD_OUT[number % len(HELD_OUT)]
    return AnsweredRecord(
        id=name, fact=f"fact {name}", prompt=f"{name}?", gold=("Lima",), prediction="Oslo", correct=False,
        margin=1.0, alternatives=("Rome",), target="Rome",
        paraphrases=tuple(
            AnsweredParaphrase(f"{name}, {'unheard' if flag else 'heard'} {place}?", "toy", "Oslo", flag)
            for place, flag in enumerate(flags)
        ),
    )  # fmt: skip


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> TrainingSet:
    """From a pack of twelve records in train and dev; test, where held-out relations are, is not read."""
    splits = {split: [answered_record(split, n) for n in range(12)] for split in ("train", "dev")}

    def answered(_model: Any, _base: str, records: Sequence[AnsweredRecord], *_: object, **__: object) -> Any:
        return tuple(records)

    monkeypatch.setattr(preparation, "answered", answered)
    pack = SimpleNamespace(records=splits.__getitem__)  # no test: a KeyError where it is asked for
    inputs: Any = SimpleNamespace(
        pack=pack, model=None, identity="", protocol=STRICT, targets="alternative", task=tiny.task("bert")
    )
    progress: Any = SimpleNamespace(stage=lambda name: None)
    return preparation.training_set(inputs, progress)


RECIPE = PackRecipe((PackSource("mend_zsre", "a.json", "0" * 64, answers_are="truth"),), "CC0")


@pytest.mark.parametrize(
    ("recipe", "answers_are", "made_by_it"),
    [
        (RECIPE, "truth", True),
        (RECIPE, None, True),  # built before there was `answers_are`: alt was taken for true
        (RECIPE, "counterfactual", False),
        (replace(RECIPE, sources=(replace(RECIPE.sources[0], answers_are="counterfactual"),)), None, False),
        (replace(RECIPE, sources=(replace(RECIPE.sources[0], sha256="1" * 64),)), "truth", False),
        (replace(RECIPE, sources=(replace(RECIPE.sources[0], split="test"),)), "truth", False),
    ],
)
def test_a_pack_built_before_answers_are_was_asked_is_still_the_recipes(
    recipe: PackRecipe,
    answers_are: str | None,
    made_by_it: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(tmp_path))
    origin: Any = Origin("mend_zsre", "a.json", 1, sha256="0" * 64, answers_are=answers_are)  # type: ignore[arg-type]
    write_pack(
        pack_folder("toy", "a"), {}, name="a", licence="CC0", origin=[origin], split=recipe.split, seed=0
    )
    task = tiny.task("bart", packs={"a": recipe}, default_pack="a")
    if made_by_it:
        assert (
            preparation.find_pack(task, None).lock.origin[0].answers_are == "truth"
        )  # the record says so too
    else:
        with pytest.raises(BadSetting, match="was built by another recipe"):
            preparation.find_pack(task, None)


def test_held_out_wordings_and_the_test_split_reach_no_editors_training(learnt: TrainingSet) -> None:
    assert learnt.train
    assert learnt.dev
    assert "unheard" not in repr(learnt)
    for item in [*learnt.train, *learnt.dev]:
        number = int(item.edit.id.split()[1])
        heard = [place for place, flag in enumerate(HELD_OUT[number % len(HELD_OUT)]) if not flag]
        assert item.edit.paraphrases == tuple(f"{item.edit.id}, heard {place}?" for place in heard)


def test_a_record_whose_wordings_are_all_held_out_is_learnt_from_all_the_same(learnt: TrainingSet) -> None:
    assert {item.edit.id for item in learnt.train} == {f"train {n}" for n in range(12)}
    assert [item for item in learnt.train if not item.edit.paraphrases]
    assert [item for item in learnt.dev if not item.edit.paraphrases]


def test_an_editor_that_needs_questions_alone_waits_for_their_predictions_alone(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(seq2seq.settings(tmp_path, "identity"), Silent())
    whole = preparation.training_set(inputs, Silent())
    asked: list[str] = []
    plain = AbstractModel.answer

    def spied(self: AbstractModel, prompts: Sequence[str], **options: Any) -> list[str]:
        asked.extend(prompts)
        return plain(self, prompts, **options)

    monkeypatch.setattr(AbstractModel, "answer", spied)
    for _ in range(2):  # the second time, from the cache
        alone = preparation.questions_alone(inputs, Silent())
        assert (alone.known, alone.unseen) == (whole.known, whole.unseen)
        assert (alone.train, alone.dev, alone.dev_known) == ((), (), ())
    assert sorted(asked) == sorted(known.prompt for known in [*whole.known, *whole.unseen])


# A state that is damaged -----------------------------------------------------------------------------


def scale(folder: Path) -> None:
    tensors = {name: 2 * tensor for name, tensor in load_file(folder / STATE).items()}
    save_file(tensors, folder / STATE)


def alter_the_card(folder: Path) -> None:
    card = folder / STATE_CARD
    card.write_text(card.read_text(encoding="utf-8").replace('"seconds": ', '"seconds": 1'), encoding="utf-8")


def copy_from_another(folder: Path) -> None:
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    write_card(other, STATE_CARD, "A toy.", {"name": "d", "task": "t", "seconds": 9.0}, made_of="other")
    shutil.rmtree(folder)
    other.rename(folder)


@pytest.mark.parametrize("damage", [scale, alter_the_card, copy_from_another])
def test_a_damaged_state_is_learnt_again_with_a_warning(
    damage: Callable[[Path], None],
    classifier: World,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    editor = doubles.Dial(lessons=11)
    inputs = inputs_of(classifier.settings(tmp_path, "x"), Silent())
    first = prepare_editor("dial", editor, inputs, Silent())
    folder = state_folder(editor, inputs)
    content = (folder / STATE).read_bytes()
    damage(folder)
    again = prepare_editor("dial", editor, inputs, Silent())
    assert (folder / STATE).read_bytes() == content
    assert again.state.keys() == first.state.keys()
    assert again.seconds < 1
    assert prepare_editor("dial", editor, inputs, Silent()).seconds == again.seconds
    (line,) = [line for line in caplog.messages if str(folder) in line]
    assert line.startswith(f"{folder / STATE_CARD}: ")


def test_a_state_older_than_checksums_is_believed_with_a_warning(
    classifier: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    editor = doubles.Dial(lessons=12)
    inputs = inputs_of(classifier.settings(tmp_path, "x"), Silent())
    prepare_editor("dial", editor, inputs, Silent())
    card = state_folder(editor, inputs) / STATE_CARD
    facts = json.loads(card.read_text(encoding="utf-8"))
    old = {name: facts[name] for name in facts if name not in ("files", "sha256")}
    card.write_text(json.dumps({**old, "seconds": 77.0}), encoding="utf-8")
    assert prepare_editor("dial", editor, inputs, Silent()).seconds == 77
    assert caplog.messages[-1] == f"{card}: is older than checksums, and is believed as it is"


def test_a_damaged_base_model_is_found_before_it_is_loaded(classifier: World, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(classifier.model, folder)
    task = load_task(str(classifier.task))
    key = training_key(task.models["tiny"], task, classifier.pack.sha256)
    assert is_complete(folder, MODEL_CARD, made_of=key)
    assert not is_complete(folder, MODEL_CARD, made_of="other")
    scale_file = folder / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(scale_file).items()}, scale_file)
    assert not is_complete(folder, MODEL_CARD, made_of=key)
    assert not remove_damaged_card(folder, MODEL_CARD, made_of=key)
    assert not (folder / MODEL_CARD).exists()


def test_the_seconds_of_an_interrupted_training_are_kept_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(preparation, "time", SimpleNamespace(monotonic=lambda: now))
    file = tmp_path / "seconds"
    elapsed = preparation._stopwatch(file, "x")
    now = 100.5
    assert (elapsed(), file.exists()) == (0.5, False)  # written at most once a second
    now = 102.0
    assert (elapsed(), file.exists()) == (2.0, True)
    assert preparation._stopwatch(file, "x")() == 2.0
    assert caplog.messages == []
    file.write_bytes(file.read_bytes().replace(b"2.0", b"9.0"))
    assert preparation._stopwatch(file, "x")() == 0.0
    assert len(caplog.messages) == 1


def test_the_hidden_size_of_a_model_is_told_before_it_is_loaded(seq2seq: World) -> None:
    task = load_task("counterfact")
    assert model_width(task, None, "mini") == 256
    loaded = load_model(str(seq2seq.model), load_task(str(seq2seq.task)))
    assert model_width(task, str(seq2seq.model), "mini") == loaded.network.config.d_model
    assert model_width(task, None, "mini", loaded) == loaded.network.config.d_model
    assert model_width(task, "no-such-model", "mini") is None


@pytest.mark.parametrize(
    ("architecture", "width"),
    [({"model_type": "gpt2", "n_embd": 48}, 48), ({"model_type": "t5", "d_model": 32}, 32)],
)
def test_the_hidden_size_of_a_model_that_is_not_trained_yet(architecture: dict[str, Any], width: int) -> None:
    task = replace(load_task("counterfact"), models={"mine": ModelRecipe(architecture=architecture)})
    assert model_width(task, "mine", "mini") == width


def test_the_hidden_size_of_a_model_that_also_sees_images_is_that_of_its_text() -> None:
    config = AutoConfig.for_model("gemma3", text_config={"hidden_size": 40})
    network = SimpleNamespace(config=config)
    assert model_width(load_task("counterfact"), None, "mini", (network, None)) == 40  # type: ignore[arg-type]
