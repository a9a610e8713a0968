"""Updates as values, and the ways of putting them in force: all the same, and all taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tiny
import torch
from dense_reference import dense_delta, really_edited
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import random_low_rank, stacked
from tolerance import assert_same, through
from torch import Tensor

from kebench.models.changes import (
    Changes,
    Dense,
    LowRank,
    LowRankBatch,
    dense_applied,
    dense_weights,
    is_finite,
    low_rank_applied,
    substituted,
)
from kebench.models.identity import fingerprint
from kebench.models.layers import as_stored, editable, linear_maps, map_shape
from kebench.models.model import AbstractModel, EditsInForce

KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])


def dense_maps(base: AbstractModel, seed: int) -> dict[str, Tensor]:
    """A random change of every matrix, (d_out, d_in)."""
    maps, generator = linear_maps(base.network), torch.Generator().manual_seed(seed)
    return {
        name: 0.1
        * torch.randn(map_shape(maps[name]), generator=generator).to(base.network.get_parameter(name))
        for name in editable(base.network)
    }


def as_update(base: AbstractModel, deltas: dict[str, Tensor]) -> Changes:
    maps = linear_maps(base.network)
    return {name: Dense(as_stored(maps[name], delta)) for name, delta in deltas.items()}


def scored(base: AbstractModel, prompts: list[str]) -> Tensor:
    targets = ["SUPPORTS" if base.family == "classifier" else "New York"] * len(prompts)
    return base.logits(base.rows(prompts, targets))


@KINDS
def test_low_rank_dense_and_replaced_weights_are_one(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    updates = [random_low_rank(base, seed) for seed in range(5)]
    prompts = tiny.prompts(kind, 9)
    which = [4, 0, 1, 1, 3, 2, 0, 4, 2]
    with torch.no_grad():
        with low_rank_applied(base.network, stacked(base, updates), which):
            together = scored(base, prompts)
        width = len(together) // len(prompts)
        plain = scored(base, prompts)
        for row, (prompt, edit) in enumerate(zip(prompts, which, strict=True)):
            replaced = scored(really_edited(base, updates[edit]), [prompt])
            dense: Changes = {
                name: Dense(dense_delta(base, name, change)) for name, change in updates[edit].items()
            }
            for update in (updates[edit], dense):
                with substituted(base.network, dense_weights(base.network, update)):
                    assert_same(scored(base, [prompt]), replaced, **through(base))
            assert_same(together[row * width : (row + 1) * width], replaced, **through(base))
    assert not torch.allclose(together, plain, atol=1e-2), "the updates must matter"


ANYWHERE = pytest.mark.parametrize(
    "which", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0], [1] * 6]
)


@KINDS
@ANYWHERE
def test_rows_of_an_edit_may_stand_anywhere(kind: str, which: list[int]) -> None:
    """Together in runs of one length, in runs of several, or scattered: each row is its own edit's."""
    base = tiny.model(kind, dtype=torch.float64)
    updates = [random_low_rank(base, seed) for seed in range(3)]
    prompts = tiny.prompts(kind, 6)
    found = []
    for learning in (False, True):
        with (
            torch.set_grad_enabled(learning),
            low_rank_applied(base.network, stacked(base, updates), which),
        ):
            found.append(scored(base, prompts).chunk(len(prompts)))
    for row, (prompt, edit) in enumerate(zip(prompts, which, strict=True)):
        alone = scored(really_edited(base, updates[edit]), [prompt])
        for together in found:
            assert_same(together[row], alone, **through(base))


@KINDS
@ANYWHERE
def test_a_loss_reaches_every_edits_factors(kind: str, which: list[int]) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    batches = stacked(base, [random_low_rank(base, seed) for seed in range(3)])
    factors = [tensor.requires_grad_() for batch in batches.values() for tensor in (batch.B, batch.A)]
    prompts = tiny.prompts(kind, 6)
    with low_rank_applied(base.network, batches, which):
        together = torch.autograd.grad(scored(base, prompts).square().sum(), factors)
    alone = [torch.zeros_like(factor) for factor in factors]
    for prompt, edit in zip(prompts, which, strict=True):
        with low_rank_applied(base.network, batches, [edit]):
            found = torch.autograd.grad(scored(base, [prompt]).square().sum(), factors)
        alone = [total + part for total, part in zip(alone, found, strict=True)]
    assert_same(together, alone, **through(base, passes=2))


def test_columns_of_zeros_take_no_place() -> None:
    b = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    a = torch.arange(6.0).reshape(3, 2)
    small = LowRank(b, a).without_zeros()
    assert small.B.shape == (2, 2)
    assert_same(small.B @ small.A, b @ a, terms=3)


@KINDS
def test_dense_maps_in_force_are_each_rows_replaced_weights(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    prompts = tiny.prompts(kind, 4)
    updates = [dense_maps(base, seed) for seed in range(4)]
    with torch.no_grad(), dense_applied(base.network, updates):
        together = scored(base, prompts).chunk(4)
    assert not torch.allclose(torch.cat(together), scored(base, prompts), atol=1e-2), "they must matter"
    replaced = [really_edited(base, as_update(base, deltas)) for deltas in updates]
    for row, prompt in enumerate(prompts):
        assert_same(together[row], scored(replaced[row], [prompt]), **through(base))
    if kind != "bert":  # beam search asks several rows for each
        under = EditsInForce(
            lambda rows: dense_applied(base.network, [updates[row] for row in rows]), frozenset(updates[0])
        )
        found = base.hypotheses(prompts, 3, under=under)
        alone = [replaced[row].hypotheses([prompt], 3)[0] for row, prompt in enumerate(prompts)]
        assert found == alone


def test_gpt2s_weights_are_stored_the_other_way_round() -> None:
    base = tiny.model("gpt2", dtype=torch.float64)
    name = "transformer.h.0.attn.c_attn.weight"
    assert base.network.get_parameter(name).shape == (16, 48)  # (d_in, d_out)
    assert map_shape(linear_maps(base.network)[name]) == (48, 16)
    numbers = torch.arange(16.0, dtype=torch.float64)
    update = {name: LowRank(torch.ones(48, 1).double(), numbers[None])}
    delta = dense_weights(base.network, update)[name] - base.network.get_parameter(name)
    assert_same(delta, numbers[:, None].expand(16, 48), layers=2)  # added, and taken away again


@given(seed=st.integers(0, 999), ranks=st.lists(st.integers(0, 4), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_norm_of_factors_is_the_norm_of_their_product(seed: int, ranks: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    updates = [
        LowRank(
            torch.randn(5, rank, generator=generator, dtype=torch.float64),
            torch.randn(rank, 7, generator=generator, dtype=torch.float64),
        )
        for rank in ranks
    ]
    expected = torch.stack([(update.B @ update.A).square().sum() for update in updates])
    batch = LowRankBatch.stack(updates)
    assert_same(batch.squared_norm(), expected, layers=2, terms=35)
    for edit, update in enumerate(updates):
        assert_same(batch[edit].B @ batch[edit].A, update.B @ update.A, terms=4)


# --- the base is as it was


@KINDS
def test_the_fingerprint_sees_one_bit_of_any_tensor(kind: str) -> None:
    base = tiny.model(kind)
    before = fingerprint(base.network)
    assert fingerprint(tiny.model(kind).network) == before
    assert fingerprint(tiny.model(kind, seed=1).network) != before
    tensors = [*base.network.parameters(), *(b for b in base.network.buffers() if b.is_floating_point())]
    for tensor in tensors:
        with torch.no_grad():
            bits = tensor.view(-1)[-1:].view(torch.int32)
            bits ^= 1
            assert fingerprint(base.network) != before
            bits ^= 1
    assert fingerprint(base.network) == before


@contextmanager
def in_force(base: AbstractModel, way: str) -> Iterator[None]:
    updates = [random_low_rank(base, 0)]
    if way == "hooks":
        with low_rank_applied(base.network, stacked(base, updates), [0]):
            yield
    elif way == "dense hooks":
        with dense_applied(base.network, [dense_maps(base, 0)]):
            yield
    else:
        with substituted(base.network, dense_weights(base.network, updates[0])):
            yield


@KINDS
@pytest.mark.parametrize("way", ["hooks", "dense hooks", "substitution"])
@pytest.mark.parametrize("fails", [False, True])
def test_an_edit_in_force_is_taken_back_even_after_an_exception(kind: str, way: str, fails: bool) -> None:
    base = tiny.model(kind)
    before, pointers = fingerprint(base.network), [p.data_ptr() for p in base.network.parameters()]
    prompt = tiny.prompts(kind, 1)
    plain = scored(base, prompt)
    try:
        with in_force(base, way):
            assert not torch.equal(scored(base, prompt), plain)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert fingerprint(base.network) == before
    assert [p.data_ptr() for p in base.network.parameters()] == pointers
    assert not [module for module in base.network.modules() if module._forward_hooks]
    assert torch.equal(scored(base, prompt), plain)


def test_substitution_of_a_missing_parameter_leaves_the_others_in_place() -> None:
    base = tiny.model("bert")
    before = fingerprint(base.network)
    name = editable(base.network)[0]
    weights = {name: torch.zeros(16, 16), "no.such.weight": torch.zeros(1)}
    with pytest.raises(AttributeError), substituted(base.network, weights):
        pass
    assert fingerprint(base.network) == before


# --- finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_update_with_one_bad_number_is_not_finite(bad: float) -> None:
    good = torch.zeros(3, 2)
    worse = good.clone()
    worse[1, 1] = bad
    assert is_finite({"a": Dense(good), "b": LowRank(good, good.T)})
    assert is_finite({})
    assert not is_finite({"a": Dense(good), "b": Dense(worse)})
    assert not is_finite({"b": LowRank(worse, good.T)})
    assert not is_finite({"b": LowRank(good, worse.T)})
