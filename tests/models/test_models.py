"""Answers: free decoding, its short cut through guesses, batches, beams, and how models are loaded."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import assert_same, through, tolerance
from transformers import BertModel

from kebench.errors import BadFile, BadSetting, NotFound
from kebench.models.batching import Batching
from kebench.models.identity import identity
from kebench.models.load import display_name, family_of, load_model, load_pretrained
from kebench.models.model import AbstractModel
from kebench.models.rows import target_loss
from kebench.models.settings import DType

KINDS = pytest.mark.parametrize("kind", tiny.KINDS)
GENERATING = pytest.mark.parametrize("kind", tiny.GENERATING)
LONG = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])


@cache
def model(kind: str, seed: int = 0, ties: bool = False) -> AbstractModel:
    """A tiny model; with `ties`, most words' output rows are also another's, so that most steps tie.

    Seeds are random models, but 2 is one that has learnt a little and 3 one that has learnt more.
    """
    made = tiny.fitted(kind, steps={2: 25, 3: 80}[seed]) if seed >= 2 else tiny.model(kind, seed=seed)
    if ties:
        with torch.no_grad():
            rows = made.network.get_output_embeddings().weight  # type: ignore[union-attr]
            # Blocks of 32, which a matrix product treats alike: elsewhere equal rows may differ in their
            # last bit by the shape of the batch, and no tie is a tie.
            rows[32:64] = rows[:32].clone()
    return made


@cache
def free_answers(kind: str, seed: int, ties: bool) -> tuple[str, ...]:
    return tuple(model(kind, seed, ties).answer(tiny.prompts(kind, 72)))


# --- guesses


def near_misses(answer: str) -> list[str]:
    """Strings that are almost, or exactly, an answer; among them what no decoder prints."""
    return [
        answer, answer[:-1], answer[1:], f"{answer}s", f"{answer} {answer}", answer.swapcase(), f" {answer} ",
        answer.replace(" ", "  "), f"{answer}.", f"{answer} </s>", f"{answer}</s> Rome", f"<s> {answer}",
        f"{answer}<|endoftext|>", f"{answer}<pad>", f"{answer}<unk>", f"é{answer}", "", " ", "Rome",
    ]  # fmt: skip


@LONG
@given(data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True)
def test_a_guess_never_changes_an_answer(kind: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 3))
    ties = kind != "bert" and data.draw(st.booleans())
    free = free_answers(kind, seed, ties)
    prompts = tiny.prompts(kind, 72)
    chosen = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, max_size=12))
    near = [near_misses(free[index]) + list(free[index : index + 3]) for index in chosen]
    guesses = [data.draw(st.sampled_from(options)) for options in near]
    asked = [prompts[index] for index in chosen]
    assert model(kind, seed, ties).answer(asked, guesses=guesses) == [free[index] for index in chosen]


@LONG
def test_a_right_guess_saves_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.fitted(kind)
    prompts = tiny.prompts(kind, 72)
    free = made.answer(prompts)
    decoded: list[str] = []
    plain = made.decode

    def watched(asked: list[str], beams: int) -> list[list[str]]:
        decoded.extend(asked)
        return plain(asked, beams)

    monkeypatch.setattr(made, "decode", watched)
    assert made.answer(prompts, guesses=free) == free
    if made.ends:  # a classifier's answer is one pass either way
        assert len(decoded) < len(prompts) / 2


# --- batches


@LONG
@given(seed=st.integers(0, 10_000), size=st.integers(1, 12))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_order_batch_and_padding_change_no_answer(kind: str, seed: int, size: int) -> None:
    free = free_answers(kind, 0, False)
    prompts = tiny.prompts(kind, 72)
    chosen = random.Random(seed).choices(range(len(prompts)), k=size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model(kind), "batching", Batching(limit=random.Random(seed).choice([1, 40, 4096])))
        answers = model(kind).answer([prompts[index] for index in chosen])
    assert answers == [free[index] for index in chosen]


@KINDS
def test_batches_hold_every_prompt_once_within_their_tokens(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, prompts = model(kind), tiny.prompts(kind, 40)
    monkeypatch.setattr(made, "batching", Batching(limit=50))
    batches = list(made.batches(prompts))
    assert sorted(index for batch in batches for index in batch) == list(range(40))
    assert len(batches) > 1
    for batch in batches:
        longest = max(len(ids) for ids in made.prompt_ids([prompts[index] for index in batch]))
        assert len(batch) == 1 or len(batch) * longest <= 50


@KINDS
def test_logits_do_not_see_the_padding(kind: str) -> None:
    made = tiny.model(kind, dtype=torch.float64)
    prompts = ["where was Ada Bell born?", "where?"]
    targets = ["SUPPORTS", "REFUTES"] if kind == "bert" else ["New York", "Rome"]
    together = made.rows(prompts, targets)
    logits = made.logits(together)
    for index, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        alone = made.rows([prompt], [target])
        assert_same(logits[together.row == index], made.logits(alone), **through(made))


@GENERATING
def test_only_scored_positions_reach_the_output_layer(kind: str) -> None:
    made = tiny.model(kind, dtype=torch.float64)
    rows = made.rows(["where was Ada Bell born?", "where?"], ["New York", "Rome"])
    assert rows.mask is not None
    whole = made.network(**rows.inputs).logits
    assert_same(made.logits(rows), whole[rows.mask], **through(made))
    assert made.logits(rows).shape == (len(rows.labels), whole.shape[-1])
    assert not made.network.get_output_embeddings()._forward_pre_hooks  # type: ignore[union-attr]


# --- beams


@GENERATING
def test_five_beams_give_five_answers_best_first(kind: str) -> None:
    prompts = tiny.prompts(kind, 6)
    made = model(kind)
    found = made.hypotheses(prompts, 5)
    assert [len(texts) for texts in found] == [5] * 6
    assert made.answer(prompts, beams=5) == [texts[0] for texts in found]
    # A guess proves nothing about a beam, and is not looked at.
    assert made.answer(prompts, beams=5, guesses=made.answer(prompts)) == [texts[0] for texts in found]


@pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.GENERATING])
def test_one_beam_is_the_greedy_search_written_out(kind: str) -> None:
    made = model(kind)
    for prompt in tiny.prompts(kind, 8):
        (start,) = made.prompt_ids([prompt])
        said: list[int] = []
        for _ in range(made.prompt_format.max_answer_tokens):
            if made.family == "causal":
                logits = made.network(input_ids=torch.tensor([start + said])).logits
            else:
                decoder = [made.network.config.decoder_start_token_id, *said]
                logits = made.network(
                    input_ids=torch.tensor([start]), decoder_input_ids=torch.tensor([decoder])
                ).logits
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == made.tokenizer.eos_token_id:
                break
        text = made.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert made.answer([prompt]) == [text]


# --- classifiers


def test_one_logit_is_binary_cross_entropy() -> None:
    made = tiny.model("bert", one_logit=True, dtype=torch.float64)
    prompts = tiny.prompts("bert", 20)
    targets = [tiny.LABELS[index % 2] for index in range(20)]
    rows = made.rows(prompts, targets)
    logit = made.network(**rows.inputs).logits[:, 0]
    expected = F.binary_cross_entropy_with_logits(
        logit, torch.tensor([index % 2 for index in range(20)], dtype=torch.float64), reduction="none"
    )
    assert_same(target_loss(made.logits(rows), rows), expected, **through(made))
    answers = made.answer(prompts)
    assert answers == [tiny.LABELS[int(value > 0)] for value in logit]
    assert set(answers) == set(tiny.LABELS)


def test_two_logits_are_cross_entropy() -> None:
    made = tiny.model("bert", dtype=torch.float64)
    rows = made.rows(tiny.prompts("bert", 6), ["SUPPORTS"] * 6)
    expected = F.cross_entropy(made.network(**rows.inputs).logits, torch.ones(6).long(), reduction="none")
    assert_same(target_loss(made.logits(rows), rows), expected, **through(made))


def test_a_tied_classifier_says_its_first_label_everywhere() -> None:
    made = tiny.model("bert", one_logit=True)
    with torch.no_grad():
        head = made.network.get_submodule("classifier")
        for parameter in head.parameters():
            parameter.zero_()
    prompts = tiny.prompts("bert", 4)
    assert made.answer(prompts) == ["REFUTES"] * 4
    assert made.answer(prompts, guesses=["SUPPORTS"] * 4) == ["REFUTES"] * 4
    assert made.prefers(prompts, ["REFUTES"] * 4) == [True] * 4


def test_a_classifiers_hypotheses_are_its_labels_likeliest_first() -> None:
    made = model("bert")
    prompts = tiny.prompts("bert", 20)
    for answer, labels in zip(made.answer(prompts), made.hypotheses(prompts, 5), strict=True):
        assert labels[0] == answer
        assert sorted(labels) == sorted(tiny.LABELS)


# --- margins


@KINDS
def test_a_margin_is_the_least_lead(kind: str) -> None:
    made = tiny.model(kind, dtype=torch.float64)
    prompts = tiny.prompts(kind, 6)
    answers = made.answer(prompts) if kind == "bert" else ["New York"] * 6
    rows = made.rows(prompts, answers)
    best = made.logits(rows).topk(2).values
    near = tolerance(torch.float64, **through(made), size=best.abs().max().item())
    for index, margin in enumerate(made.margins(prompts, answers)):
        lead = (best[:, 0] - best[:, 1])[rows.row == index].min().item()
        assert margin == pytest.approx(lead, abs=near)


# --- frozen


@KINDS
def test_a_model_is_frozen_and_in_evaluation_mode(kind: str) -> None:
    made = tiny.model(kind)
    assert not made.network.training
    assert not any(parameter.requires_grad for parameter in made.network.parameters())


@KINDS
def test_nothing_to_answer_is_no_answers(kind: str) -> None:
    assert model(kind).answer([]) == []
    assert model(kind).answer([], guesses=[]) == []
    assert model(kind).prefers([], []) == []
    assert model(kind).hypotheses([], 5) == []


# --- loading


@KINDS
def test_a_saved_model_answers_as_before(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / "m")
    loaded = load_model(str(folder), tiny.task(kind))
    prompts = tiny.prompts(kind, 40)
    assert loaded.answer(prompts) == model(kind).answer(prompts)
    assert loaded.name == "m"
    assert family_of(loaded.network.config) == tiny.FAMILY[kind]


@LONG
def test_a_model_is_loaded_in_the_type_asked_for(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / "m")
    prompts = tiny.prompts(kind, 4)
    found = {dtype: load_model(str(folder), tiny.task(kind), dtype=dtype) for dtype in get_args(DType)}
    for dtype, made in found.items():
        assert made.dtype == dtype
        assert made.name == ("m" if dtype == "float32" else f"m ({dtype})")
        rows = made.rows(prompts, ["SUPPORTS" if kind == "bert" else "Oslo"] * 4)
        assert made.logits(rows).dtype == torch.float32  # whatever the network computes in
        assert len(made.answer(prompts)) == 4
    half = found["bfloat16"].network
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert len({identity(made) for made in found.values()}) == 3
    assert identity(found["float32"]) == identity(load_model(str(folder), tiny.task(kind)))


@pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.GENERATING])
def test_in_bfloat16_a_proof_and_decoding_agree_on_ties(kind: str) -> None:
    """Where two tokens have the same logit, both take the first; in bfloat16 many have."""
    made = tiny.fitted(kind, dtype=torch.bfloat16)
    rows = made.network.get_output_embeddings().weight  # type: ignore[union-attr]
    rows[32:64] = rows[:32].clone()  # type: ignore[index]
    made.batching = Batching(1, 1)
    prompts = tiny.prompts(kind, 12)
    free = made.answer(prompts)
    assert made.answer(prompts, guesses=free) == free
    assert sum(made.margins(prompts, ["Oslo"] * 12)) == 0  # the likeliest of some step has a twin


def test_the_family_is_in_the_configuration_not_the_name(tmp_path: Path) -> None:
    folder = tiny.save("gpt2", tmp_path / "bart-large")
    assert load_model(str(folder), tiny.task("gpt2")).family == "causal"


def test_a_card_names_the_model(tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "m")
    (folder / "kebench.json").write_text(json.dumps({"name": "from-its-card"}), encoding="utf-8")
    assert display_name(str(folder)) == "from-its-card"
    assert display_name("owner/on-the-hub") == "owner/on-the-hub"


def test_an_encoder_without_a_head_has_no_family(tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "m")
    bare = BertModel(model("bert").network.config)
    bare.save_pretrained(folder)
    with pytest.raises(BadSetting) as caught:
        load_model(str(folder), tiny.task("bert"))
    assert str(caught.value) == (f"model {folder}: found no answering head, wanted a classifier (task toy)")


def test_a_wrong_number_of_labels_is_refused(tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "m")
    with pytest.raises(BadSetting) as caught:
        load_model(str(folder), tiny.task("bert", labels=("A", "B", "C")))
    assert str(caught.value) == f"model {folder}: found 2 labels, wanted 3"


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_model_of_another_family_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "m")
    with pytest.raises((BadSetting, BadFile)) as caught:
        load_model(str(folder), tiny.task("bart"))
    assert str(folder) in one_line(caught)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadFile) as caught:
        load_model(str(tmp_path), tiny.task("bert"))
    assert one_line(caught) == f"{tmp_path}: found no config.json, wanted a folder with a transformers model"


@pytest.mark.parametrize(
    "fault", ["config.json: no JSON", "config.json: no type", "no weights", "weights cut", "pickle only"]
)
def test_a_broken_folder_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "m")
    weights = folder / "model.safetensors"
    match fault:
        case "config.json: no JSON":
            (folder / "config.json").write_text("{", encoding="utf-8")
        case "config.json: no type":
            (folder / "config.json").write_text("{}", encoding="utf-8")
        case "no weights":
            weights.unlink()
        case "weights cut":
            weights.write_bytes(weights.read_bytes()[:-40])
        case "pickle only":
            torch.save(model("bert").network.state_dict(), folder / "pytorch_model.bin")
            weights.unlink()
    with pytest.raises(BadFile) as caught:
        load_model(str(folder), tiny.task("bert"))
    assert one_line(caught).startswith(f"{folder}")


def test_an_unknown_model_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound) as caught:
        load_model("owner/no-such-model", tiny.task("bert"))
    assert one_line(caught).startswith("no model named 'owner/no-such-model' (not a folder, and the Hub says")


def test_a_missing_package_is_named_in_one_line() -> None:
    with pytest.raises(BadSetting) as caught:
        load_pretrained("package:no_such_package/folder", "classifier")
    assert "the package no_such_package is not installed" in one_line(caught)
