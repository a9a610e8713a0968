"""Which matrices an editor may change, and how its settings choose among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import tiny
from architectures import ARCHITECTURES, Architecture, build, causal
from kebench.baselines.constrained_fine_tuning import ConstrainedFineTuning
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.knowledge_editor import KnowledgeEditor
from kebench.baselines.preconditioned_step import PreconditionedStep
from torch import nn

from kebench.edits.editor import settings_of
from kebench.errors import BadSetting
from kebench.files.yaml import folder_of
from kebench.models.layers import editable, linear_maps
from kebench.models.load import load_model

KINDS = pytest.mark.parametrize("kind", tiny.KINDS)
CHOICES: tuple[str | tuple[int, ...], ...] = ("all", "first", "last", (0,), (1,), (0, 1))

COUNTS = {  # kind → all, first, last; every encoder layer and every decoder layer counted by hand
    "bert": (2 * 6, 6, 6),
    "bart": (2 * 6 + 2 * 10, 6 + 10, 6 + 10),
    "t5": (2 * 6 + 2 * 10, 6 + 10, 6 + 10),
    "gpt2": (2 * 4, 4, 4),
    "llama": (2 * 7, 7, 7),
}


@KINDS
def test_the_editable_matrices_of_each_family(kind: str) -> None:
    network = tiny.model(kind).network
    found = tuple(len(editable(network, layers)) for layers in ("all", "first", "last"))
    assert found == COUNTS[kind]
    assert set(editable(network, "first")).isdisjoint(editable(network, "last"))
    assert all(network.get_parameter(name).ndim == 2 for name in editable(network))
    assert editable(network, (0,)) == editable(network, [0]) == editable(network, "first")
    assert editable(network, (0, 1)) == editable(network)
    assert editable(network, (1,)) == editable(network, "last")


@KINDS
def test_what_no_editor_may_touch(kind: str) -> None:
    words = (
        "bias", "norm", "embed", "classifier", "pooler", "shared", "lm_head", "score", "wte", "wpe", "ln_",
        "relative",
    )  # fmt: skip
    names = editable(tiny.model(kind).network)
    assert not [name for name in names if any(word in name.lower() for word in words)]


def test_the_names_of_a_bart() -> None:
    first = editable(tiny.model("bart").network, "first")
    assert "model.encoder.layers.0.self_attn.q_proj.weight" in first
    assert "model.decoder.layers.0.encoder_attn.out_proj.weight" in first
    assert "model.decoder.layers.0.fc2.weight" in first
    assert not [name for name in first if ".layers.1." in name]


# --- the same matrices as De Cao et al.'s list of words leaves


WORDS = (
    "bias", "norm", "embeddings", "classifier", "pooler", "shared", "embed", "positions", "lm_head", "score",
    "predictions", "output_projection",
)  # fmt: skip
"""A parameter with one of these in its name was not edited before the network's structure decided."""


def by_words(network: nn.Module, layers: str | Sequence[int]) -> list[str]:
    """The editable matrices by the names of parameters alone."""
    names = [name for name in linear_maps(network) if not any(word in name.lower() for word in WORDS)]
    if layers == "all":
        return names
    found = {name: re.match(r"(.*?)\.(\d+)\.", name) for name in names}
    places = {name: (match[1], int(match[2])) for name, match in found.items() if match}
    depth = {stack: max(n for s, n in places.values() if s == stack) for stack, _ in places.values()}
    if layers == "first":
        return [name for name, (_, number) in places.items() if number == 0]
    if layers == "last":
        return [name for name, (stack, number) in places.items() if number == depth[stack]]
    return [name for name, (_, number) in places.items() if number in layers]


HEADS = {  # what the words let through, though it is a pooler or a classification head
    "classifier-bart": {"classification_head.dense.weight", "classification_head.out_proj.weight"},
    "classifier-esm": {"esm.contact_head.regression.weight"},
    "classifier-eurobert": {"dense.weight"},
    "classifier-mbart": {"classification_head.dense.weight", "classification_head.out_proj.weight"},
    "classifier-modernbert": {"head.dense.weight"},
    "classifier-xlm": {"sequence_summary.summary.weight"},
}
QUICK = ("classifier-bert", "classifier-modernbert", "seq2seq-bart", "seq2seq-t5", "causal-gpt2")
QUICK += ("causal-llama", "causal-qwen2", "causal-mamba")


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(each, marks=() if str(each) in QUICK else pytest.mark.slow) for each in ARCHITECTURES],
    ids=str,
)
def test_the_structure_gives_what_the_words_gave_but_for_heads(architecture: Architecture) -> None:
    network = build(architecture).network
    heads = HEADS.get(str(architecture), set())
    assert heads <= set(by_words(network, "all"))
    for layers in CHOICES:
        expected = tuple(name for name in by_words(network, layers) if name not in heads)
        if expected:
            assert editable(network, layers) == expected
        else:  # an ALBERT has one layer
            with pytest.raises(BadSetting):
                editable(network, layers)


@pytest.mark.parametrize("model", ["bert-mini", "bart-mini"])
def test_the_structure_gives_what_the_words_gave_on_the_shipped_models(model: str) -> None:
    kind = {"bert-mini": "bert", "bart-mini": "bart"}[model]
    folder = folder_of("kebench.tasks") / "mini" / "models" / model
    network = load_model(str(folder), tiny.task(kind)).network
    for layers in CHOICES:
        assert editable(network, layers) == tuple(by_words(network, layers))


def test_experts_that_all_tokens_share_may_be_changed() -> None:
    sizes: dict[str, Any] = {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 1}
    network = build(causal("qwen2_moe", changes=sizes)).network
    added = set(editable(network)) - set(by_words(network, "all"))
    assert {name.rpartition(".layers.")[2] for name in added} == {
        f"{layer}.mlp.{name}.weight"
        for layer in (0, 1)
        for name in (*(f"shared_expert.{each}_proj" for each in ("gate", "up", "down")), "shared_expert_gate")
    }


# --- stacks


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def layers_of(count: int) -> nn.ModuleDict:
    return nn.ModuleDict({"layers": nn.ModuleList([Layer() for _ in range(count)])})


def test_stacks_of_different_depth_each_have_their_last_layer() -> None:
    network = nn.ModuleDict({"encoder": layers_of(3), "decoder": layers_of(11)})
    assert editable(network, "last") == ("encoder.layers.2.fc.weight", "decoder.layers.10.fc.weight")
    assert editable(network, (10,)) == ("decoder.layers.10.fc.weight",)


def test_a_list_of_output_heads_is_no_stack() -> None:
    heads = nn.ModuleList([nn.Linear(2, 5), nn.Linear(2, 5)])
    network = nn.ModuleDict({"decoder": layers_of(1), "heads": heads})
    assert editable(network) == ("decoder.layers.0.fc.weight",)


def test_a_matrix_tied_to_the_embeddings_is_not_edited() -> None:
    network = tiny.model("llama").network
    name = "model.layers.1.mlp.down_proj"
    assert f"{name}.weight" in editable(network)
    network.get_submodule(name).weight = network.get_input_embeddings().weight
    assert f"{name}.weight" not in editable(network)


# --- settings


def test_a_pattern_of_names() -> None:
    network = tiny.model("gpt2").network
    assert editable(network, "*.1.mlp.*") == (
        "transformer.h.1.mlp.c_fc.weight",
        "transformer.h.1.mlp.c_proj.weight",
    )
    assert editable(network, "*.[01].attn.c_proj.weight") == editable(network, "transformer.h.?.attn.c_p*")
    assert editable(network, "*") == editable(network, "all")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((7,), "layers: found (7,), wanted some with an editable weight matrix"),
        (
            "*.7.*",
            "layers: found *.7.*, wanted some with an editable weight matrix, such as"
            " bert.encoder.layer.0.attention.self.query.weight",
        ),
        ("bert.pooler.*", "layers: found bert.pooler.*, wanted some with an editable weight matrix, such as"),
    ],
)
def test_no_matrix_left_is_an_error(layers: str | tuple[int, ...], said: str) -> None:
    with pytest.raises(BadSetting) as error:
        editable(tiny.model("bert").network, layers)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("editor", [FineTuning, ConstrainedFineTuning, KnowledgeEditor, PreconditionedStep])
def test_every_editor_with_layers_takes_every_form_of_them(editor: Any) -> None:
    for layers in (*CHOICES, "*.11.mlp.*"):
        assert settings_of(editor(layers=layers))["layers"] == layers
    with pytest.raises(BadSetting, match="layers: found 'middle', wanted first, last, all, a list of"):
        editor(layers="middle")
