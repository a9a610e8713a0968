"""Tiny random networks of many architectures: what batches and updates were tried on.

build(ARCHITECTURES[0])    an AbstractModel, asked as the toy task is
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tiny
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from kebench.models.load import FAMILIES
from kebench.models.model import AbstractModel, PromptFormat
from kebench.task import Family

SIZES: dict[str, Any] = {
    # How wide.
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 16),
    **dict.fromkeys(("word_embed_proj_dim", "lm_head_hidden_size"), 16),
    **dict.fromkeys(("intermediate_size", "d_ff", "dim_ff", "hidden_dim", "n_inner", "ffn_dim"), 24),
    **dict.fromkeys(("d_inner", "encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 24),
    # How deep.
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    # How many heads.
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    "num_key_value_heads": 1,
    "rotary_dim": 4,
    # How many experts, states, positions.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    "state_size": 4,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 128),
}
"""What the fields of configurations are set to, where a configuration has them."""

TOKENIZER = {"classifier": "bert", "seq2seq": "bart", "causal": "gpt2"}
LOADERS: dict[str, Any] = {
    "classifier": AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
}
TOKENS: dict[str, dict[str, Any]] = {
    "classifier": {"pad_token_id": 0, "num_labels": 2},
    "seq2seq": {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    "causal": {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": 0},
}


@dataclass(frozen=True)
class Architecture:
    """One network.

    Attributes:
        kind: its `model_type` in transformers.
        family: the head it gets.
        edits: whether several edits may share a pass.
        rows: whether padded rows may.
        changes: fields of its configuration that `SIZES` does not make small.
        quick: whether it is tried in every test run.
    """

    kind: str
    family: Family
    edits: bool = True
    rows: bool = True
    changes: dict[str, Any] = field(default_factory=dict)
    quick: bool = False

    def __str__(self) -> str:
        return f"{self.family}-{self.kind}"


def classifier(kind: str, **how: Any) -> Architecture:
    return Architecture(kind, "classifier", **how)


def seq2seq(kind: str, **how: Any) -> Architecture:
    return Architecture(kind, "seq2seq", **how)


def causal(kind: str, **how: Any) -> Architecture:
    return Architecture(kind, "causal", **how)


MAMBA = {"intermediate_size": 32, "time_step_rank": 4}

ARCHITECTURES = (
    classifier("albert"),
    classifier("bart", changes={"eos_token_id": 3}),
    classifier("bert", quick=True),
    classifier("big_bird"),
    classifier("biogpt"),
    classifier("bloom"),
    classifier("camembert"),
    classifier("convbert", edits=False, rows=False),  # its convolutions read padding
    classifier("ctrl", changes={"dff": 24}),
    classifier("data2vec-text"),
    classifier("deberta", edits=False, changes={"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    classifier(
        "deberta-v2",
        edits=False,  # all rows share one set of position embeddings, which linear maps read
        changes={"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": False},
        quick=True,
    ),
    classifier("distilbert"),
    classifier("electra"),
    classifier("ernie"),
    classifier("esm"),
    classifier("eurobert"),
    classifier("fnet", edits=False, rows=False),  # mixes tokens by a Fourier transform, padding too
    classifier("gemma2"),
    classifier("gpt2"),
    classifier("gpt_neox"),
    classifier("gptj"),
    classifier("llama"),
    classifier("longformer", edits=False, changes={"attention_window": [4, 4]}, quick=True),  # tokens first
    classifier("mbart", changes={"eos_token_id": 3}),
    classifier("megatron-bert"),
    classifier("mistral"),
    classifier("mixtral"),
    classifier("modernbert"),
    classifier("mpnet"),
    classifier("mpt"),
    classifier("nystromformer", edits=False, rows=False),  # its means over segments read padding
    classifier("openai-gpt"),
    classifier("opt"),
    classifier("phi3"),
    classifier("phimoe", edits=False),  # its router is a linear map that returns more than its product
    classifier("qwen2"),
    classifier("rembert"),
    classifier("roberta"),
    classifier("roformer"),
    classifier("xlm"),
    classifier("xlm-roberta"),
    seq2seq("bart", quick=True),
    seq2seq("bigbird_pegasus"),
    seq2seq("blenderbot"),
    seq2seq("led", edits=False, changes={"attention_window": [4, 4]}),
    seq2seq("longt5"),
    seq2seq("m2m_100"),
    seq2seq("marian"),
    seq2seq("mbart"),
    seq2seq("mt5"),
    seq2seq("mvp"),
    seq2seq("nllb-moe"),
    seq2seq("pegasus"),
    seq2seq("pegasus_x"),
    seq2seq("plbart"),
    seq2seq("switch_transformers"),
    seq2seq("t5"),
    seq2seq("umt5"),
    causal("bart", edits=False, rows=False),  # counts positions from the padding on the left
    causal("bert", changes={"is_decoder": True}),
    causal("biogpt"),
    causal("bloom"),
    causal("cohere"),
    causal("falcon_mamba", edits=False, changes=MAMBA),
    causal("gemma"),
    causal("gpt2", quick=True),
    causal("gpt_bigcode"),
    causal("gpt_neox"),
    causal("gptj"),
    causal("granitemoe"),
    causal("jetmoe"),
    causal("llama", quick=True),
    causal("mamba", edits=False, changes=MAMBA, quick=True),  # reads a layer's weight without calling it
    causal("mistral"),
    causal("mixtral"),
    causal("mpt"),
    causal("olmo"),
    causal("opt"),
    causal("phi"),
    causal("qwen2"),
    causal("qwen3"),
    causal("stablelm"),
    causal("xglm"),
)


def build(architecture: Architecture, seed: int = 0) -> AbstractModel:
    """A model of it, its weights wide enough that answers depend on prompts."""
    family = architecture.family
    words = tiny.TOKENIZERS[TOKENIZER[family]]()
    made = CONFIG_MAPPING[architecture.kind]
    fields = vars(made()) | {name: None for name in made.attribute_map}
    sizes = {name: size for name, size in SIZES.items() if name in fields}
    config = made(**{**sizes, **TOKENS[family], "vocab_size": len(words), **architecture.changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LOADERS[family].from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.25)
    labels = tiny.LABELS if family == "classifier" else ()
    prompt_format = PromptFormat(max_prompt_tokens=24, max_answer_tokens=6, labels=labels)
    return FAMILIES[family](str(architecture), network, words, prompt_format)
