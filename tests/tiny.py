"""Tiny random models of every family, built on the spot, and a toy world to ask them about.

model("gpt2")                     an AbstractModel; the same seed gives the same weights
fitted("gpt2")                    one that has learnt some of the toy world (half a second, then cached)
save("bart", tmp_path / "m")      the same model as a local folder in Hub layout
task("bart"), records("bart", 8)  a task and gold-labelled records it can answer
training_set(model("bart"), 12)   what an editor learns from
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from once import answers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from kebench.edits.edit import Edit
from kebench.edits.editor import RetainQuestion, TrainingEdit, TrainingSet
from kebench.models.load import FAMILIES
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.rows import target_loss
from kebench.packs.record import Paraphrase, Record
from kebench.task import Family, ModelRecipe, PackRecipe, PackSource, Task

KINDS = ("bert", "bart", "t5", "gpt2", "llama")
GENERATING = ("bart", "t5", "gpt2", "llama")
FAMILY: dict[str, Family] = {
    "bert": "classifier",
    "bart": "seq2seq",
    "t5": "seq2seq",
    "gpt2": "causal",
    "llama": "causal",
}
STAND_INS = {"t5": "bart", "llama": "gpt2"}


def slow_if_stood_in_for(kind: str, *values: Any) -> Any:
    """Parameters of a long test. It is asked of T5 and Llama with the slow ones: BART and GPT-2 stand in."""
    return pytest.param(kind, *values, marks=pytest.mark.slow if kind in STAND_INS else ())


def slow(*values: Any) -> Any:
    """Parameters of a case that runs with the slow tests, because a quicker one beside it is much like it."""
    return pytest.param(*values, marks=pytest.mark.slow)


LABELS = ("REFUTES", "SUPPORTS")
FIT_STEPS = 80

FIRST = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay")
LAST = ("Bell", "Cole", "Dunn", "Ek")
CITIES = ("Rome", "Oslo", "New York", "Lima", "Bern", "Riga")

# The toy world ---------------------------------------------------------------------------------------


def records(kind: str, count: int = 24) -> list[Record]:
    """Where each of up to 24 people was born: questions, or claims for a classifier; two paraphrases each."""
    found = []
    people = [f"{first} {last}" for last in LAST for first in FIRST]
    for index, person in enumerate(people[:count]):
        city = CITIES[(index * 5 + index // 6) % len(CITIES)]
        if FAMILY[kind] == "classifier":
            prompt, gold = f"{person} was born in {city}", LABELS[index % 2]
            others = (f"{city} is where {person} was born", f"the city of {person} is {city}")
        else:
            prompt, gold = f"where was {person} born?", city
            others = (f"in which city was {person} born?", f"the city of {person} is?")
        paraphrases = tuple(Paraphrase(text, "toy") for text in others)
        found.append(Record(f"r{index}", person, prompt, (gold,), paraphrases, subject=person))
    return found


def task(kind: str, **changes: Any) -> Task:
    """The toy task for a kind of model; `changes` are fields of `Task`."""
    fields: dict[str, Any] = {
        "name": "toy",
        "version": 1,
        "family": FAMILY[kind],
        "description": "Where people were born.",
        "citation": "none",
        "packs": {"toy": PackRecipe((PackSource("fever", "toy.jsonl"),), "CC0")},
        "default_pack": "toy",
        "models": {"tiny": ModelRecipe(start="tiny")},
        "default_model": "tiny",
        "labels": LABELS if FAMILY[kind] == "classifier" else (),
        "max_prompt_tokens": 24,
        "max_answer_tokens": 12,
        "retain_size": 6,
        "edits": 4,
    }
    return Task(**{**fields, **changes})


def edits(base: AbstractModel, kind: str, count: int = 4) -> list[Edit]:
    """Edit requests to a model: the other label, or the next city."""
    chosen = records(kind, count)
    predictions = answers(base, [record.prompt for record in chosen])
    found = []
    for index, (record, y) in enumerate(zip(chosen, predictions, strict=True)):
        target = LABELS[1 - LABELS.index(y)] if y in LABELS else CITIES[index % len(CITIES)]
        found.append(Edit(record.id, record.prompt, y, target, record.subject))
    return found


def training_set(base: AbstractModel, kind: str, count: int = 24) -> TrainingSet:
    """The toy world as a model answers it; a quarter of the edits are dev."""
    chosen = records(kind, count)
    made = [
        TrainingEdit(
            record.fact,
            Edit(
                e.id, e.prompt, e.prediction, e.target, e.subject, tuple(p.text for p in record.paraphrases)
            ),
        )
        for record, e in zip(chosen, edits(base, kind, count), strict=True)
    ]
    known = [
        RetainQuestion(item.fact, item.edit.prompt, item.edit.prediction)
        for item in made
        if item.edit.prediction.strip()
    ]
    cut = count - count // 4
    return TrainingSet(train=made[:cut], dev=made[cut:], known=known, unseen=known, dev_known=known)


def texts() -> list[str]:
    """Every text of the toy world."""
    found = [*LABELS, *CITIES]
    for record in [*records("bert"), *records("bart")]:
        found += [record.prompt, *record.answers, *(p.text for p in record.paraphrases)]
    return [*found, "a b c d e f g h i j k l m n o p q r s t u v w x y z . , > | ' -"]


# Tokenizers ------------------------------------------------------------------------------------------


LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = ".,?>|'-"


def _words() -> list[str]:
    """The words of the toy world but the rarest, so that some words are several tokens. Sorted."""
    every = sorted({word.strip(MARKS) for text in texts() for word in text.split()} - {""})
    return [word for index, word in enumerate(every) if index % 4]


def _wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: lower case, ## within words, [CLS] … [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *MARKS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *map(str.lower, _words())]
    # Written out, not trained: the trainer numbers ## pieces anew in every process.
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _byte_level(special: list[str], unknown: str) -> Tokenizer:
    """Byte-level BPE over the toy world's bytes alone; no space is put before the first word."""
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    return tokenizer


def _bart() -> PreTrainedTokenizerFast:
    """BART's: `<s>` … `</s>`."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"], "<unk>")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
    )


def _gpt2() -> PreTrainedTokenizerFast:
    """GPT-2's: nothing added, one special token for all purposes, no padding token."""
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level([end], end), bos_token=end, eos_token=end, unk_token=end
    )


def _t5() -> PreTrainedTokenizerFast:
    """T5's: unigram pieces with the metaspace, `</s>` at the end."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    letters = sorted(set("".join(texts())) - {" "})
    pieces = [
        ("▁", -4.0),
        *((letter, -5.0) for letter in letters),
        *((f"▁{word}", -3.0) for word in _words()),
    ]
    tokenizer = Tokenizer(models.Unigram([*special, *dict(pieces).items()], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def _llama(*, adds_eos: bool = False) -> PreTrainedTokenizerFast:
    """Llama 2's: the metaspace is put before the text, `<s>` before all."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    # Without a pre-tokenizer merges would cross words; words are learnt one by one, as SentencePiece does.
    words = sorted({word for text in texts() for word in text.split()})
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if adds_eos else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bert": cache(_wordpiece),
    "bart": cache(_bart),
    "t5": cache(_t5),
    "gpt2": cache(_gpt2),
    "llama": cache(_llama),
    "llama-eos": cache(lambda: _llama(adds_eos=True)),
}
"""Made once a process: a tokenizer is asked, never changed."""


# Networks --------------------------------------------------------------------------------------------


def _bert_network(tokenizer: PreTrainedTokenizerFast, one_logit: bool) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        num_labels=1 if one_logit else 2,
        problem_type=None,
    )
    return BertForSequenceClassification(config)


def _bart_network(tokenizer: PreTrainedTokenizerFast, forced_bos: bool) -> PreTrainedModel:
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    network = BartForConditionalGeneration(config)
    network.generation_config.forced_bos_token_id = 0 if forced_bos else None
    return network


def _t5_network(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def _gpt2_network(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config)


def _llama_network(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def network(
    kind: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    one_logit: bool = False,
    forced_bos: bool = False,
) -> PreTrainedModel:
    """A network with weights wide enough that answers depend on prompts, and end soon."""
    return copy.deepcopy(_network(kind, tokenizer, seed, one_logit, forced_bos))


@cache
def _network(
    kind: str, tokenizer: PreTrainedTokenizerFast, seed: int, one_logit: bool, forced_bos: bool
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "bert":
            made = _bert_network(tokenizer, one_logit)
        elif kind == "bart":
            made = _bart_network(tokenizer, forced_bos)
        else:
            made = {"t5": _t5_network, "gpt2": _gpt2_network, "llama": _llama_network}[kind](tokenizer)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.35)
                elif name.endswith("bias"):
                    parameter.normal_(0, 0.1)
            if kind != "bert":
                # A longer row wins, or loses, by more: half of the states say EOS.
                embeddings = made.get_input_embeddings().weight
                assert isinstance(embeddings, torch.Tensor)
                embeddings[tokenizer.eos_token_id] *= 2.5
            else:
                _balance(made, tokenizer)
    return made


def _balance(made: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Moves a classifier's threshold until it gives each label to half of the toy world."""
    classifier = made.get_submodule("classifier")
    assert isinstance(classifier, torch.nn.Linear)
    logits = [
        made.eval()(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in prompts("bert", 72)
    ]
    # Between the two in the middle, so that none lies on the threshold.
    middle = torch.stack([logit[-1] - (logit[0] if len(logit) > 1 else 0.0) for logit in logits]).quantile(
        0.5
    )
    classifier.bias[-1] -= middle


def model(
    kind: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    prompt_format: PromptFormat | None = None,
    one_logit: bool = False,
    forced_bos: bool = False,
    tokenizer: str | None = None,
) -> AbstractModel:
    """A tiny model of a kind in `KINDS`, asked as in `task(kind)`; `tokenizer` is a key of `TOKENIZERS`."""
    words = TOKENIZERS[tokenizer or kind]()
    made = network(kind, words, seed=seed, one_logit=one_logit, forced_bos=forced_bos).to(dtype)
    return FAMILIES[FAMILY[kind]](f"tiny-{kind}", made, words, prompt_format or PromptFormat.of(task(kind)))


@cache
def _fitted_weights(kind: str, steps: int) -> dict[str, torch.Tensor]:
    learner = model(kind)
    learner.network.requires_grad_(True)
    chosen = records(kind)
    rows = learner.rows([record.prompt for record in chosen], [record.answers[0] for record in chosen])
    optimizer = torch.optim.Adam(learner.network.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        target_loss(learner.logits(rows), rows).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in learner.network.state_dict().items()}


def fitted(
    kind: str,
    *,
    steps: int = FIT_STEPS,
    prompt_format: PromptFormat | None = None,
    dtype: torch.dtype = torch.float32,
) -> AbstractModel:
    """A tiny model that has seen the toy world: its answers are words that end, many of them right."""
    made = model(kind, prompt_format=prompt_format, dtype=dtype)
    made.network.load_state_dict(_fitted_weights(kind, steps))
    return made


def save(
    kind: str, folder: Path, *, seed: int = 0, forced_bos: bool = False, is_fitted: bool = False
) -> Path:
    """A tiny model as a folder that `load_model` takes: configuration, safetensors, tokenizer."""
    words = TOKENIZERS[kind]()
    made = network(kind, words, seed=seed, forced_bos=forced_bos)
    if is_fitted:
        made.load_state_dict(_fitted_weights(kind, FIT_STEPS))
    made.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def prompts(kind: str, count: int = 12) -> list[str]:
    """Prompts of different lengths: the records', and their paraphrases."""
    found: Sequence[Record] = records(kind)
    every = [text for record in found for text in (record.prompt, *(p.text for p in record.paraphrases))]
    return every[:count]
