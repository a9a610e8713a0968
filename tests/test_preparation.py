"""What an editor learns from: what is held out of training is not among it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kebench import preparation
from kebench.base_answers import AnsweredParaphrase, AnsweredRecord
from kebench.editor import TrainingSet
from kebench.protocols import STRICT

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
    ground: Any = SimpleNamespace(pack=pack, model=None, identity="", protocol=STRICT, targets="alternative")
    progress: Any = SimpleNamespace(stage=lambda name: None)
    return preparation.training_set(ground, progress)


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
