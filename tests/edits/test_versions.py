"""Edited models: many in one batch answer as each would by itself, with its weights really replaced."""

from __future__ import annotations

import gc
import weakref

import pytest
import tiny
import torch
from dense_reference import dense_delta, really_edited
from random_updates import random_low_rank
from tolerance import through, tolerance

from kebench.edits.versions import Versions, in_force
from kebench.models.batching import Batching
from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.identity import fingerprint
from kebench.models.layers import editable
from kebench.models.model import AbstractModel

KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])


def base_of(kind: str) -> AbstractModel:
    """A model that edits sway: the fitted classifier is too sure of itself."""
    return tiny.model(kind) if kind == "bert" else tiny.fitted(kind)


def as_dense(base: AbstractModel, update: dict[str, LowRank]) -> Changes:
    return {name: Dense(dense_delta(base, name, change)) for name, change in update.items()}


@KINDS
@pytest.mark.parametrize(
    ("form", "beams"), [tiny.slow("low rank", 1), tiny.slow("dense", 1), ("mixed", 1), ("mixed", 3)]
)
def test_many_edited_models_at_once_answer_as_each_alone(kind: str, form: str, beams: int) -> None:
    base = base_of(kind)
    plain_updates: list[dict[str, LowRank]] = [random_low_rank(base, seed) for seed in range(3)]
    updates: list[Changes] = [*plain_updates, {}]
    if form != "low rank":
        updates[1:2] = [as_dense(base, plain_updates[1])]
    if form == "dense":
        updates = [as_dense(base, plain_updates[index]) for index in range(3)] + [{}]
    prompts = tiny.prompts(kind, 16)
    which = [(5 * index + index // 4) % 4 for index in range(16)]
    before = fingerprint(base.network)

    edited = Versions(base, updates)
    answers = edited.answer(prompts, which, base.answer(prompts), beams=beams)
    preferred = edited.prefers(prompts, which, base.answer(prompts) if kind == "bert" else ["Oslo"] * 16)

    odds = edited.log_odds(prompts, which, base.answer(prompts) if kind == "bert" else ["Oslo"] * 16)

    for edit in range(4):
        alone = really_edited(base, updates[edit])
        mine = [index for index in range(16) if which[index] == edit]
        asked = [prompts[index] for index in mine]
        assert [answers[index] for index in mine] == alone.answer(asked, beams=beams)
        targets = base.answer(asked) if kind == "bert" else ["Oslo"] * len(asked)
        assert [preferred[index] for index in mine] == alone.prefers(asked, targets)
        believed = alone.log_odds(asked, targets)
        near = tolerance(torch.float32, **through(base), size=max(map(abs, [20.0, *believed])))
        assert [odds[index] for index in mine] == pytest.approx(believed, abs=near)
    assert fingerprint(base.network) == before
    assert edited.failures == {}
    untouched = [index for index in range(16) if which[index] == 3]
    assert [answers[i] for i in untouched] == base.answer([prompts[i] for i in untouched], beams=beams)
    assert answers != base.answer(prompts, beams=beams), "the updates must matter"


@KINDS
def test_guesses_and_order_change_no_edited_answer(kind: str) -> None:
    base = base_of(kind)
    edited = Versions(base, [random_low_rank(base, seed, size=0.15) for seed in range(3)])
    prompts = tiny.prompts(kind, 24)
    which = [index % 3 for index in range(24)]
    first = edited.answer(prompts, which, [""] * 24)
    assert edited.answer(prompts, which, first) == first
    assert edited.answer(prompts, which, base.answer(prompts)) == first
    back = edited.answer(prompts[::-1], which[::-1], base.answer(prompts[::-1]))
    assert back[::-1] == first


@KINDS
def test_small_batches_keep_rows_with_their_edits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of(kind)
    edited = Versions(base, [random_low_rank(base, seed) for seed in range(4)])
    prompts, which = tiny.prompts(kind, 20), [index * 7 % 4 for index in range(20)]
    whole = edited.answer(prompts, which, base.answer(prompts))
    monkeypatch.setattr(base, "batching", Batching(limit=30))
    assert edited.answer(prompts, which, base.answer(prompts)) == whole


@pytest.mark.parametrize("form", ["low rank", "dense"])
def test_an_update_that_is_not_finite_is_a_failure_and_spoils_no_other(form: str) -> None:
    base = tiny.fitted("bart")
    good = random_low_rank(base, 0)
    name = editable(base.network)[0]
    bad: Changes = {name: LowRank(torch.full((16, 1), float("nan")), torch.ones(1, 16))}
    if form == "dense":
        bad = {name: Dense(torch.full((16, 16), float("inf")))}
    edited = Versions(base, [bad, good])
    assert edited.failures == {0: "weights not finite"}
    prompts = tiny.prompts("bart", 4)
    assert edited.answer(prompts, [1] * 4, [""] * 4) == really_edited(base, good).answer(prompts)


def test_no_rows_no_answers() -> None:
    base = tiny.fitted("bart")
    for updates in ([], [{}], [random_low_rank(base, 0)]):
        edited = Versions(base, updates)
        assert edited.answer([], [], []) == []
        assert edited.prefers([], [], []) == []


@KINDS
def test_the_weights_of_an_edited_model_are_freed_with_it(kind: str) -> None:
    base = base_of(kind)
    edited = in_force(base, random_low_rank(base, 0))
    prompts, update = tiny.prompts(kind, 4), random_low_rank(base, 1)
    Versions(edited, [update]).answer(prompts, [0] * 4, edited.answer(prompts))
    network = weakref.ref(edited.network)
    gc.disable()
    try:
        del edited
        assert network() is None
    finally:
        gc.enable()
