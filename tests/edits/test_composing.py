"""An update as a value: composed, measured, stored, and written into a network."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch
from dense_reference import dense_delta
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import assert_same
from torch import Tensor

from kebench.edits.updates import Update
from kebench.edits.versions import Versions
from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.tensors import save_tensors
from kebench.models.changes import Dense, LowRank, dense_weights, is_finite
from kebench.models.layers import linear_maps, map_shape
from kebench.models.model import AbstractModel

NAMES = {
    "bert": (
        "bert.encoder.layer.0.attention.self.query.weight",  # (16, 16)
        "bert.encoder.layer.0.intermediate.dense.weight",  # (24, 16)
        "bert.encoder.layer.0.output.LayerNorm.bias",
    ),
    "gpt2": (
        "transformer.h.0.attn.c_proj.weight",  # (16, 16), stored the other way round
        "transformer.h.0.attn.c_attn.weight",  # (48, 16), stored as (16, 48)
        "transformer.h.0.ln_1.bias",
    ),
}
KINDS = pytest.mark.parametrize("kind", NAMES)
SEEDS = st.integers(0, 10**6)


@cache
def model(kind: str) -> AbstractModel:
    return tiny.model(kind, dtype=torch.float64)


def drawn(kind: str, seed: int, forms: tuple[str, ...] = ("dense", "low rank")) -> Update:
    """A random change of some of the parameters; of ranks up to 14, so that sums are recompressed."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    base = model(kind)
    maps = linear_maps(base.network)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    changes: dict[str, Dense | LowRank] = {}
    for name in chance.sample(NAMES[kind], chance.randint(0, 3)):
        form = chance.choice(forms)
        if form == "low rank" and name in maps:
            d_out, d_in = map_shape(maps[name])
            rank = chance.randint(0, 14)
            changes[name] = LowRank(normal(d_out, rank), normal(rank, d_in))
        elif form == "dense":
            changes[name] = Dense(normal(*base.network.get_parameter(name).shape))
    return Update(changes)


def deltas(kind: str, update: Mapping[str, Dense | LowRank]) -> dict[str, Tensor]:
    return {name: dense_delta(model(kind), name, change) for name, change in update.items()}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Within the rounding of sums, of the matrices' products and of a decomposition (48 columns at most)."""
    assert_same(found, expected, layers=4, terms=48, size=100.0)


# Composition -----------------------------------------------------------------------------------------


@KINDS
@given(one=SEEDS, other=SEEDS)
@settings(max_examples=40)
def test_a_sum_is_one_update_after_the_other(kind: str, one: int, other: int) -> None:
    base, u, v = model(kind).network, drawn(kind, one), drawn(kind, other)
    network = copy.deepcopy(base)
    u.apply_to(network)
    v.apply_to(network)
    names = {*u, *v}
    together = u.plus(v, base)
    assert set(together) == names
    same(dense_weights(base, together), {name: network.get_parameter(name).detach() for name in names})


@KINDS
@given(seeds=st.tuples(SEEDS, SEEDS, SEEDS))
@settings(max_examples=40)
def test_it_does_not_matter_which_two_are_added_first(kind: str, seeds: tuple[int, int, int]) -> None:
    network = model(kind).network
    u, v, w = (drawn(kind, seed) for seed in seeds)
    same(
        deltas(kind, u.plus(v, network).plus(w, network)),
        deltas(kind, u.plus(v.plus(w, network), network)),
    )


@KINDS
@given(seed=SEEDS)
@settings(max_examples=20)
def test_the_empty_update_changes_nothing(kind: str, seed: int) -> None:
    u = drawn(kind, seed)
    assert u + Update() == u
    assert Update() + u == u
    assert sum([u], Update()) == u
    assert u + {} == u


def test_ranks_add_and_the_factors_stay() -> None:
    u, v = (LowRank(torch.full((4, rank), 1.0 * rank), torch.full((rank, 5), 2.0 * rank)) for rank in (1, 1))
    both = (Update({"a": u}) + {"a": v, "b": v})["a"]
    assert isinstance(both, LowRank)
    assert torch.equal(both.B, torch.ones(4, 2))
    assert torch.equal(both.A, torch.full((2, 5), 2.0))


def of_rank(rank: int, seed: int, d_out: int = 8, d_in: int = 10) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(d_out, rank, generator=generator), torch.randn(rank, d_in, generator=generator)
    )


def rank(update: Update) -> int:
    change = update["w"]
    assert isinstance(change, LowRank)
    return len(change.A)


def test_a_rank_past_half_of_the_full_one_is_recompressed_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "kebench.edits.updates")
    three = Update({"w": of_rank(3, 0)})
    half = three + {"w": of_rank(1, 1)}
    assert rank(half) == 4
    assert not caplog.messages
    twice = three + three
    assert rank(twice) == 3
    assert len(caplog.messages) == 1
    text, _, residual = caplog.messages[0].rpartition(" ")
    assert text == "w: rank 6 recompressed to 3, relative residual"
    assert 0 < float(residual) < 1e-6


def test_a_long_stream_is_decomposed_now_and_then_and_its_rank_stays_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "kebench.edits.updates")
    total, expected, ranks = Update(), torch.zeros(8, 10), []
    for seed in range(20):
        step = of_rank(1, seed)
        total, expected = total + {"w": step}, expected + step.B @ step.A
        ranks.append(rank(total))
    # The full rank is 8. Past 4 there is nothing to be gained yet; past 12 there is, again and again.
    assert ranks == [*range(1, 13), 8, 9, 10, 11, 12, 8, 9, 10]
    assert len(caplog.messages) == 3
    change = total["w"]
    assert isinstance(change, LowRank)
    assert_same(change.B @ change.A, expected, layers=20, terms=12)


def test_what_is_not_finite_is_still_not_finite_after_a_sum() -> None:
    bad = of_rank(5, 0)
    bad.B[0, 0] = float("nan")
    assert not is_finite(Update({"w": bad}) + {"w": of_rank(5, 1)})


def test_sums_in_bfloat16_keep_small_changes() -> None:
    one, small = torch.ones(2, 2).bfloat16(), torch.full((2, 2), 2.0**-10).bfloat16()
    both = (Update({"w": Dense(one)}) + {"w": Dense(small)})["w"]
    assert isinstance(both, Dense)
    assert torch.equal(both.delta, torch.full((2, 2), 1 + 2.0**-10))


def test_a_dense_and_a_low_rank_change_need_the_network() -> None:
    name = NAMES["gpt2"][0]
    dense, low_rank = Update({name: Dense(torch.ones(16, 16))}), Update({name: of_rank(2, 0, 16, 16)})
    for first, then in ((dense, low_rank), (low_rank, dense)):
        with pytest.raises(ValueError, match=rf"^{name}: one change is dense, .* use first.plus\(later, net"):
            first + then
        network = model("gpt2").network
        factors = low_rank[name]
        assert isinstance(factors, LowRank)
        assert_same(deltas("gpt2", first.plus(then, network))[name], 1 + (factors.B @ factors.A).T, terms=3)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Dense(torch.ones(4)), Dense(torch.ones(4, 4))),
        (of_rank(1, 0, 4, 5), of_rank(1, 0, 5, 4)),
        (of_rank(1, 0, 4, 5), of_rank(1, 0, 4, 4)),
    ],
)
def test_changes_of_different_shapes_have_no_sum(first: Dense | LowRank, then: Dense | LowRank) -> None:
    with pytest.raises(ValueError, match="w: its two changes differ in shape"):
        Update({"w": first}) + {"w": then}


# A value ---------------------------------------------------------------------------------------------


def test_an_update_is_a_mapping_that_stays_as_it_is() -> None:
    changes: dict[str, Dense | LowRank] = {"w": of_rank(1, 0)}
    update = Update.of(changes)
    assert Update.of(update) is update
    changes["v"] = of_rank(1, 1)
    assert list(update) == ["w"]
    with pytest.raises(TypeError):
        update["v"] = of_rank(1, 1)  # type: ignore[index]


def test_updates_are_equal_by_form_type_and_bits() -> None:
    one = Dense(torch.ones(2, 2))
    assert Update({"w": one}) == {"w": Dense(torch.ones(2, 2))}
    for other in (Dense(torch.ones(2, 2).double()), Dense(torch.zeros(2, 2)), of_rank(1, 0, 2, 2)):
        assert Update({"w": one}) != {"w": other}
    assert Update({"w": one}) != {"v": one}
    assert Update({"w": one}) != 3


def test_an_update_edits_as_its_mapping_does() -> None:
    base = model("gpt2")
    update = Update({NAMES["gpt2"][1]: LowRank(torch.ones(48, 1).double(), torch.ones(1, 16).double())})
    prompts = tiny.prompts("gpt2", 3)
    found, expected = (
        Versions(base, [each]).log_odds(prompts, [0] * 3, ["Rome"] * 3) for each in (update, dict(update))
    )
    assert found == expected
    assert found != Versions(base, [{}]).log_odds(prompts, [0] * 3, ["Rome"] * 3)


# Norms -----------------------------------------------------------------------------------------------


@KINDS
@given(seed=SEEDS)
@settings(max_examples=30)
def test_norms_are_those_of_the_dense_change(kind: str, seed: int) -> None:
    update = drawn(kind, seed)
    expected = {name: float(delta.norm()) for name, delta in deltas(kind, update).items()}
    assert update.norms() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_norm_of_what_cancels_is_no_nan() -> None:
    change = of_rank(1, 0)
    nothing = Update({"w": change}) + {"w": LowRank(-change.B, change.A)}
    assert nothing.norms()["w"] <= 1e-7 * float((change.B @ change.A).norm())


# Files -----------------------------------------------------------------------------------------------


@given(seed=SEEDS, dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
@settings(max_examples=20)
def test_a_stored_update_is_read_with_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dtype: torch.dtype
) -> None:
    update = Update(
        {
            name: type(change)(**{part: tensor.to(dtype) for part, tensor in vars(change).items()})
            for name, change in drawn("bert", seed).items()
        }
    )
    path = tmp_path_factory.mktemp("updates") / "u.safetensors"
    update.save(path)
    assert Update.load(path) == update


def test_parts_of_parameters_with_any_name_are_told_apart(tmp_path: Path) -> None:
    update = Update({"a.B": Dense(torch.ones(1)), "a": of_rank(2, 0), "delta": of_rank(0, 0)})
    update.save(tmp_path / "u")
    assert Update.load(tmp_path / "u") == update


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"w.B": torch.ones(2, 1)}, "w: found B, wanted delta, or B and A"),
        ({"w.gamma": torch.ones(2)}, "w: found gamma, wanted delta, or B and A"),
        ({"w.B": torch.ones(2, 3), "w.A": torch.ones(1, 2)}, "found B (2, 3) and A (1, 2), which do not fit"),
    ],
)
def test_a_file_of_other_parts_is_no_update(tmp_path: Path, tensors: dict[str, Tensor], text: str) -> None:
    save_tensors(tensors, tmp_path / "u", {"format": "kebench update 1"})
    with pytest.raises(BadFile) as error:
        Update.load(tmp_path / "u")
    assert str(error.value).endswith(text)


def test_other_files_are_no_updates(tmp_path: Path) -> None:
    path = tmp_path / "u"
    with pytest.raises(BadFile, match="no such file"):
        Update.load(path)
    path.write_bytes(b"half")
    with pytest.raises(BadFile, match="not a safetensors file"):
        Update.load(path)
    save_tensors({"w": torch.ones(1)}, path)
    with pytest.raises(BadFile, match="found the format 'pt', wanted 'kebench update 1'"):
        Update.load(path)


# Written into a network ------------------------------------------------------------------------------


@KINDS
def test_the_network_shipped_has_the_weights_of_the_edited_one(kind: str) -> None:
    network = copy.deepcopy(model(kind).network)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    parameters = dict(network.named_parameters())
    update = next(u for u in (drawn(kind, seed) for seed in range(99)) if len(u) == 3)
    update.apply_to(network)
    assert all(network.get_parameter(name) is parameter for name, parameter in parameters.items())
    for name, delta in deltas(kind, update).items():
        assert_same(parameters[name].detach(), before[name] + delta, layers=2, terms=14)
    rest = [name for name in before if name not in update]
    assert all(torch.equal(parameters[name], before[name]) for name in rest)


@pytest.mark.parametrize(
    ("name", "change", "error", "text"),
    [
        ("classifier.weigth", Dense(torch.ones(2, 16)), NotFound, "did you mean 'classifier.weight'"),
        (
            "classifier.weight",
            Dense(torch.ones(16)),
            BadSetting,
            r"classifier.weight: found a change of shape \(16,\), wanted \(2, 16\)",
        ),
        ("classifier.weight", of_rank(1, 0, 16, 2), BadSetting, r"found a change of shape \(16, 2\), wanted"),
        ("bert.embeddings.LayerNorm.weight", of_rank(1, 0), BadSetting, "wanted one of a linear layer's mat"),
    ],
)
def test_a_network_that_an_update_does_not_fit_is_left_as_it_was(
    name: str, change: Dense | LowRank, error: type[Exception], text: str
) -> None:
    network = copy.deepcopy(model("bert").network)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(error, match=text):
        Update({"classifier.bias": Dense(torch.ones(2)), name: change}).apply_to(network)
    assert_same(network.state_dict(), before)
