"""Attention, MLP-in, MLP-out and output are found by what reads what, whatever the architecture's names."""

from __future__ import annotations

import pytest
import torch
from architectures import ARCHITECTURES, Architecture, build, causal
from torch import Tensor, nn

from kebench.errors import BadSetting
from kebench.models.layers import editable
from kebench.models.parts import LayerParts, find_parts, weights_of

NAMED = {str(each): each for each in ARCHITECTURES}

BERT_ATTENTION = "attention.self.query attention.self.key attention.self.value attention.output.dense"
BART_DECODER = " ".join(
    f"{attention}.{each}_proj"
    for attention in ("self_attn", "encoder_attn")
    for each in ("q", "k", "v", "out")
)
T5_DECODER = " ".join(
    f"layer.{number}.{each}"
    for number, name in ((0, "SelfAttention"), (1, "EncDecAttention"))
    for each in (f"{name}.q", f"{name}.k", f"{name}.v", f"{name}.o")
)
LLAMA_ATTENTION = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
GPTJ_ATTENTION = "attn.q_proj attn.k_proj attn.v_proj attn.out_proj"
DENSE = "layer.2.DenseReluDense"

LAST_LAYER = {  # attention, MLP-in, MLP-out, what follows the layers; read in the models' own code
    "classifier-bert": (BERT_ATTENTION, "intermediate.dense", "output.dense", "bert.pooler.dense classifier"),
    "seq2seq-bart": (BART_DECODER, "fc1", "fc2", "lm_head"),
    "seq2seq-t5": (T5_DECODER, f"{DENSE}.wi", f"{DENSE}.wo", "lm_head"),
    "seq2seq-mt5": (T5_DECODER, f"{DENSE}.wi_0 {DENSE}.wi_1", f"{DENSE}.wo", "lm_head"),
    "causal-gpt2": ("attn.c_attn attn.c_proj", "mlp.c_fc", "mlp.c_proj", "lm_head"),
    "causal-llama": (LLAMA_ATTENTION, "mlp.gate_proj mlp.up_proj", "mlp.down_proj", "lm_head"),
    "causal-qwen2": (LLAMA_ATTENTION, "mlp.gate_proj mlp.up_proj", "mlp.down_proj", "lm_head"),
    # Attention and MLP side by side:
    "causal-gptj": (GPTJ_ATTENTION, "mlp.fc_in", "mlp.fc_out", "lm_head"),
    "classifier-modernbert": ("attn.Wqkv attn.Wo", "mlp.Wi", "mlp.Wo", "head.dense classifier"),
    # One layer's weights for all layers:
    "classifier-albert": (
        " ".join(f"albert_layers.0.attention.{name}" for name in ("query", "key", "value", "dense")),
        "albert_layers.0.ffn",
        "albert_layers.0.ffn_output",
        "albert.pooler classifier",
    ),
    # A stack of attentions beside a stack of MLPs:
    "classifier-xlm": ("", "lin1", "lin2", "sequence_summary.summary"),
    # Tokens mixed without a matrix:
    "classifier-fnet": ("", "intermediate.dense", "output.dense", "fnet.pooler.dense classifier"),
    # No MLP:
    "causal-mamba": ("mixer.in_proj mixer.x_proj mixer.out_proj", "", "", "lm_head"),
}


def short(layer: LayerParts, part: tuple[str, ...]) -> str:
    return " ".join(name.removeprefix(f"{layer.name}.").removesuffix(".weight") for name in part)


@pytest.mark.parametrize("name", LAST_LAYER)
def test_the_parts_of_the_last_layer(name: str) -> None:
    parts = build(NAMED[name]).parts
    last = parts.layers[-1]
    found = tuple(short(last, part) for part in (last.attention, last.mlp_in, last.mlp_out))
    assert (*found, " ".join(each.removesuffix(".weight") for each in parts.output)) == LAST_LAYER[name]


def test_an_encoder_and_a_decoder_each_have_their_layers() -> None:
    layers = build(NAMED["seq2seq-bart"]).parts.layers
    assert [layer.name for layer in layers] == [
        f"model.{stack}.layers.{number}" for stack in ("encoder", "decoder") for number in (0, 1)
    ]
    assert [len(layer.attention) for layer in layers] == [4, 4, 8, 8]


def test_queries_made_in_two_steps_are_attention() -> None:
    sizes = {
        "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "num_key_value_heads": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    }  # fmt: skip
    dense, experts = build(causal("deepseek_v3", changes=sizes)).parts.layers
    maps = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    for layer in (dense, experts):
        assert sorted(layer.attention) == sorted(f"{layer.name}.self_attn.{each}.weight" for each in maps)
    assert short(dense, dense.mlp_out) == "mlp.down_proj"
    assert short(experts, experts.mlp_in) == "mlp.shared_experts.gate_proj mlp.shared_experts.up_proj"
    assert short(experts, experts.mlp_out) == "mlp.shared_experts.down_proj"


class Macaron(nn.Module):
    """A layer that no model here has: an MLP as wide as the residual stream, then attention."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.up(x).relu())
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        return x + self.o(scores.softmax(-1) @ self.v(x))


def test_an_mlp_before_attention_is_no_attention() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"layers": nn.ModuleList([Macaron(), Macaron()]), "head": nn.Linear(8, 3)})

    def run() -> Tensor:
        x = torch.randn(1, 5, 8)
        for layer in network["layers"].children():
            x = layer(x)
        found: Tensor = network["head"](x)
        return found

    parts = find_parts(network, run)
    assert parts.output == ("head.weight",)
    for layer in parts.layers:
        assert short(layer, layer.mlp_in) == "up"
        assert short(layer, layer.mlp_out) == "down"
        assert short(layer, layer.attention) == "q k v o"


WITHOUT_ATTENTION = {"classifier-fnet", "classifier-xlm", "causal-jetmoe"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_layer_has_its_parts_and_every_matrix_one(architecture: Architecture) -> None:
    base = build(architecture)
    names = [
        name
        for layer in base.parts.layers
        for part in (layer.attention, layer.mlp_in, layer.mlp_out, layer.other)
        for name in part
    ]
    assert sorted(names) == sorted(editable(base.network))
    for layer in base.parts.layers:
        assert layer.attention or str(architecture) in WITHOUT_ATTENTION
        assert bool(layer.mlp_in) == bool(layer.mlp_out)
    assert base.parts.output


def test_finding_parts_leaves_the_model_as_it_was() -> None:
    base = build(NAMED["causal-gpt2"])
    before = base.log_odds(["where?"], ["Rome"])
    assert base.parts is base.parts
    assert base.log_odds(["where?"], ["Rome"]) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.network.modules())


def test_the_weights_of_some_parts_of_some_layers() -> None:
    base = build(NAMED["causal-gpt2"])
    found = weights_of(base.network, base.parts, (1,), ["mlp_out", "attention"])
    assert found == [
        f"transformer.h.1.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")
    ]


def test_parts_that_a_model_does_not_have_are_refused_in_words() -> None:
    base = build(NAMED["causal-mamba"])
    with pytest.raises(
        BadSetting, match="parts: found mlp_in, mlp_out, wanted some that the model has in lay"
    ):
        weights_of(base.network, base.parts, "all", ["mlp_in", "mlp_out"])
