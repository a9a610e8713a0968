"""Base models: trained, cut off, gone on with, written, read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import assert_usual_modes
from safetensors.torch import load_file

from kebench.errors import BadFile, BadSetting
from kebench.models.load import load_model
from kebench.models.seq2seq import Seq2Seq
from kebench.packs.record import Paraphrase, Record
from kebench.task import ModelRecipe
from kebench.training import base as training
from kebench.training.base import Trained, Training, accuracy_of, bpe_tokenizer, train_base

BART: dict[str, Any] = {
    "model_type": "bart",
    "vocab_size": 300,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
}
TRAINING = {"max_steps": 9, "evaluate_every": 3, "batch_size": 7, "warmup_steps": 2, "learning_rate": 0.01}
NO_DEV = {"train": tiny.records("bart"), "dev": []}
STARTS = pytest.mark.parametrize("start", ["bert", "bart", "gpt2", "scratch"])


class Interrupted(Exception):
    """The power fails."""


def kind_of(start: str) -> str:
    return "bart" if start == "scratch" else start


def train(start: str, folder: Path, *, stop_at: int | None = None, **changes: Any) -> Trained:
    if start == "scratch":
        recipe = ModelRecipe(architecture=BART, training={**TRAINING, **changes})
    else:
        source = tiny.save(start, folder.parent / f"{start}-start", forced_bos=start == "bart")
        recipe = ModelRecipe(start=str(source), training={**TRAINING, **changes})
    records = tiny.records(kind_of(start))

    def report(done: int, steps: int, words: str) -> None:
        assert steps == recipe.training["max_steps"]
        assert words.startswith("loss ")
        if done == stop_at:
            raise Interrupted

    return train_base(
        "toy-base",
        recipe,
        tiny.task(kind_of(start)),
        {"train": records[:18], "dev": records[18:]},
        folder,
        pack_sha256="ab12",
        report=report,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    done: dict[str, Trained] = {}

    def once(start: str) -> Trained:
        if start not in done:
            done[start] = train(start, tmp_path_factory.mktemp(start) / "model")
        return done[start]

    return once


@STARTS
def test_a_trained_model_is_safetensors_and_a_card(start: str, trained: Callable[[str], Trained]) -> None:
    result = trained(start)
    names = {path.name for path in result.folder.rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json", "kebench.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"))]
    card = json.loads((result.folder / "kebench.json").read_text(encoding="utf-8"))
    assert card["name"] == "toy-base"
    assert (card["task"], card["task_version"], card["pack_sha256"]) == ("toy", 1, "ab12")
    assert card["training"]["max_steps"] == 9
    assert card["training"]["weight_decay"] == 0.01  # a default, resolved
    assert card["dev_accuracy"] == result.dev_accuracy
    assert (result.folder / "README.md").read_text(encoding="utf-8").startswith("# toy-base\n")
    assert_usual_modes(result.folder)
    # The checkpoint it went on from is gone.
    assert not list(result.folder.parent.glob("*training*"))


@STARTS
def test_a_trained_model_reads_back_with_the_same_answers(
    start: str, trained: Callable[[str], Trained]
) -> None:
    result, kind = trained(start), kind_of(start)
    dev = tiny.records(kind)[18:]
    model = load_model(str(result.folder), tiny.task(kind))
    assert model.name == "toy-base"
    assert accuracy_of(model, dev) == result.dev_accuracy
    assert accuracy_of(model, tiny.records(kind)[:18]) == result.train_accuracy
    assert not model.network.training
    if isinstance(model, Seq2Seq):  # even if the start forced one, the targets it learnt have none
        assert model.forced is None


BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


@pytest.mark.parametrize("start", ["checkpoint", "scratch"])
def test_a_trained_classifier_names_the_tasks_labels(start: str, tmp_path: Path) -> None:
    source = {"start": str(tiny.save("bert", tmp_path / "start"))} if start == "checkpoint" else {}
    recipe = ModelRecipe(**source, architecture=BERT, training={**TRAINING, "max_steps": 1})
    records = tiny.records("bert")
    train_base(
        "toy-base",
        recipe,
        tiny.task("bert"),
        {"train": records[:18], "dev": records[18:]},
        tmp_path / "model",
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "REFUTES", "1": "SUPPORTS"}
    assert config["label2id"] == {"REFUTES": 0, "SUPPORTS": 1}


@pytest.mark.parametrize("name", ["learning_rate", "max_steps", "batch_size", "evaluate_every"])
def test_a_training_setting_out_of_range(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        BadFile, match=rf"^model toy-base: training: {name}: found 0(\.0)?, wanted a number above 0"
    ):
        train("bert", tmp_path / "model", **{name: 0})


@pytest.mark.parametrize("start", ["bert", tiny.slow("bart"), tiny.slow("gpt2"), "scratch"])
@pytest.mark.parametrize("stop_at", [tiny.slow(2), 5, 6])
def test_an_interrupted_training_goes_on_to_the_same_model(
    start: str, stop_at: int, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    with pytest.raises(Interrupted):
        train(start, folder, stop_at=stop_at)
    assert not (folder / "kebench.json").exists(), "half a model must not look like a whole one"
    torch.manual_seed(7)
    result = train(start, folder)
    expected = trained(start)
    assert result.history == expected.history
    assert result.dev_accuracy == expected.dev_accuracy
    weights = (path.folder / "model.safetensors" for path in (result, expected))
    assert len({path.read_bytes() for path in weights}) == 1


def test_a_seed_gives_one_model(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    again = train("scratch", tmp_path / "again")
    other = train("scratch", tmp_path / "other", seed=1)
    first = load_file(trained("scratch").folder / "model.safetensors")
    assert all(torch.equal(t, first[n]) for n, t in load_file(again.folder / "model.safetensors").items())
    assert not all(
        torch.equal(t, first[n])
        for n, t in load_file(other.folder / "model.safetensors").items()
        if n != "final_logits_bias"
    )


@pytest.mark.parametrize("start", ["bert", tiny.slow("bart"), "gpt2"])
def test_training_learns(start: str, tmp_path: Path) -> None:
    result = train(start, tmp_path / "m", max_steps=60, evaluate_every=20, label_smoothing=0.0, dropout=0.0)
    losses = [loss for _, loss, _ in result.history]
    assert losses[-1] < 0.7 * losses[0] or losses[-1] < 0.1
    assert [step for step, _, _ in result.history] == [20, 40, 60]


@pytest.mark.parametrize("start", ["bert", "bart", "gpt2", "t5", "scratch"])
def test_dropout_of_nothing_makes_training_deterministic_in_every_family(start: str, tmp_path: Path) -> None:
    result = train(start, tmp_path / "m", dropout=0.0, max_steps=3)
    assert result.history[-1][0] == 3
    config = json.loads((result.folder / "config.json").read_text(encoding="utf-8"))
    shares = {
        name: value
        for name, value in config.items()
        if name in ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate")
        or name.endswith("_pdrop")
    }
    assert shares
    assert set(shares.values()) == {0.0}


def test_paraphrases_are_trained_on_if_asked(tmp_path: Path) -> None:
    plain = train("scratch", tmp_path / "a", max_steps=3)
    more = train("scratch", tmp_path / "b", max_steps=3, paraphrases=True)
    assert plain.history != more.history


def test_a_tokenizer_learnt_twice_is_the_same() -> None:
    records = tiny.records("bart")
    texts = [text for record in records for text in (record.prompt, *record.answers)]
    one, other = bpe_tokenizer(texts, 300), bpe_tokenizer(texts, 300)
    assert one.get_vocab() == other.get_vocab()
    assert [one.convert_tokens_to_ids(token) for token in ("<s>", "<pad>", "</s>")] == [0, 1, 2]
    assert one("Rome")["input_ids"][0] == 0
    assert one("Rome")["input_ids"][-1] == 2
    for record in records:
        ids = one(record.prompt, add_special_tokens=False)["input_ids"]
        assert one.decode(ids) == record.prompt


def test_accuracy_by_hand() -> None:
    model = tiny.fitted("bart")
    prompts = [record.prompt for record in tiny.records("bart", 4)]
    said = model.answer(prompts)
    gold = [(said[0],), ("wrong",), ("wrong", said[2].upper()), ("wrong",)]
    records = [Record(f"r{i}", "f", p, g) for i, (p, g) in enumerate(zip(prompts, gold, strict=True))]
    assert accuracy_of(model, records) == 0.5
    assert accuracy_of(model, []) != accuracy_of(model, [])


# --- what a user can get wrong


def test_a_recipe_needs_a_start_or_an_architecture(tmp_path: Path) -> None:
    with pytest.raises(BadSetting) as caught:
        train_base(
            "toy-base",
            ModelRecipe(),
            tiny.task("bart"),
            {"train": tiny.records("bart"), "dev": []},
            tmp_path / "m",
        )
    assert str(caught.value) == "model toy-base: found neither start nor architecture, wanted one of them"


def test_an_unknown_training_setting_is_named(tmp_path: Path) -> None:
    recipe = ModelRecipe(architecture=BART, training={"learning_rat": 0.1})
    with pytest.raises(BadFile) as caught:
        train_base(
            "toy-base", recipe, tiny.task("bart"), {"train": tiny.records("bart"), "dev": []}, tmp_path / "m"
        )
    text = str(caught.value)
    assert text == "model toy-base: training: learning_rat: unknown field; did you mean 'learning_rate'?"


def test_a_start_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    recipe = ModelRecipe(start=str(tmp_path))
    with pytest.raises(BadFile) as caught:
        train_base(
            "toy-base", recipe, tiny.task("bart"), {"train": tiny.records("bart"), "dev": []}, tmp_path / "m"
        )
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


# Records known by heart ------------------------------------------------------------------------------


def known_by_heart(n_facts: int) -> dict[str, list[Record]]:
    """Facts in three splits, each with a prompt and nine other wordings."""
    records = [
        Record(
            f"{number}",
            f"fact {number}",
            f"What is {number}?",
            (f"It is {number}.",),
            tuple(Paraphrase(f"Wording {place} of {number}?", "toy") for place in range(9)),
        )
        for number in range(n_facts)
    ]
    return {"train": records[::2], "dev": records[1::4], "test": records[3::4]}


def test_every_split_is_shown_in_some_wordings_and_asked_in_the_others() -> None:
    splits = known_by_heart(300)
    shown, unshown = training._pairs(splits, Training(paraphrases=True, shown=0.6))
    assert {each.fact for each in shown} == {f"fact {number}" for number in range(300)}
    assert len(shown) / 3000 == pytest.approx(0.6, abs=0.03)
    assert not {each.prompt for each in shown} & {each.prompt for each in unshown}
    assert len(unshown) == training.MEASURED
    again = training._pairs(splits, Training(paraphrases=True, shown=0.6, seed=5))
    assert {each.prompt for each in again[0]} == {each.prompt for each in shown}  # by hash, not by seed


def test_without_it_training_never_sees_another_split() -> None:
    splits = known_by_heart(40)
    shown, dev = training._pairs(splits, Training(paraphrases=True))
    assert {each.fact for each in shown} == {record.fact for record in splits["train"]}
    assert [each.prompt for each in dev] == [record.prompt for record in splits["dev"]]


def test_the_training_set_grows_from_a_few_facts_to_all() -> None:
    settings = Training(batch_size=8, growing_steps=50, max_steps=60)
    lessons = list(training._questions(known_by_heart(400)["train"], True))  # 200 facts, 2,000 pairs
    facts = [{each.fact for each in training._batch(lessons, settings, step)} for step in range(60)]
    first = {each.fact for each in lessons[: int(0.03 * len(lessons))]}
    assert facts[0] <= first
    half = {each.fact for each in lessons[: int(0.03**0.5 * len(lessons)) + 1]}
    assert set().union(*facts[:25]) <= half
    assert len(set().union(*facts)) > 2 * len(half)
    assert training._batch(lessons, settings, 30) == training._batch(lessons, settings, 30)


@pytest.mark.parametrize("shown", [0.0, -0.5, 1.5])
def test_a_share_that_is_none(shown: float) -> None:
    with pytest.raises(BadSetting, match="training: shown: found"):
        Training(shown=shown)


def test_weights_on_file_in_half_precision_are_those_measured(tmp_path: Path) -> None:
    result = train("scratch", tmp_path / "half", max_steps=3, save_as="float16")
    assert {tensor.dtype for tensor in load_file(result.folder / "model.safetensors").values()} == {
        torch.float16
    }
    model = load_model(str(result.folder), tiny.task("bart"))
    assert accuracy_of(model, tiny.records("bart")[18:]) == result.dev_accuracy


def test_a_growing_training_resumed_is_the_same(tmp_path: Path) -> None:
    whole = train("bert", tmp_path / "a" / "model", growing_steps=6)
    with pytest.raises(Interrupted):
        train("bert", tmp_path / "b" / "model", growing_steps=6, stop_at=4)
    again = train("bert", tmp_path / "b" / "model", growing_steps=6)
    assert again.history == whole.history
