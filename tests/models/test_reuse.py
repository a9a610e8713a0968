"""Hidden states kept from one edit to the next: the answers stay, and the layers below an edit rest."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from dense_reference import dense_delta, really_edited
from tolerance import assert_same, through
from torch import nn

from kebench.edits.versions import Versions
from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.identity import fingerprint
from kebench.models.layers import editable, linear_maps, map_shape
from kebench.models.load import FAMILIES
from kebench.models.model import AbstractModel, EditsInForce
from kebench.models.reuse import Reuse, cuts_before

DEPTH = 3
STACKS = {
    "bert": ("bert.encoder.layer",),
    "bart": ("model.encoder.layers", "model.decoder.layers"),
    "t5": ("encoder.block", "decoder.block"),
    "gpt2": ("transformer.h",),
    "llama": ("model.layers",),
}
PLACES = [
    tiny.slow_if_stood_in_for(kind, stack, layer) if layer == DEPTH - 1 else tiny.slow(kind, stack, layer)
    for kind in tiny.KINDS
    for stack in STACKS[kind]
    for layer in range(DEPTH)
]
EVERYWHERE = pytest.mark.parametrize(("kind", "stack", "layer"), PLACES)
T5_HANDS_ON_MORE = "encoder.block", "decoder.block"
"""Its first layer makes the position bias of all: these stacks cannot be cut, only the encoder left out."""


@cache
def _deep(kind: str) -> AbstractModel:
    made = tiny.model(kind)
    config = copy.deepcopy(made.network.config)
    for name in ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers"):
        if hasattr(config, name):
            setattr(config, name, DEPTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = type(made.network)(config)
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.3) if parameter.ndim > 1 else None
    return FAMILIES[tiny.FAMILY[kind]](kind, network, made.tokenizer, made.prompt_format)


def deep(kind: str) -> AbstractModel:
    """A tiny model of three layers a stack, with nothing kept yet."""
    return copy.deepcopy(_deep(kind))


def edit_of(base: AbstractModel, names: Sequence[str], seed: int, form: str = "low rank") -> Changes:
    """A rank-one change of each."""
    generator = torch.Generator().manual_seed(seed)
    update: dict[str, LowRank] = {}
    for name in names:
        d_out, d_in = map_shape(linear_maps(base.network)[name])
        b, a = (torch.randn(size, generator=generator) * 0.4 for size in ((d_out, 1), (1, d_in)))
        update[name] = LowRank(b.to(base.network.dtype), a.to(base.network.dtype))
    if form == "dense":
        return {name: Dense(dense_delta(base, name, change)) for name, change in update.items()}
    return update


def matrices(base: AbstractModel, stack: str, layer: int) -> list[str]:
    return [name for name in editable(base.network) if name.startswith(f"{stack}.{layer}.")]


@contextmanager
def counted(base: AbstractModel) -> Iterator[Counter[str]]:
    """How many rows each linear map sees."""
    seen: Counter[str] = Counter()

    def count(name: str) -> Callable[[Any, Any], None]:
        return lambda _, inputs: seen.update({name: inputs[0].shape[0]})

    handles = [
        module.register_forward_pre_hook(count(name)) for name, module in linear_maps(base.network).items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


def below(base: AbstractModel, kind: str, stack: str, layer: int) -> list[str]:
    """The linear maps that an edit of this layer leaves with nothing to do."""
    encoder = STACKS[kind][0]
    own = [] if stack in T5_HANDS_ON_MORE else [f"{stack}.{number}." for number in range(layer)]
    before = (*own, f"{encoder}.") if stack != encoder else tuple(own)
    return [name for name in linear_maps(base.network) if before and name.startswith(before)]


@EVERYWHERE
def test_answers_are_those_of_models_really_edited(kind: str, stack: str, layer: int) -> None:
    base = deep(kind)
    form = "dense" if layer == 1 else "low rank"
    updates = [edit_of(base, matrices(base, stack, layer), seed, form) for seed in range(2)]
    edited = Versions(base, updates)
    prompts, which = tiny.prompts(kind, 8) * 2, [index // 8 for index in range(16)]
    expected = [
        answer for update in updates for answer in really_edited(base, update).answer(tiny.prompts(kind, 8))
    ]
    before, guesses = fingerprint(base.network), base.answer(prompts)
    # Other neighbours, other padding; guessed right, and guessed wrong.
    assert edited.answer(prompts[:3], which[:3], guesses[:3]) == expected[:3]
    for guess in (guesses, expected):
        assert edited.answer(prompts, which, guess) == expected
        assert edited.answer(prompts[::-1], which[::-1], guess[::-1]) == expected[::-1]
    assert edited.answer(prompts[:6], which[:6], guesses[:6], beams=2) == really_edited(
        base, updates[0]
    ).answer(prompts[:6], beams=2)
    assert expected != guesses, "the updates must matter"
    assert fingerprint(base.network) == before


@EVERYWHERE
def test_logits_are_the_same_however_the_batch_is_padded(kind: str, stack: str, layer: int) -> None:
    base = deep(kind)
    base.network.double()
    update = edit_of(base, matrices(base, stack, layer), 1)
    alone = really_edited(base, update)
    under = next(Versions(base, [update])._groups(range(12), [0] * 12))[1]
    prompts = tiny.prompts(kind, 12)
    answers = [tiny.LABELS[0]] * 12 if kind == "bert" else [tiny.CITIES[i % 3] for i in range(12)]
    for chosen in ([3], list(range(12)), [11, 2], list(range(12))):
        rows = base.rows([prompts[i] for i in chosen], [answers[i] for i in chosen])
        with torch.inference_mode(), base.reuse.below(under.changed, rows), under(range(len(chosen))):
            found = base.logits(rows)
        assert_same(found, alone.logits(rows), **through(base))


@EVERYWHERE
def test_what_runs_below_an_edit_runs_once_a_row(kind: str, stack: str, layer: int) -> None:
    base = deep(kind)
    first, second = (
        Versions(base, [edit_of(base, matrices(base, stack, layer), seed, form) for seed in range(2)])
        for form in ("low rank", "dense")
    )
    prompts = tiny.prompts(kind, 6)
    targets = [tiny.LABELS[0]] * 6 if kind == "bert" else ["Oslo"] * 6
    resting = below(base, kind, stack, layer)
    first.prefers(prompts[:1], [0], targets[:1])  # once a cut, it is proved on one row
    with counted(base) as seen:
        first.prefers(prompts * 2, [0] * 6 + [1] * 6, targets * 2)
    assert {seen[name] for name in resting} <= {5}, "each row once, the first not again"
    with counted(base) as seen:
        second.prefers(prompts * 2, [1] * 6 + [0] * 6, targets * 2)
        if tiny.FAMILY[kind] == "classifier":
            second.answer(prompts, [0] * 6, targets)
    assert {seen[name] for name in resting} <= {0}
    assert all(seen[name] >= 12 for name in matrices(base, stack, layer)), "the edited layer does run"
    assert bool(resting) == ((layer > 0 and stack not in T5_HANDS_ON_MORE) or stack != STACKS[kind][0])


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_decoding_uses_the_kept_encoder_states(kind: str) -> None:
    base = deep(kind)
    edited = Versions(base, [edit_of(base, matrices(base, STACKS[kind][1], 1), 0)])
    prompts = tiny.prompts(kind, 6)
    edited.answer(prompts, [0] * 6, [""] * 6)
    with counted(base) as seen:
        edited.answer(prompts, [0] * 6, [""] * 6, beams=2)
    assert not any(name.startswith(STACKS[kind][0]) for name in seen)
    assert seen


@pytest.mark.parametrize("where", ["once kept", "never kept"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("kind", "stack"), [("bert", "bert.encoder.layer"), ("bart", "model.decoder.layers")]
)
def test_a_pass_that_fails_leaves_the_network_as_it_was(
    kind: str, stack: str, error: type[BaseException], where: str
) -> None:
    base = deep(kind)
    edited = Versions(base, [edit_of(base, matrices(base, stack, 2), 0)])
    prompts, targets = tiny.prompts(kind, 4), [tiny.LABELS[0] if kind == "bert" else "Oslo"] * 4
    right = edited.prefers(prompts, [0] * 4, targets)
    if where == "never kept":
        base.reuse = Reuse(base.name, base.network, base.logits)
    parts = {name: dict(vars(module)) for name, module in base.network.named_modules()}
    hooks = {name: len(module._forward_hooks) for name, module in base.network.named_modules()}

    def fail(*_: Any) -> None:
        raise error

    layer = 2 if where == "once kept" else 0
    handle = base.network.get_submodule(f"{stack}.{layer}").register_forward_pre_hook(fail)
    with pytest.raises(error):
        edited.prefers(prompts, [0] * 4, targets)
    handle.remove()
    for name, module in base.network.named_modules():
        assert vars(module).keys() == parts[name].keys()
        assert len(module._forward_hooks) == hooks[name]
    assert edited.prefers(prompts, [0] * 4, targets) == right


def test_a_layer_that_hands_on_more_than_its_states_is_never_skipped() -> None:
    base = deep("bert")
    layers = base.network.get_submodule("bert.encoder.layer")
    assert isinstance(layers, nn.ModuleList)
    aside: list[torch.Tensor] = []
    embeddings = base.network.get_submodule("bert.embeddings")
    embeddings.register_forward_pre_hook(lambda *_: aside.clear())
    layers[0].get_submodule("attention").register_forward_hook(lambda _m, _i, out: aside.append(out[0]))
    layers[2].register_forward_hook(lambda _m, _i, out: out + (aside[0] if aside else 0))
    update = edit_of(base, matrices(base, "bert.encoder.layer", 2), 0)
    prompts = tiny.prompts("bert", 8)
    edited = Versions(base, [update])
    with counted(base) as seen:
        for _ in range(2):
            assert edited.answer(prompts, [0] * 8, [""] * 8) == plainly(base, update, prompts)
    assert seen["bert.encoder.layer.0.attention.self.query.weight"] >= 32


def plainly(base: AbstractModel, update: Changes, prompts: Sequence[str]) -> list[str]:
    """What the edited model says, nothing being reused."""
    under = next(Versions(base, [update])._groups(range(len(prompts)), [0] * len(prompts)))[1]
    return base.answer(prompts, under=EditsInForce(under.enter, frozenset()))


@pytest.mark.parametrize("change", ["written", "loaded", "cast", "replaced"])
def test_states_of_other_weights_are_not_used(change: str) -> None:
    base, prompts = deep("bert"), tiny.prompts("bert", 8)
    update = edit_of(base, matrices(base, "bert.encoder.layer", 2), 0)
    Versions(base, [update]).answer(prompts, [0] * 8, [""] * 8)
    weights = {name: tensor * 0.5 for name, tensor in base.network.state_dict().items() if tensor.ndim > 1}
    if change == "written":
        base.network.get_parameter("bert.encoder.layer.0.output.dense.weight").mul_(-3)
    elif change == "loaded":
        base.network.load_state_dict(weights, strict=False)
    elif change == "cast":
        base.network.double()
        update = edit_of(base, matrices(base, "bert.encoder.layer", 2), 0)
    else:
        for name, tensor in weights.items():
            base.network.get_parameter(name).data = tensor
    rows = base.rows(prompts, [tiny.LABELS[0]] * 8)
    under = next(Versions(base, [update])._groups(range(8), [0] * 8))[1]
    with torch.inference_mode(), base.reuse.below(under.changed, rows), under(range(8)):
        found = base.logits(rows)
    assert_same(found, really_edited(base, update).logits(rows), **through(base))


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
def test_what_is_kept_stays_within_its_bytes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, prompts = deep(kind), tiny.prompts(kind, 12)
    update = edit_of(base, matrices(base, STACKS[kind][-1], 2), 0)
    edited = Versions(base, [update])
    expected = really_edited(base, update).answer(prompts)
    for room in (0, 4000, 2**20):
        monkeypatch.setattr("kebench.models.reuse.STORE_BYTES", room)
        for _ in range(2):
            assert edited.answer(prompts, [0] * 12, ["Oslo"] * 12) == expected
            held = sum(states.untyped_storage().nbytes() for states in base.reuse._kept.values())
            assert held == base.reuse._bytes <= room
    assert base.reuse._bytes > 4000


def test_the_longest_unused_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    base, prompts = deep("bert"), tiny.prompts("bert", 3)
    edited = Versions(base, [edit_of(base, matrices(base, "bert.encoder.layer", 1), 0)])
    for prompt in (prompts[0], prompts[1], prompts[0]):
        edited.answer([prompt], [0], [""])
    ids = [tuple(row) for row in base.prompt_ids(prompts)]
    one_byte_short = base.reuse._bytes + len(ids[2]) * 16 * 4 - 1
    monkeypatch.setattr("kebench.models.reuse.STORE_BYTES", one_byte_short)
    edited.answer(prompts[2:], [0], [""])
    assert [key[-1] for key in base.reuse._kept] == [ids[0], ids[2]]


LAST = ".2.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("kind", "changed", "cuts"),
    [
        ("bert", ["bert.encoder.layer.2.output.dense.weight"], ["bert.encoder.layer.1"]),
        (
            "bert",
            ["bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer.1.output.dense.bias"],
            ["bert.encoder.layer.0"],
        ),
        ("bert", ["bert.encoder.layer.0.output.dense.weight"], []),
        ("bert", ["bert.encoder.layer.2.output.dense.weight", "bert.pooler.dense.weight"], []),
        ("gpt2", ["transformer.h.2.mlp.c_fc.weight", "transformer.wpe.weight"], []),
        ("gpt2", ["transformer.h.2.mlp.c_fc.weight"], ["transformer.h.1"]),
        ("bart", ["model.decoder.layers.0.fc1.weight"], ["model.encoder"]),
        ("bart", [f"model.decoder.layers{LAST}"], ["model.encoder", "model.decoder.layers.1"]),
        ("bart", [f"model.encoder.layers{LAST}"], ["model.encoder.layers.1"]),
        ("bart", [f"model.encoder.layers{LAST}", f"model.decoder.layers{LAST}"], ["model.encoder.layers.1"]),
        ("bart", [f"model.decoder.layers{LAST}", "model.decoder.layernorm_embedding.weight"], []),
        ("bart", [f"model.decoder.layers{LAST}", "model.shared.weight"], []),
        ("bart", [], []),
    ],
)
def test_cuts_lie_before_all_that_changed(kind: str, changed: list[str], cuts: list[str]) -> None:
    assert [cut.name for cut in cuts_before(deep(kind).network, frozenset(changed))] == cuts


def test_a_tensor_with_two_places_is_changed_in_both() -> None:
    network = deep("llama").network
    network.get_submodule("model.layers.0.mlp.up_proj").weight = network.get_parameter(
        "model.layers.2.mlp.up_proj.weight"
    )
    assert cuts_before(network, frozenset(["model.layers.2.mlp.up_proj.weight"])) == ()
    assert cuts_before(network, frozenset(["model.layers.2.mlp.gate_proj.weight"])) != ()


def test_two_stacks_whose_order_is_unknown_are_not_cut() -> None:
    network = deep("bert").network
    network.adapters = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
    layer = "bert.encoder.layer.2.output.dense.weight"
    assert cuts_before(network, frozenset([layer])) != ()
    assert cuts_before(network, frozenset([layer, "adapters.1.weight"])) == ()


def fails_once(base: AbstractModel, error: Exception, parameter: str) -> list[Exception]:
    """Lets the module of a parameter raise the error in its next pass; returns a list, empty after that."""
    left = [error]

    def fail(*_: Any) -> None:
        if left:
            raise left.pop()

    base.network.get_submodule(parameter.rpartition(".")[0]).register_forward_pre_hook(fail)
    return left


LAST_LAYER = "bert.encoder.layer.2.output.dense.weight"


def last_layer_edited() -> tuple[AbstractModel, Versions, list[str]]:
    base = deep("bert")
    edited = Versions(base, [edit_of(base, [LAST_LAYER], 0)])
    prompts = tiny.prompts("bert", 4)
    assert base.one_pass.holds_edits([LAST_LAYER])  # before passes are counted
    assert base.one_pass.holds_rows()
    return base, edited, prompts


def test_memory_that_runs_out_in_a_proof_does_not_end_reuse() -> None:
    base, edited, prompts = last_layer_edited()
    left = fails_once(base, torch.OutOfMemoryError("full"), LAST_LAYER)
    edited.prefers(prompts, [0] * 4, [tiny.LABELS[0]] * 4)
    assert not left, "the error must have come"
    assert base.reuse._proofs == {"bert.encoder.layer.1": True}
    assert base.batching.backed_off == 1


def test_an_error_that_no_network_raises_by_itself_is_passed_on_by_a_proof() -> None:
    base, edited, prompts = last_layer_edited()
    fails_once(base, OSError("the disk is gone"), LAST_LAYER)
    with pytest.raises(OSError, match="the disk is gone"):
        edited.prefers(prompts, [0] * 4, [tiny.LABELS[0]] * 4)
    edited.prefers(prompts, [0] * 4, [tiny.LABELS[0]] * 4)
    assert base.reuse._proofs == {"bert.encoder.layer.1": True}


def test_a_cut_that_a_network_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    base, edited, prompts = last_layer_edited()
    fails_once(base, TypeError("wants a tuple"), LAST_LAYER)
    with caplog.at_level(logging.INFO, logger="kebench"):
        edited.prefers(prompts, [0] * 4, [tiny.LABELS[0]] * 4)
    assert base.reuse._proofs == {"bert.encoder.layer.1": False}
    assert [record.getMessage() for record in caplog.records] == [
        "bert: the hidden states of bert.encoder.layer.1 cannot be reused (TypeError: wants a tuple)"
    ]
