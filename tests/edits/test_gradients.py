"""Gradient factors against autograd on the weights, for every editable matrix of every family."""

from __future__ import annotations

import pytest
import tiny
import torch
from dense_reference import dense_gradients, really_edited
from random_updates import random_low_rank, stacked
from tolerance import assert_same, through
from torch import Tensor

from kebench.edits.gradients import GradientFactors, Probe
from kebench.models.changes import low_rank_applied
from kebench.models.identity import fingerprint
from kebench.models.layers import editable
from kebench.models.model import AbstractModel, base_weights
from kebench.models.rows import target_loss

KINDS = pytest.mark.parametrize("kind", tiny.KINDS)


def asked(kind: str) -> tuple[list[str], list[str]]:
    """Prompts and targets of different lengths."""
    targets = ["SUPPORTS", "REFUTES", "SUPPORTS"] if kind == "bert" else ["Rome", "New York", "a, b > c"]
    return ["where was Ada Bell born?", "where?", "the city of Bo Cole is?"], targets


def probed(base: AbstractModel, kind: str) -> dict[str, GradientFactors]:
    rows = base.rows(*asked(kind))
    probe = Probe()
    with probe.watching(base.network, editable(base.network)):
        losses = target_loss(base.logits(rows), rows)
        return dict(probe.factors(losses))


@KINDS
def test_factors_multiply_to_each_rows_own_gradient(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    before = fingerprint(base.network)
    factors = probed(base, kind)
    names = editable(base.network)
    assert set(factors) == set(names)
    for row, (prompt, target) in enumerate(zip(*asked(kind), strict=True)):
        expected = dense_gradients(base, prompt, target, names)
        found = {name: factors[name].D[row].T @ factors[name].X[row] for name in names}
        assert_same(found, expected, **through(base, passes=2))
    assert fingerprint(base.network) == before
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in base.network.parameters()
    )
    assert not [module for module in base.network.modules() if module._forward_hooks]


@KINDS
def test_factors_under_an_edit_in_force_are_the_edited_models(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    updates = [random_low_rank(base, seed, size=0.1) for seed in range(3)]
    with low_rank_applied(base.network, stacked(base, updates), range(3)):
        factors = probed(base, kind)
    names = editable(base.network)
    for row, (prompt, target) in enumerate(zip(*asked(kind), strict=True)):
        expected = dense_gradients(really_edited(base, updates[row]), prompt, target, names)
        found = {name: factors[name].D[row].T @ factors[name].X[row] for name in names}
        assert_same(found, expected, **through(base, passes=2))


@KINDS
def test_padding_has_no_gradient(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    rows = base.rows(*asked(kind))
    factors = probed(base, kind)
    seen = 0
    for name, factor in factors.items():
        decoder_side = "decoder" in name and not ("EncDecAttention.k" in name or "EncDecAttention.v" in name)
        decoder_side &= "encoder_attn.k_proj" not in name and "encoder_attn.v_proj" not in name
        if decoder_side:
            lengths = torch.bincount(rows.row).tolist()
        else:
            lengths = rows.inputs["attention_mask"].sum(1).tolist()
        for row, length in enumerate(lengths):
            padding = factor.D[row, length:]
            seen += padding.numel()
            assert torch.equal(padding, torch.zeros_like(padding)), name
    assert seen


@KINDS
def test_the_gradient_factors_do_not_depend_on_the_batch(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    together = probed(base, kind)
    prompts, targets = asked(kind)
    rows = base.rows(prompts[:1], targets[:1])
    probe = Probe()
    with base_weights([0]), probe.watching(base.network, editable(base.network)):
        alone = probe.factors(target_loss(base.logits(rows), rows))
    mine = {name: factor.D[0].T @ factor.X[0] for name, factor in together.items()}
    assert_same({name: f.D[0].T @ f.X[0] for name, f in alone.items()}, mine, **through(base, passes=2))


@pytest.mark.parametrize("flat", [False, True])
def test_a_shared_layer_has_the_tokens_of_every_call_and_rows_may_be_flattened(flat: bool) -> None:
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)}).double()
    weight = network["fc"].weight
    x = torch.randn(3, 4, 2, dtype=torch.float64)  # 3 rows of 4 tokens

    def losses() -> Tensor:
        hidden = network["fc"](x.reshape(12, 2) if flat else x).tanh()
        return network["fc"](hidden).reshape(3, 4, 2).square().sum((1, 2))

    probe = Probe()
    with probe.watching(network, ["fc.weight"]):
        factors = probe.factors(losses())["fc.weight"]
    for row in range(3):
        (expected,) = torch.autograd.grad(losses()[row], weight)
        assert_same(factors.D[row].T @ factors.X[row], expected, layers=4, terms=8)


def test_the_probe_is_gone_after_an_exception() -> None:
    base = tiny.model("bert")
    with pytest.raises(RuntimeError, match="inside"), Probe().watching(base.network, editable(base.network)):
        raise RuntimeError("inside")
    assert not [module for module in base.network.modules() if module._forward_hooks]
