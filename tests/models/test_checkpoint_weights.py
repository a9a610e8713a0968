"""A checkpoint that lacks weights, or has others than the model's, is refused by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, BertForMaskedLM

from kebench.errors import BadFile
from kebench.models.load import load_model, load_pretrained
from kebench.task import ModelRecipe
from kebench.training.base import Training, _start

Weights = dict[str, Tensor]
KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])
A_LAYER = {
    "bert": "bert.encoder.layer.1.",
    "bart": "model.decoder.layers.1.",
    "t5": "encoder.block.1.",
    "gpt2": "transformer.h.1.",
    "llama": "model.layers.1.",
}


def changed(folder: Path, change: Callable[[Weights], None]) -> Path:
    """The folder with other weights in its safetensors file."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def without(prefix: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        names = [name for name in weights if name.startswith(prefix)]
        assert names
        for name in names:
            del weights[name]

    return change


def refusal(folder: Path, kind: str) -> str:
    with pytest.raises(BadFile) as caught:
        load_model(str(folder), tiny.task(kind))
    start = f"{folder}: the weights in the file do not fit the model: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(start)


def start_from(folder: Path, kind: str) -> torch.nn.Module:
    """The network that a base model's training starts with."""
    recipe = ModelRecipe(start=str(folder))
    return _start("m", recipe, tiny.task(kind), Training(), [])[0]


# --- a finished model


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    folder = changed(tiny.save("bert", tmp_path / "m"), without("classifier."))
    assert refusal(folder, "bert") == "missing: classifier.bias, classifier.weight"


@KINDS
def test_a_missing_layer_is_named(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / "m")
    names = sorted(name for name in load_file(folder / "model.safetensors") if name.startswith(A_LAYER[kind]))
    changed(folder, without(A_LAYER[kind]))
    assert refusal(folder, kind) == f"missing: {', '.join(names[:4])} and {len(names) - 4} more"


@KINDS
def test_a_layer_too_many_is_named(kind: str, tmp_path: Path) -> None:
    """The file has two layers, and the configuration says one: the model would run without the second."""
    folder = tiny.save(kind, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for field in ("num_hidden_layers", "decoder_layers", "num_layers", "n_layer"):
        if field in config and not (kind == "bart" and field == "num_hidden_layers"):
            config[field] = 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert refusal(folder, kind).startswith(f"superfluous: {A_LAYER[kind]}")


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    def change(weights: Weights) -> None:
        weights["classifier.weight"] = torch.zeros(3, 16)
        weights["bert.pooler.dense.bias"] = torch.zeros(3)

    folder = changed(tiny.save("bert", tmp_path / "m"), change)
    assert refusal(folder, "bert") == "of another shape: bert.pooler.dense.bias, classifier.weight"


@pytest.mark.parametrize(("kind", "name"), [("bert", "cls.predictions.bias"), ("t5", "v_head.weight")])
def test_weights_of_another_head_are_named(kind: str, name: str, tmp_path: Path) -> None:
    folder = changed(tiny.save(kind, tmp_path / "m"), lambda weights: weights.update({name: torch.zeros(3)}))
    assert refusal(folder, kind) == f"superfluous: {name}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "bert.embeddings.position_ids"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("llama", "model.norm.bias"),
    ],
)
def test_buffers_of_older_versions_and_what_is_not_used_pass(kind: str, name: str, tmp_path: Path) -> None:
    folder = changed(
        tiny.save(kind, tmp_path / "m"), lambda weights: weights.update({name: torch.zeros(1, 8)})
    )
    prompts = tiny.prompts(kind, 4)
    assert load_model(str(folder), tiny.task(kind)).answer(prompts) == tiny.model(kind).answer(prompts)


def test_a_missing_buffer_passes(tmp_path: Path) -> None:
    folder = changed(tiny.save("bart", tmp_path / "m"), without("final_logits_bias"))
    prompts = tiny.prompts("bart", 4)
    assert load_model(str(folder), tiny.task("bart")).answer(prompts) == tiny.model("bart").answer(prompts)


@KINDS
def test_tied_weights_are_not_missing(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / "m")
    assert not any(name.startswith("lm_head") for name in load_file(folder / "model.safetensors"))
    load_model(str(folder), tiny.task(kind))


def test_an_output_layer_of_its_own_may_not_be_missing(tmp_path: Path) -> None:
    folder = tiny.save("llama", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert refusal(folder, "llama") == "missing: lm_head.weight"


@KINDS
def test_a_folder_without_a_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    """transformers would make one without words, to which every prompt is the same."""
    folder = tiny.save(kind, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(BadFile) as caught:
        load_model(str(folder), tiny.task(kind))
    assert "\n" not in str(caught.value)
    assert "okenizer" in str(caught.value)


# --- a start, which gets a new head


@KINDS
def test_a_base_without_a_head_is_a_start(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / "m")
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    network = start_from(folder, kind)
    wanted = tiny.model(kind).network.state_dict()
    for name, value in network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(value, wanted[name])
    if kind == "bert":
        with pytest.raises(BadFile, match=r"missing: classifier.bias, classifier.weight"):
            load_pretrained(str(folder), "classifier")


def test_a_start_may_have_another_head_or_one_of_other_labels(tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "m")
    BertForMaskedLM(tiny.model("bert").network.config).save_pretrained(folder)  # and no pooler
    assert start_from(folder, "bert").get_submodule("classifier").weight.shape == (2, 16)
    folder = tiny.save("bert", tmp_path / "three")
    changed(folder, lambda weights: weights.update({"classifier.weight": torch.zeros(3, 16)}))
    assert start_from(folder, "bert").get_submodule("classifier").weight.shape == (2, 16)


@KINDS
def test_a_start_without_one_of_its_layers_is_refused(kind: str, tmp_path: Path) -> None:
    folder = changed(tiny.save(kind, tmp_path / "m"), without(A_LAYER[kind]))
    with pytest.raises(BadFile, match=f"missing: {A_LAYER[kind]}"):
        start_from(folder, kind)
