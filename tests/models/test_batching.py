"""Batches: how large they begin, how they give way to a memory that runs out, and that no answer sees it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from random_updates import random_low_rank
from transformers import BertConfig

from kebench.edits.versions import Versions
from kebench.models.batching import MOST_TOKENS, TOKENS_A_BATCH, Batching, batching, tokens_in
from kebench.models.changes import Changes
from kebench.models.layers import linear_maps
from kebench.models.model import AbstractModel

KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])
BATCHINGS = (Batching(1, 1), Batching(3, 3), Batching(limit=60))


@contextmanager
def memory_for(base: AbstractModel, rows: int, asked: list[int] | None = None) -> Iterator[None]:
    """A network that runs out of memory over more rows than that, in its first layer."""

    def check(_: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        if asked is not None:
            asked.append(len(inputs[0]))
        if len(inputs[0]) > rows:
            raise torch.OutOfMemoryError("no more")

    first = next(iter(linear_maps(base.network).values()))
    handle = first.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


# The arithmetic --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "rows", "longest", "fits"),
    [
        (Batching(limit=40), 4, 10, True),
        (Batching(limit=40), 5, 10, False),
        (Batching(limit=40), 1, 99, True),  # one row always may
        (Batching(3, 3), 3, 10_000, True),
        (Batching(3, 3), 4, 1, False),
    ],
)
def test_what_fits(limits: Batching, rows: int, longest: int, fits: bool) -> None:
    assert limits.fits(rows, longest) is fits


def test_half_of_what_did_not_fit_is_the_limit_from_then_on() -> None:
    once = Batching(limit=4096).halved(100, 20)  # 2000 tokens were too many
    assert (once.limit, once.backed_off) == (1000, 1)
    assert (once.halved(41, 20).limit, once.halved(41, 20).backed_off) == (21 * 20, 2)
    assert once.halved(200, 20).limit == 1000  # never more than before
    assert Batching(64, 64).halved(64, 20).limit == 32
    assert Batching(64, 64).halved(5, 20).limit == 3
    assert Batching(64, 64).halved(5, 20).facts() == {
        "batch_size": 64, "batch_limit": "3 rows", "batches_backed_off": 1,
    }  # fmt: skip
    assert Batching().facts()["batch_limit"] == "4096 padded prompt tokens"


def test_an_accelerator_begins_with_more_by_the_memory_it_has() -> None:
    config = BertConfig(hidden_size=768, num_hidden_layers=12, vocab_size=30_000)
    # A token: 4 bytes of 2·12·768 (keys, values) + 20·768 (a layer) + 3·30,000 (logits) = 495,168.
    assert tokens_in(16 * 10**9, config) == 4 * 10**9 // 495_168 == 8078
    assert tokens_in(10**9, config) == TOKENS_A_BATCH
    assert tokens_in(10**12, config) == MOST_TOKENS
    assert batching("auto", config, torch.device("cpu")) == Batching()
    assert batching(7, config, torch.device("cuda")) == Batching(7, 7)


def test_the_memory_of_the_device_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 16 * 10**9

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    config = BertConfig(hidden_size=768, num_hidden_layers=12, vocab_size=30_000)
    assert batching("auto", config, torch.device("cuda:1")) == Batching(limit=8078)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_number_is_the_rows_of_every_batch_but_the_last(rows: int) -> None:
    base = tiny.model("bart")
    base.batching = Batching(rows, rows)
    sizes = [len(batch) for batch in base.batches(tiny.prompts("bart", 20))]
    assert sizes == [rows] * (20 // rows) + [20 % rows] * (20 % rows > 0)


# No answer sees it -----------------------------------------------------------------------------------


def everything(base: AbstractModel, kind: str) -> dict[str, Any]:
    """Answers, guessed and free, beams, teacher-forced verdicts; of the base model and of edited ones."""
    prompts = tiny.prompts(kind, 5)
    which = [index * 3 % 4 for index in range(5)]
    free = base.answer(prompts)
    low_rank: list[Changes] = [random_low_rank(base, seed) for seed in range(4)]
    edited = Versions(base, low_rank)
    targets = ["SUPPORTS" if kind == "bert" else "Oslo"] * 5
    return {
        "free": free,
        "guessed": base.answer(prompts, guesses=targets),
        "beams": base.hypotheses(prompts[:4], 3),
        "prefers": base.prefers(prompts, targets),
        "margins": [round(margin, 3) for margin in base.margins(prompts, targets)],
        "edited": edited.answer(prompts, which, free),
        "edited prefers": edited.prefers(prompts, which, targets),
    }


def fresh(kind: str) -> AbstractModel:
    return tiny.model(kind) if kind == "bert" else tiny.fitted(kind)


@cache
def expected_of(kind: str) -> dict[str, Any]:
    return everything(fresh(kind), kind)


@KINDS
def test_answers_are_the_same_in_batches_of_any_size(kind: str) -> None:
    base, expected = fresh(kind), expected_of(kind)
    assert expected["edited"] != expected["free"]
    for limits in BATCHINGS:
        base.batching = limits
        assert everything(base, kind) == expected, limits
        assert base.batching == limits


@KINDS
@pytest.mark.parametrize("limits", [Batching(), Batching(8, 8)])
def test_answers_are_the_same_where_memory_runs_out(kind: str, limits: Batching) -> None:
    base, expected = fresh(kind), expected_of(kind)
    # One question has three rows in a beam search; a seq2seq's encoder sees the question once.
    base.batching = limits
    with memory_for(base, 3):
        assert everything(base, kind) == expected
    assert base.batching.backed_off > 0
    assert base.batching.limit < limits.limit


def test_the_smaller_size_is_kept() -> None:
    base = fresh("bert")
    prompts = tiny.prompts("bert", 16)
    base.batching = Batching(16, 16)
    assert base.one_pass.holds_rows()  # before rows are counted
    asked: list[int] = []
    with memory_for(base, 4, asked):
        base.answer(prompts)
        assert asked == [16, 8, 4, 4, 8, 4, 4]  # each half by itself: the second may hold longer rows
        assert (base.batching.limit, base.batching.backed_off) == (4, 3)
        asked.clear()
        base.answer(prompts)
    assert asked == [4, 4, 4, 4]
    assert base.batching.backed_off == 3


@KINDS
def test_a_single_row_that_does_not_fit_is_an_error_and_leaves_nothing_behind(kind: str) -> None:
    base = fresh(kind)
    prompts = tiny.prompts(kind, 6)
    expected = base.answer(prompts)
    edited = Versions(base, [random_low_rank(base, 0)])
    with memory_for(base, 0), pytest.raises(torch.OutOfMemoryError):
        edited.answer(prompts, [0] * 6, expected)
    maps = [module for module in base.network.modules() if module._forward_hooks]
    assert maps == []
    assert base.answer(prompts) == expected


def test_other_errors_are_not_taken_for_it() -> None:
    base = fresh("bert")

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    base.network.get_input_embeddings().register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="a bug"):
        base.answer(tiny.prompts("bert", 4))
    assert base.batching == Batching()


# Nor how edits are put together -----------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("size", [1, tiny.slow(3)])
def test_order_groups_and_batches_of_edits_change_no_answer(kind: str, size: int) -> None:
    base = fresh(kind)
    updates = [random_low_rank(base, seed) for seed in range(8)]
    prompts = tiny.prompts(kind, 4)
    chance = random.Random(f"{kind}:{size}")

    def said(edits: Sequence[int]) -> dict[tuple[int, str], str]:
        """What each of these edited models answers, asked together."""
        rows = [(place, prompt) for place in range(len(edits)) for prompt in prompts]
        chance.shuffle(rows)
        which, asked = [place for place, _ in rows], [prompt for _, prompt in rows]
        edited = Versions(base, [updates[edit] for edit in edits])
        answers = edited.answer(asked, which, base.answer(asked))
        return {(edits[place], prompt): text for (place, prompt), text in zip(rows, answers, strict=True)}

    expected = said(range(8))
    assert len(set(expected.values())) > 1
    order = chance.sample(range(8), 8)
    for start in range(0, 8, size):
        base.batching = chance.choice(BATCHINGS)
        assert said(order[start : start + size]).items() <= expected.items()
