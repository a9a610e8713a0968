"""ROME, R-ROME, MEMIT, AlphaEdit and UltraEdit against what the original programs computed, in float64.

The numbers lie beside the repository; the tests skip where they are not at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from at_hand import SHARED
from kebench.baselines.alphaedit import AlphaEdit
from kebench.baselines.memit import MEMIT
from kebench.baselines.rome import ROME
from kebench.baselines.ultraedit import UltraEdit
from kebench.baselines.ultraedit.editor import answer_tokens
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from kebench.edits.editor import Carried, State
from kebench.edits.locate import Fact, Located, ValueSettings, learn_values
from kebench.edits.updates import Update
from kebench.edits.versions import in_force
from kebench.models.causal import Causal
from kebench.models.changes import LowRank
from kebench.models.model import PromptFormat
from kebench.models.rows import IGNORE, Rows

FILES = SHARED / "reference" / "parity" / "locate_then_edit"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="the original programs' numbers are not at hand")
CLOSE: dict[str, float] = {"rtol": 1e-9, "atol": 1e-9}


class Original(NamedTuple):
    """One set of numbers: the base model, the edits as tokens, and C of each layer as a state has it."""

    base: Causal
    facts: list[Fact]
    state: State
    settings: dict[str, Any]
    numbers: dict[str, Tensor]


@cache
def original() -> Original:
    found: dict[str, Tensor] = {}
    for file in ("base", "rome_memit", "alphaedit", "ultraedit"):
        found |= load_file(FILES / f"{file}.safetensors")
    told = json.loads((FILES / "edits.json").read_text())
    network = GPT2LMHeadModel(GPT2Config(**told["model_config"], attn_implementation="eager")).double()
    weights = {key.removeprefix("model."): value for key, value in found.items() if key.startswith("model.")}
    network.load_state_dict(weights, strict=False)
    network.tie_weights()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FILES / "tokenizer.json"),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token="<|endoftext|>",
    )
    base = Causal("tiny", network, tokenizer, PromptFormat(max_prompt_tokens=48))
    facts = [
        Fact(
            tuple(Located(tuple(each["ids"]), each["subject_last"]) for each in edit["contexts"]),
            tuple(edit["target_ids"]),
            Located(tuple(edit["kl"]["ids"]), edit["kl"]["subject_last"]),
        )
        for edit in told["edits"]
    ]
    state: dict[str, Tensor] = {}
    for layer in range(3):
        values, vectors = torch.linalg.eigh(found[f"C.{layer}"].double())
        name = f"transformer.h.{layer}.mlp.c_proj.weight"
        state |= {f"{name}/values": values, f"{name}/vectors": vectors}
    return Original(base, facts, state, told["hyper_parameters"], found)


def weight(layer: int) -> str:
    return f"transformer.h.{layer}.mlp.c_proj.weight"


def learning(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": settings["v_num_grad_steps"],
        "learning_rate": settings["v_lr"],
        "weight_decay": settings["v_weight_decay"],
        "kl_factor": settings["kl_factor"],
        "clamp": settings["clamp_norm_factor"],
    }


def change(made: Mapping[str, Any], name: str) -> Tensor:
    found = made[name]
    assert isinstance(found, LowRank)
    return found.B @ found.A


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_the_model_is_the_original() -> None:
    whole = original()
    ids = torch.tensor([whole.facts[0].contexts[0].ids])
    close(whole.base.network(input_ids=ids).logits[0], whole.numbers["probe.edit0.logits"])


ROMES = {
    "rome": ROME(variant="original"),
    "rome_nocov": ROME(variant="original", use_covariance=False),
    "rrome_mean": ROME(variant="mean"),
    "rrome_prompt": ROME(variant="prompt"),
}


@pytest.mark.parametrize("name", ROMES)
def test_rome(name: str) -> None:
    whole = original()
    editor = replace(ROMES[name], layers=(1,), **learning(whole.settings["rome"]))
    made = editor.insert(whole.state, whole.base, whole.facts)
    for place, each in enumerate(made):
        close(change(each, weight(1)), whole.numbers[f"{name}.edit{place}.dW"])


def test_rome_in_sequence() -> None:
    whole = original()
    editor = ROME(layers=(1,), **learning(whole.settings["rome"]))
    total = Update()
    for fact in whole.facts:
        (made,) = editor.insert(whole.state, in_force(whole.base, total), [fact])
        total = total.plus(made)
    close(change(total, weight(1)), whole.numbers["rome.sequence.dW"])


def test_learning_stops_where_the_loss_is_small() -> None:
    whole = original()
    told = whole.settings["rome_stop"]
    fact = whole.facts[told["edit"]]
    target = whole.base.tokenizer(told["target"])["input_ids"]
    editor = ROME(layers=(told["layer"],), **learning(told))
    (made,) = editor.insert(whole.state, whole.base, [replace(fact, target=tuple(target))])
    close(change(made, weight(told["layer"])), whole.numbers["rome_stop.dW"])


@pytest.mark.parametrize("stop_at", [0.05, 3.5])
def test_values_learnt_together_are_those_learnt_alone(stop_at: float) -> None:
    whole = original()
    settings = ValueSettings(**learning(whole.settings["rome"]), stop_at=stop_at)
    layer = "transformer.h.1.mlp.c_proj"
    together = learn_values(whole.base, whole.facts, layer, weight(1), settings)
    early = 0
    for place, fact in enumerate(whole.facts):
        alone = learn_values(whole.base, [fact], layer, weight(1), settings)
        close(together.delta[place], alone.delta[0])
        early += not torch.allclose(alone.delta[0], whole.numbers[f"rome.edit{place}.delta"])
    assert (0 < early < len(whole.facts)) == (stop_at > 1)  # some stop early, and the others go on


@pytest.mark.parametrize(("name", "lambda_"), [("memit", "lambda_main"), ("memit15k", "lambda_memit15k")])
def test_memit(name: str, lambda_: str) -> None:
    whole = original()
    told = whole.settings["memit"]
    editor = MEMIT(layers=(0, 1), covariance_weight=told[lambda_], **learning(told))
    z = editor.goals(whole.base, whole.facts)
    for place in range(len(whole.facts)):
        close(z[place], whole.numbers[f"memit.edit{place}.z"])
    made, _ = editor.insert(whole.state, whole.base, whole.facts, z, Carried())
    for layer in (0, 1):
        close(change(made, weight(layer)), whole.numbers[f"{name}.layer{layer}.dW"])


def test_alphaedit_in_two_batches() -> None:
    whole = original()
    told = whole.settings["alphaedit"]
    editor = AlphaEdit(
        layers=(0, 1), threshold=told["nullspace_threshold"], ridge=told["L2"], **learning(told)
    )
    total, carried = Update(), Carried()
    for number, batch in enumerate(told["batches"]):
        model = in_force(whole.base, total)
        facts = [whole.facts[place] for place in batch]
        z = editor.goals(model, facts)
        for place, each in zip(batch, z, strict=True):
            close(each, whole.numbers[f"alphaedit.edit{place}.z"])
        made, carried = editor.insert(whole.state, model, facts, z, carried)
        for layer in (0, 1):
            close(change(made, weight(layer)), whole.numbers[f"alphaedit.batch{number}.layer{layer}.dW"])
            close(
                carried.tensors[weight(layer)], whole.numbers[f"alphaedit.batch{number}.layer{layer}.M_after"]
            )
        total = total.plus(made)
    for layer in (0, 1):
        q = editor.null_space(whole.state, weight(layer))
        close(q @ q.T, whole.numbers[f"alphaedit.layer{layer}.P"])


@pytest.mark.parametrize(("name", "scale"), [("ultraedit", 1e-6), ("ultraedit_lr1e-2", 1e-2)])
def test_ultraedit_in_two_batches(name: str, scale: float) -> None:
    whole = original()
    editor = UltraEdit(scale=scale, ridge=whole.settings["ultraedit"]["ridge"])
    modules = whole.settings["ultraedit"]["edit_modules_in_order"]
    names = [f"transformer.{module}.weight" for module in modules]
    total, carried = Update(), Carried()
    for number in (0, 1):
        told = {key: whole.numbers[f"{name}.batch{number}.{key}"] for key in ("input_ids", "attention_mask")}
        labels = whole.numbers[f"{name}.batch{number}.labels"]
        assert int(labels.min()) == IGNORE
        model = in_force(whole.base, total)
        h, g = answer_tokens(model, Rows.of(told, labels), names)
        made, carried = editor.solve(model, names, h, g, carried)
        for module, each in zip(modules, names, strict=True):
            place = f"{name}.batch{number}.{module}"
            close(h[each], whole.numbers[f"{place}.H"])
            close(g[each], whole.numbers[f"{place}.G"])
            wanted = whole.numbers[f"{place}.dW"]
            torch.testing.assert_close(
                change(made, each), wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max())
            )
        for shape in ("32x64", "64x32"):
            for part in ("mean", "sumsq"):
                close(
                    carried.tensors[f"{shape}/{part}"],
                    whole.numbers[f"{name}.batch{number}.norm_{shape}.{part}"],
                )
        total = total.plus(made)
