"""LoRA: the update is what peft's adapter does, and nothing of peft stays behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from alone import updates_of
from architectures import ARCHITECTURES, build
from kebench.baselines.lora import LoRA
from kebench.baselines.lora import editor as lora
from kebench.baselines.lora.editor import Adapted
from tolerance import assert_same, through

from kebench.edits.edit import Edit
from kebench.edits.editor import Carried
from kebench.edits.updates import Update
from kebench.edits.versions import in_force
from kebench.errors import BadSetting, BrokenEditor
from kebench.models.changes import Changes, LowRank
from kebench.models.identity import fingerprint
from kebench.models.layers import editable
from kebench.models.model import AbstractModel
from kebench.models.rows import target_loss

peft = pytest.importorskip("peft", reason="the editor lora needs peft, of the extra 'lora'")
# transformers warns of a name that peft asks it by.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

EVERY_PART = LoRA(parts=("attention", "mlp_in", "mlp_out"), rank=2, alpha=6, learning_rate=3e-2, max_steps=30)
KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])


def an_edit(base: AbstractModel, kind: str) -> Edit:
    """One that the model does not fulfil yet."""
    return next(e for e in tiny.edits(base, kind, 12) if not base.says([e.prompt], [e.target])[0])


def factors_of(update: Changes) -> dict[str, LowRank]:
    found = {}
    for name, change in update.items():
        assert isinstance(change, LowRank)
        found[name] = change
    return found


def same(one: Changes, other: Changes) -> bool:
    pairs = zip(factors_of(one).values(), factors_of(other).values(), strict=True)
    return one.keys() == other.keys() and all(
        torch.equal(left.B, right.B) and torch.equal(left.A, right.A) for left, right in pairs
    )


@torch.no_grad()
def logits(model: AbstractModel, base: AbstractModel, kind: str) -> torch.Tensor:
    edits = tiny.edits(base, kind, 3)
    return model.logits(base.rows([each.prompt for each in edits], [each.target for each in edits]))


@KINDS
def test_the_update_is_what_the_adapter_does(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    adapted = Adapted.of(base, EVERY_PART)
    update = EVERY_PART.train(base, adapted, (an_edit(base, kind),))
    assert set(update) == set(editable(base.network))
    found, expected = logits(in_force(base, update), base, kind), logits(adapted.model, base, kind)
    assert_same(found, expected, **through(base))
    assert not torch.allclose(expected, logits(base, base, kind), atol=1e-2), "the update must matter"


@KINDS
def test_peft_reads_the_exported_adapter_and_answers_the_same(kind: str, tmp_path: Path) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    (update,) = updates_of(EVERY_PART, {}, base, [an_edit(base, kind)])
    residuals = Update(update).to_lora(tmp_path, base.network, "tiny")
    assert residuals == dict.fromkeys(update, 0.0)
    copied = copy.deepcopy(base)
    peft.PeftModel.from_pretrained(copied.network, tmp_path).eval()  # puts its layers into the network
    found, expected = logits(copied, base, kind), logits(in_force(base, update), base, kind)
    assert_same(found, expected, **through(base))


@pytest.mark.parametrize("kind", ["bert", "gpt2", tiny.slow("llama")])
def test_it_stops_with_the_step_that_makes_the_target_the_answer(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    edit = an_edit(base, kind)

    def right(steps: int) -> bool:
        (update,) = updates_of(replace(EVERY_PART, max_steps=steps), {}, base, [edit])
        return in_force(base, update).says([edit.prompt], [edit.target])[0]

    (update,) = updates_of(EVERY_PART, {}, base, [edit])
    steps = next(steps for steps in range(EVERY_PART.max_steps) if right(steps))
    assert steps > 0
    assert same(update, updates_of(replace(EVERY_PART, max_steps=steps), {}, base, [edit])[0])


def test_the_first_step_is_adams_from_peft_s_start() -> None:
    """Adam's first step moves the entries of B by the rate, and not A, whose gradient is 0."""
    base = tiny.model("llama", dtype=torch.float64)
    edit = an_edit(base, "llama")
    settings = replace(EVERY_PART, max_steps=1)
    change = factors_of(updates_of(settings, {}, base, [edit])[0])
    rows = base.rows([edit.prompt], [edit.target])
    names = list(change)
    network = base.with_weights({name: base.network.get_parameter(name).detach().clone() for name in names})
    weights = [network.network.get_parameter(name).requires_grad_() for name in names]
    gradients = torch.autograd.grad(target_loss(network.logits(rows), rows).sum(), weights)
    for each, gradient in zip(change.values(), gradients, strict=True):
        assert each.A.shape[0] == 2
        limit = each.A.shape[1] ** -0.5
        assert 0.5 * limit < each.A.abs().max() < limit
        of_b = 3.0 * gradient @ each.A.T  # B's gradient where the scale is 6 / 2
        expected = -0.03 * of_b / (of_b.abs() + 1e-8)
        torch.testing.assert_close(each.B, 3.0 * expected, rtol=1e-6, atol=1e-9)


@KINDS
def test_nothing_stays_behind(kind: str) -> None:
    base = tiny.model(kind)
    before, modules = fingerprint(base.network), {name: type(m) for name, m in base.network.named_modules()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    adapted = Adapted.of(base, EVERY_PART)
    EVERY_PART.train(base, adapted, (an_edit(base, kind),))
    assert torch.equal(torch.rand(4), expected), "it drew from the global generator"
    assert fingerprint(base.network) == before
    assert {name: type(module) for name, module in base.network.named_modules()} == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.network.modules())
    assert not hasattr(base.network, "peft_config")
    assert not any(parameter.requires_grad for parameter in base.network.parameters())
    shared = {id(parameter) for parameter in base.network.parameters()}
    own = {id(factor) for each in adapted.factors.values() for factor in (each.A, each.B)}
    assert {id(parameter) for parameter in adapted.model.network.parameters()} == shared | own


def test_the_edits_id_and_the_seed_decide_where_it_starts() -> None:
    base = tiny.fitted("llama")
    edits = tiny.edits(base, "llama", 3)
    together = updates_of(EVERY_PART, {}, base, edits)
    for edit, update in zip(edits, together, strict=True):
        assert same(updates_of(EVERY_PART, {}, base, [edit])[0], update)
    another = updates_of(replace(EVERY_PART, seed=1), {}, base, edits[2:])[0]
    renamed = updates_of(EVERY_PART, {}, base, [replace(edits[2], id="another")])[0]
    assert not same(another, together[2])
    assert not same(renamed, together[2])


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_batch_has_one_adapter(one_by_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.fitted("llama", dtype=torch.float64)
    edits = tuple(tiny.edits(base, "llama", 3))
    (expected,), _ = EVERY_PART.update({}, base, [edits], [Carried()])
    if one_by_one:
        monkeypatch.setattr(base.one_pass, "holds_rows", lambda: False)
    (update,), _ = EVERY_PART.update({}, base, [edits], [Carried()])
    assert all(each.A.shape[0] == 2 for each in factors_of(update).values())
    for name, each in factors_of(update).items():
        torch.testing.assert_close(
            each.B @ each.A, factors_of(expected)[name].B @ factors_of(expected)[name].A
        )
    edited = in_force(base, update)
    assert edited.says([each.prompt for each in edits], [each.target for each in edits]) == [True] * 3


def test_an_edit_that_needs_no_step_changes_nothing() -> None:
    base = tiny.fitted("llama")
    edit = an_edit(base, "llama")
    known = replace(edit, target=base.answer([edit.prompt])[0])
    assert updates_of(EVERY_PART, {}, base, [known]) == [{}]
    assert updates_of(replace(EVERY_PART, max_steps=0), {}, base, [edit]) == [{}]


def test_in_a_bfloat16_model_the_factors_are_float32() -> None:
    base = tiny.model("gpt2", dtype=torch.bfloat16)
    (update,) = updates_of(EVERY_PART, {}, base, [an_edit(base, "gpt2")])
    assert {each.B.dtype for each in factors_of(update).values()} == {torch.float32}


def test_layers_and_parts_are_chosen_by_the_settings() -> None:
    base = tiny.model("gpt2")
    editor = replace(EVERY_PART, layers=(1,), parts=("mlp_out", "attention"), max_steps=1)
    (update,) = updates_of(editor, {}, base, [an_edit(base, "gpt2")])
    assert [name.removeprefix("transformer.h.1.") for name in update] == [
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_proj.weight"
    ]  # fmt: skip


def test_what_peft_refuses_is_refused_in_words() -> None:
    base = build(next(each for each in ARCHITECTURES if str(each) == "causal-mamba"))
    with pytest.raises(BadSetting, match=r"parts: found attention, wanted others: .*Mamba"):
        Adapted.of(base, LoRA())


def test_without_peft_the_editor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda _name: None)
    with pytest.raises(BrokenEditor, match=r"lora needs peft: pip install 'kebench\[lora\]'"):
        updates_of(EVERY_PART, {}, tiny.model("llama"), [])


@pytest.mark.parametrize("setting", ["rank", "alpha", "learning_rate"])
def test_settings_below_their_least_are_refused(setting: str) -> None:
    with pytest.raises(BadSetting, match=f"{setting}: found 0, wanted a number above 0"):
        replace(EVERY_PART, **{setting: 0})
