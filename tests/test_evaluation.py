"""`kebench.evaluate` with what a notebook has in hand: names, kebench models, networks, pairs."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tiny
import torch
from kebench.baselines.fine_tuning import FineTuning
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer, BertModel
from worlds import World

from kebench import evaluate
from kebench.errors import BadSetting, KebenchError
from kebench.models.load import FAMILIES, label_fields, load_model, model_of, tokenizer_of
from kebench.models.model import PromptFormat
from kebench.running.progress import Silent
from kebench.running.run import inputs_of
from kebench.running.settings import RunSettings
from kebench.task import load_task

AUTO = {"bert": AutoModelForSequenceClassification, "bart": AutoModelForSeq2SeqLM}
TUNED = FineTuning(layers="first", learning_rate=1e-2, max_steps=3)


@pytest.fixture(params=["bert", "bart"])
def world(request: pytest.FixtureRequest, make_world: Callable[..., World], monkeypatch: Any) -> World:
    """A toy world of either family, entered."""
    made = make_world(request.param)
    monkeypatch.setenv("KEBENCH_HOME", str(made.home))
    return made


def network_of(world: World, **options: Any) -> Any:
    return AUTO[world.kind].from_pretrained(world.model, **options)


def state_of(network: torch.nn.Module) -> dict[str, object]:
    """Everything about a network that a run might change and leave changed."""
    return {
        "modes": [module.training for module in network.modules()],
        "gradients": [weight.requires_grad for weight in network.parameters()],
        "grad": [weight.grad for weight in network.parameters()],
        "types": [weight.dtype for weight in network.parameters()],
        "generation": getattr(network, "generation_config", None),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()],
        "versions": [weight._version for weight in network.parameters()],
    }


# --- what is taken


def test_a_network_gives_the_numbers_of_its_folder_and_is_left_as_it_was(world: World) -> None:
    """In whatever type it was loaded, with its tokenizer or without; in training mode, in part frozen."""
    options: dict[str, Any] = {"limit": 2, "retain": 8}
    wanted = evaluate(TUNED, world.task, world.model, **options)
    words = AutoTokenizer.from_pretrained(world.model)
    for dtype in (torch.float32, torch.bfloat16):
        network = network_of(world, dtype=dtype).train()
        next(network.parameters()).requires_grad_(False)
        network.base_model.encoder.eval()
        before = state_of(network)
        found = evaluate(
            TUNED, world.task, network if dtype == torch.float32 else (network, words), **options
        )
        assert state_of(network) == before
        assert found.record.hardware["dtype"] == "float32"
        assert found.record.scores.failures == {}
        if dtype == torch.float32:
            assert found.record.scores == wanted.record.scores
            assert found.record.setting == wanted.record.setting
            assert found.edits.to_pandas().equals(wanted.edits.to_pandas())
        else:  # its weights were rounded before it was handed over
            assert found.record.setting.model == wanted.record.setting.model
            assert found.record.setting.model_fingerprint != wanted.record.setting.model_fingerprint


def test_a_float16_network_is_that_of_its_folder_where_that_is_float16(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = network_of(world, dtype=torch.float16)
    network.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(world.model).save_pretrained(tmp_path / "half")
    by_name = evaluate(TUNED, world.task, tmp_path / "half", limit=2, retain=8)
    handed = AUTO[world.kind].from_pretrained(tmp_path / "half")
    assert handed.dtype == torch.float16
    with caplog.at_level(logging.WARNING):
        found = evaluate(TUNED, world.task, handed, limit=2, retain=8)
    assert found.record.scores == by_name.record.scores
    assert found.record.setting == by_name.record.setting
    told = "model half: its weights are torch.float16; a copy in float32 is used"
    assert told in [record.message for record in caplog.records]
    assert handed.dtype == torch.float16


def test_bfloat16_is_computed_in_only_where_it_is_asked_for(seq2seq: World) -> None:
    by_name = evaluate("identity", seq2seq.task, limit=2, dtype="bfloat16").record
    for dtype in (torch.float32, torch.bfloat16):
        network = network_of(seq2seq, dtype=dtype)
        found = evaluate("identity", seq2seq.task, network, limit=2, dtype="bfloat16").record
        assert found.hardware["dtype"] == "bfloat16"
        assert found.setting == by_name.setting
        assert network.dtype == dtype


def test_a_kebench_model_is_taken_even_in_training_mode(classifier: World) -> None:
    model = load_model(str(classifier.model), load_task(str(classifier.task)))
    wanted = evaluate("identity", classifier.task, limit=3)
    model.network.train()
    found = evaluate("identity", classifier.task, model, limit=3)
    assert found.record.scores == wanted.record.scores
    assert found.record.setting == wanted.record.setting
    assert model.network.training


# --- what is refused


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (object(), "a object"),
        (5, "a int"),
        (BertModel, "the class BertModel"),
        ((1, "x"), "(a int, a str)"),
        (torch.nn.Linear(2, 2), "a Linear"),
    ],
)
def test_another_thing_than_a_model_is_refused(classifier: World, model: Any, found: str) -> None:
    with pytest.raises(BadSetting) as caught:
        evaluate("identity", classifier.task, model)
    assert str(caught.value) == (
        f"model: found {found}, wanted a name, a kebench or transformers model,"
        " or a pair (network, tokenizer)"
    )


def test_another_thing_than_an_editor_or_a_task_is_refused(classifier: World) -> None:
    for editor, found in ((object(), "a object"), (FineTuning, "the class FineTuning"), (None, "a NoneType")):
        with pytest.raises(BadSetting) as caught:
            evaluate(editor, classifier.task)  # type: ignore[arg-type]
        assert str(caught.value) == (f"editor: found {found}, wanted a name or an editor such as Identity()")
    with pytest.raises(BadSetting, match="task: found a dict, wanted a name or a YAML path"):
        evaluate("identity", {"name": "fever"})  # type: ignore[arg-type]


def test_a_network_is_checked_as_a_loaded_one_is(classifier: World, seq2seq: World) -> None:
    words = tiny.TOKENIZERS["bert"]()

    def refused(network: Any, wanted: str) -> None:
        with pytest.raises(KebenchError) as caught:
            evaluate("identity", classifier.task, (network, words))
        assert str(caught.value) == wanted

    task = "(task toy)"
    refused(network_of(seq2seq), f"model tiny: found seq2seq, wanted a classifier {task}")
    network = network_of(classifier)
    refused(network.base_model, f"model tiny: found no answering head, wanted a classifier {task}")
    network.config.update(label_fields(["A", "B", "C"]))
    refused(network, "model tiny: found 3 labels, wanted 2")
    network.config.update(label_fields(["negative", "positive"]))
    refused(
        network,
        "model tiny: found the labels negative, positive, wanted REFUTES, SUPPORTS"
        " (in its config.json, id2label says which logit is which)",
    )
    network = network_of(classifier)
    network.resize_token_embeddings(9)
    refused(network, f"model tiny: found {words.vocab_size} tokens in the tokenizer, wanted 9")


def test_a_kebench_model_is_checked_too(classifier: World, seq2seq: World) -> None:
    of_claims = load_model(str(classifier.model), load_task(str(classifier.task)))
    with pytest.raises(BadSetting, match=r"found classifier, wanted a seq2seq \(task toy\)"):
        evaluate("identity", seq2seq.task, of_claims)
    other = tiny.model(
        "bert", prompt_format=PromptFormat(template="Is it true? {prompt}", labels=tiny.LABELS)
    )
    with pytest.raises(BadSetting) as caught:
        evaluate("identity", classifier.task, other)
    assert str(caught.value) == (
        "model tiny-bert: template: found 'Is it true? {prompt}', wanted '{prompt}' (task toy)"
    )


def test_a_network_alone_must_say_where_its_tokenizer_is(tmp_path: Path) -> None:
    words = tiny.TOKENIZERS["bert"]()
    network = tiny.network("bert", words)
    network.save_pretrained(tmp_path / "m")
    alone = "model: found a BertForSequenceClassification alone, {}, wanted the pair (network, tokenizer)"
    for made, why in (
        (network, "which does not say where it was loaded from"),
        (AUTO["bert"].from_pretrained(tmp_path / "m"), f"and no tokenizer at '{tmp_path / 'm'}'"),
    ):
        with pytest.raises(BadSetting) as caught:
            tokenizer_of(made)
        assert str(caught.value) == alone.format(why)
    words.save_pretrained(tmp_path / "m")
    made = AUTO["bert"].from_pretrained(tmp_path / "m")
    assert tokenizer_of(made).get_vocab() == words.get_vocab()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_no_model_is_made_of_float16_weights(kind: str) -> None:
    words = tiny.TOKENIZERS[kind]()
    half = tiny.network(kind, words).half()
    with pytest.raises(BadSetting) as caught:
        FAMILIES[tiny.FAMILY[kind]]("m", half, words, PromptFormat.of(tiny.task(kind)))
    assert str(caught.value) == "model m: found weights in float16, wanted float32 or bfloat16"


# --- what editors learn on


def test_editors_learn_in_float32_whatever_is_handed_over(seq2seq: World, tmp_path: Path) -> None:
    task = load_task(str(seq2seq.task))
    half = load_model(str(seq2seq.model), task, dtype="bfloat16")
    settings = seq2seq.settings(tmp_path / "run", "identity", limit=2)
    learning = inputs_of(settings, Silent(), model=half).to_learn_on()
    assert learning.model.dtype == "float32"
    assert learning.model.name == "tiny"
    assert half.dtype == "bfloat16"
    # A network's own weights are learnt on, not those that were rounded to answer.
    pair = (network_of(seq2seq), tiny.TOKENIZERS["bart"]())
    asked = seq2seq.settings(tmp_path / "run", "identity", limit=2, dtype="bfloat16")
    inputs = inputs_of(asked, Silent(), model=pair)
    plain = inputs_of(settings, Silent(), model=load_model(str(seq2seq.model), task))
    assert inputs.model.dtype == "bfloat16"
    assert inputs.to_learn_on().identity == plain.identity


def test_a_model_in_memory_is_named_after_its_place_or_its_class(tmp_path: Path) -> None:
    words = tiny.TOKENIZERS["gpt2"]()
    network = tiny.network("gpt2", words)
    assert model_of(network, words, tiny.task("gpt2")).name == "GPT2LMHeadModel"
    folder = tiny.save("gpt2", tmp_path / "mine")
    loaded = copy.deepcopy(network)
    loaded.config._name_or_path = loaded.name_or_path = str(folder)
    assert model_of(loaded, words, tiny.task("gpt2"), dtype="bfloat16").name == "mine (bfloat16)"


# --- what a run is asked to do is written once


def test_the_arguments_are_the_settings_of_a_run() -> None:
    wanted = {field.name: field for field in fields(RunSettings)}
    arguments = dict(list(inspect.signature(evaluate).parameters.items())[3:])
    own = {"progress"}
    assert [*arguments] == [name for name in wanted if name not in ("editors", "task", "model")] + [*own]
    hints, run_hints = get_type_hints(evaluate), get_type_hints(RunSettings)
    for name in arguments.keys() - own - {"settings", "output"}:  # which take None, and a Path
        assert hints[name] == run_hints[name], name
        assert arguments[name].default == wanted[name].default, name


def test_settings_of_an_editor_given_by_its_name(world: World) -> None:
    options: dict[str, Any] = {"limit": 1, "settings": {"max_steps": 1}}
    record = evaluate("fine_tuning@all", world.task, **options).record
    assert record.editor == "fine_tuning_all (max_steps=1)"
    assert record.editor_settings["max_steps"] == 1
    with pytest.raises(BadSetting, match=r"settings: found some beside an editor itself"):
        evaluate(TUNED, world.task, **options)
    with pytest.raises(BadSetting, match=r"^settings: max_stps: unknown field; did you mean 'max_steps'\?"):
        evaluate("fine_tuning", world.task, settings={"max_stps": 1})
