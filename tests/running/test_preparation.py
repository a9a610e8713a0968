"""What an editor learns from: what is held out of training is not among it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from worlds import World

from kebench.edits.editor import TrainingSet
from kebench.errors import BadSetting
from kebench.files.home import pack_folder
from kebench.models.model import AbstractModel
from kebench.packs.pack import Origin, write_pack
from kebench.running import preparation
from kebench.running.base_answers import AnsweredParaphrase, AnsweredRecord
from kebench.running.progress import Silent
from kebench.running.run import inputs_of
from kebench.scoring.protocols import STRICT
from kebench.task import PackRecipe, PackSource

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
