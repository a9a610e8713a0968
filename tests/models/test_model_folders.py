"""A folder that holds no usable model is refused in one line that says what is wrong; its code never runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from transformers import RobertaConfig, RobertaForSequenceClassification

from kebench.errors import BadFile, BadSetting, KebenchError
from kebench.models.classifier import Classifier
from kebench.models.load import load_model, model_of
from kebench.models.model import PromptFormat
from kebench.running.environment import execution

Change = Callable[[Path], None]


def fields(**changes: Any) -> Change:
    """Changes fields of config.json; None removes a field."""

    def change(folder: Path) -> None:
        for name in ("config.json", "generation_config.json"):
            if (file := folder / name).is_file():
                found = {**json.loads(file.read_text()), **(changes if name == "config.json" else {})}
                removed = [each for each, value in changes.items() if value is None]
                kept = {each: value for each, value in found.items() if each not in removed}
                file.write_text(json.dumps(kept))

    return change


def tokens(**changes: Any) -> Change:
    """Changes fields of tokenizer_config.json; None removes a field."""

    def change(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        found = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))

    return change


def without(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def file(name: str, content: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


NO_END = both(fields(eos_token_id=None), tokens(eos_token=None))
INDEX = {"metadata": {}, "weight_map": {"model.shared.weight": "pytorch_model.bin"}}
PICKLED = both(without("model.safetensors"), file("model.safetensors.index.json", INDEX))
OUTSIDE = {"weight_map": {"a": "../other/model.safetensors"}}

BROKEN: list[tuple[str, Change, str]] = [
    ("gpt2", fields(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
     "config.json: quantization_config: found bitsandbytes, wanted weights that are not quantised"),
    ("bart", without("tokenizer.json", "tokenizer_config.json"), "found no tokenizer"),
    ("gpt2", NO_END, "found no token that ends a sequence"),
    ("t5", fields(decoder_start_token_id=None), "found no decoder_start_token_id"),
    ("gpt2", fields(n_layer=10**9), "config.json: n_layer: found 1000000000, and 28 weights in the files"),
    ("bert", fields(num_hidden_layers=10**9), "config.json: num_hidden_layers: found 1000000000"),
    ("bart", fields(decoder_layers=10**9), "config.json: decoder_layers: found 1000000000"),
    ("llama", fields(vocab_size=10**9), "config.json: vocab_size: found 1000000000"),
    ("llama", fields(hidden_size=10**9), "config.json: hidden_size: found 1000000000"),
    ("llama", fields(hidden_size="wide"), "hidden_size"),
    ("llama", fields(num_attention_heads=3), ""),
    ("llama", fields(num_attention_heads=0), ""),
    ("llama", fields(num_hidden_layers=-1), ""),
    ("gpt2", fields(n_head="x"), ""),
    ("bert", fields(vocab_size=None), ""),
    ("bert", fields(hidden_act="magic"), ""),
    ("bert", fields(architectures=[5]), ""),
    ("bert", fields(architectures="BertForSequenceClassification"), ""),
    ("bert", fields(id2label={"a": "b"}), ""),
    ("bert", fields(model_type=5), ""),
    ("bart", file("generation_config.json", {"eos_token_id": ["x"]}), "TypeError"),
    ("bart", fields(dropout=-1), "dropout probability has to be between 0 and 1, but got -1"),
    ("bert", file("config.json", "[]"), ""),
    ("bert", file("config.json", "{"), ""),
    ("bert", file("config.json", '{"a":' * 50_000), ""),
    ("bert", file("tokenizer.json", "{}"), ""),
    ("bert", file("tokenizer.json", "5"), ""),
    ("bert", file("tokenizer_config.json", "[]"), ""),
    ("bert", file("model.safetensors", "x" * 100), ""),
    ("bert", file("model.safetensors", ""), ""),
    ("bart", PICKLED, "model.safetensors.index.json: found 'pytorch_model.bin', wanted only .safetensors"),
    ("bart", both(without("model.safetensors"), file("model.safetensors.index.json", OUTSIDE)),
     "model.safetensors.index.json: found '../other/model.safetensors', wanted only .safetensors"),
    ("bart", both(without("model.safetensors"), file("model.safetensors.index.json", "[]")), "index.json"),
    ("bart", both(without("model.safetensors"), file("pytorch_model.bin", "x")), "no file named model.s"),
    ("gpt2", file("adapter_config.json", {"peft_type": "LORA"}),
     "found adapter_config.json beside the weights, wanted a whole model: merge the adapter into it"),
    ("gpt2", both(without("config.json", "model.safetensors"), file("adapter_config.json", {})),
     "found adapter_config.json, wanted a whole model"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "said"), BROKEN, ids=range(len(BROKEN)))
def test_an_unusable_model_is_one_line(kind: str, change: Change, said: str, tmp_path: Path) -> None:
    change(tiny.save(kind, tmp_path / "m"))
    with pytest.raises(KebenchError) as caught:
        load_model(str(tmp_path / "m"), tiny.task(kind)).answer(["Where?"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", "bart", "llama"])
def test_a_tokenizer_without_an_end_or_padding_uses_the_models(kind: str, tmp_path: Path) -> None:
    whole = load_model(str(tiny.save(kind, tmp_path / "whole")), tiny.task(kind))
    less = tiny.save(kind, tmp_path / "less")
    tokens(eos_token=None, pad_token=None)(less)
    prompts = tiny.prompts(kind, 6)
    assert load_model(str(less), tiny.task(kind)).answer(prompts) == whole.answer(prompts)


CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class Own(BertConfig):
    model_type = "own"
class OwnModel(BertForSequenceClassification):
    config_class = Own
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.OwnModel"}


def test_code_in_a_folder_never_runs_whatever_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Change] = {
        "config": fields(model_type="own", auto_map=AUTO),
        "model": fields(auto_map=AUTO),
        "tokenizer": tokens(tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]}),
        "generate": lambda folder: (folder / "custom_generate").mkdir(),
    }
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for name, change in made.items():
        kind = "gpt2" if name == "generate" else "bert"
        folder = tiny.save(kind, tmp_path / name)
        change(folder)
        code = CODE.format(mark=str(tmp_path / f"{name} ran"))
        for place in folder, folder / "custom_generate":
            if place.is_dir():
                file("own.py" if place == folder else "generate.py", code)(place)
        if name == "config":  # there is no other code for it
            with pytest.raises(BadFile, match=r"config: holds code of its own, which kebench does not run$"):
                load_model(str(folder), tiny.task(kind))
        else:
            load_model(str(folder), tiny.task(kind)).answer(["Where?"])
    assert not list(tmp_path.glob("* ran"))


@pytest.mark.parametrize(
    ("kind", "limits", "said"),
    [
        ("bert", {"max_prompt_tokens": 65}, "found 64 positions, wanted 65: the task's max_prompt_tokens"),
        ("bart", {"max_answer_tokens": 65},
         "found 64 positions, wanted 65: the task's max_prompt_tokens (24), max_answer_tokens (65)"),
        ("gpt2", {"max_answer_tokens": 41},
         "found 64 positions, wanted 65: the task's max_prompt_tokens (24) and max_answer_tokens (41)"),
        ("llama", {"max_prompt_tokens": 53}, "found 64 positions, wanted 65"),
    ],
)  # fmt: skip
def test_a_model_must_have_positions_for_the_longest_prompt_and_answer(
    kind: str, limits: dict[str, int], said: str
) -> None:
    network, tokenizer = tiny.network(kind, tiny.TOKENIZERS[kind]()), tiny.TOKENIZERS[kind]()
    with pytest.raises(BadSetting) as caught:
        model_of(network, tokenizer, tiny.task(kind, **limits))
    assert said in str(caught.value)
    one_less = {name: value - 1 for name, value in limits.items()}
    model_of(network, tokenizer, tiny.task(kind, **one_less))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_prompts_that_are_cut_are_counted_and_told_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    prompts = tiny.prompts(kind, 6)
    lengths = [len(ids) for ids in tiny.model(kind).prompt_ids(prompts)]
    limit = sorted(lengths)[2]
    format_ = PromptFormat.of(tiny.task(kind, max_prompt_tokens=limit))
    model = tiny.model(kind, prompt_format=format_)
    for prompt in (*prompts, *prompts):
        model.prompt_ids([prompt])
    assert len(model.cut) == sum(length > limit for length in lengths) > 1
    assert [record.message.startswith("model tiny-") for record in caplog.records] == [True]
    assert execution(model, prompts)["prompts_cut"] == len(model.cut)
    assert "prompts_cut" not in execution(tiny.model(kind), prompts)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_prompts_of_a_run_are_counted_whichever_were_asked(kind: str) -> None:
    prompts = tiny.prompts(kind, 6)
    format_ = PromptFormat.of(tiny.task(kind, max_prompt_tokens=4))
    others, fresh = (tiny.model(kind, prompt_format=format_) for _ in range(2))
    others.prompt_ids([f"{prompt} {prompt}" for prompt in prompts])
    counted = execution(fresh, prompts)["prompts_cut"]
    assert counted == execution(others, prompts)["prompts_cut"] == len(set(prompts))


def test_roberta_counts_its_positions_after_the_padding() -> None:
    config = RobertaConfig(
        vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=26, pad_token_id=1,
    )  # fmt: skip
    network = RobertaForSequenceClassification(config)
    words = tiny.TOKENIZERS["bert"]()
    assert Classifier("r", network, words, PromptFormat.of(tiny.task("bert"))).positions == 24
