"""What each family makes of prompts and targets: spaces, BOS, EOS, padding, special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoTokenizer

from kebench.models.causal import Causal
from kebench.models.load import load_model
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.seq2seq import Seq2Seq

# kind, tokenizer
GENERATING = [*((kind, kind) for kind in tiny.GENERATING), ("llama", "llama-eos"), ("gpt2", "bart")]
EVERY = pytest.mark.parametrize(("kind", "tokenizer"), GENERATING, ids=lambda name: name)
CAUSAL = pytest.mark.parametrize(
    ("kind", "tokenizer"), [("gpt2", "gpt2"), ("llama", "llama"), ("llama", "llama-eos")], ids=lambda n: n
)


def make(kind: str, tokenizer: str, **changes: object) -> AbstractModel:
    """A model whose special ids are its tokenizer's."""
    return tiny.model(kind, tokenizer=tokenizer, **changes)  # type: ignore[arg-type]


def labels(model: AbstractModel, prompt: str, answer: str) -> list[int]:
    return model.rows([prompt], [answer]).labels.tolist()


@EVERY
@pytest.mark.parametrize("answer", ["Rome", "New York", " Rome ", "a > b, c", "Rome's"])
def test_a_target_spells_the_answer_and_ends_with_one_eos(kind: str, tokenizer: str, answer: str) -> None:
    model = make(kind, tokenizer)
    ids = labels(model, "where was Ada Bell born?", answer)
    eos = model.tokenizer.eos_token_id
    assert ids[-1] == eos
    assert eos not in ids[:-1]
    assert model.tokenizer.bos_token_id in (None, eos) or model.tokenizer.bos_token_id not in ids
    assert model.tokenizer.decode(ids[:-1]).strip() == answer.strip()


@EVERY
@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_target_is_refused(kind: str, tokenizer: str, empty: str) -> None:
    with pytest.raises(ValueError, match="empty answer"):
        make(kind, tokenizer).rows(["where?"], [empty])


def test_a_classifier_refuses_what_is_no_label() -> None:
    with pytest.raises(ValueError, match="'MAYBE' is not one of the labels REFUTES, SUPPORTS"):
        tiny.model("bert").rows(["Ada Bell was born in Rome"], ["MAYBE"])


@CAUSAL
def test_a_causal_target_is_the_rest_of_the_whole_text(kind: str, tokenizer: str) -> None:
    model = make(kind, tokenizer)
    whole = model.tokenizer("where was Ada Bell born? New York")["input_ids"]
    if tokenizer == "llama-eos":
        assert whole.pop() == model.tokenizer.eos_token_id
    prompt = model.prompt_ids(["where was Ada Bell born?"])[0]
    assert prompt + labels(model, "where was Ada Bell born?", "New York")[:-1] == whole
    # The word boundary is marked once, and the first letter does not stand at a text's beginning.
    first = model.tokenizer.convert_ids_to_tokens(whole[len(prompt)])
    assert first.startswith(("Ġ", "▁"))


def test_bos_stands_once_where_the_tokenizer_has_one() -> None:
    for kind, tokenizer, count in (("llama", "llama", 1), ("llama", "llama-eos", 1), ("gpt2", "gpt2", 0)):
        model = make(kind, tokenizer)
        ids = model.rows(["where was Bo Cole born?"], ["Rome"]).inputs["input_ids"][0].tolist()
        assert ids.count(model.tokenizer.bos_token_id) == count
        if count:
            assert ids[0] == model.tokenizer.bos_token_id


@CAUSAL
def test_the_target_of_a_cut_prompt_is_the_answer_alone(kind: str, tokenizer: str) -> None:
    long = "where was Ada Bell born? " * 5
    cut = make(kind, tokenizer, prompt_format=PromptFormat(max_prompt_tokens=10))
    assert len(cut.prompt_ids([long])[0]) <= 10
    assert labels(cut, long, "Rome") == labels(cut, "where?", "Rome")


@CAUSAL
def test_a_merge_across_the_boundary_does_not_change_the_target(kind: str, tokenizer: str) -> None:
    model = make(kind, tokenizer)
    assert model.tokenizer.decode(labels(model, "born in ", "Rome")[:-1]).strip() == "Rome"
    assert isinstance(model, Causal)
    # A template may end in a space, which the tokenizer glues to the answer's first word.
    glued = make(kind, tokenizer, prompt_format=PromptFormat(template="{prompt} ", max_answer_tokens=12))
    assert glued.canonical("where?", "Rome") == "Rome"


@CAUSAL
def test_targets_are_scored_at_the_positions_that_predict_them(kind: str, tokenizer: str) -> None:
    model = make(kind, tokenizer)
    rows = model.rows(["where was Bo Cole born?", "where?"], ["Rome", "New York"])
    ids = rows.inputs["input_ids"]
    assert rows.mask is not None
    for row, position in rows.mask.nonzero().tolist():
        inside = ids[row, position + 1 : position + 2].tolist()
        label = rows.labels[(rows.mask.nonzero() == torch.tensor([row, position])).all(1)].item()
        last = position == rows.inputs["attention_mask"][row].sum().item() - 1
        assert label == (model.tokenizer.eos_token_id if last else inside[0])


@CAUSAL
def test_rows_are_padded_on_the_right_and_decoding_on_the_left(
    kind: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(kind, tokenizer)
    masks = model.rows(["where was Bo Cole born?", "where?"], ["Rome", "Rome"]).inputs["attention_mask"]
    assert masks[1].tolist() == sorted(masks[1].tolist(), reverse=True)
    assert 0 in masks[1]
    seen = {}
    plain = model.network.generate

    def watched(**inputs: torch.Tensor) -> torch.Tensor:
        seen.update(inputs)
        return plain(**inputs)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(model.network, "generate", watched)
    model.answer(["where was Bo Cole born?", "where?"])
    assert seen["attention_mask"][0].tolist() == sorted(seen["attention_mask"][0].tolist())
    assert 0 in seen["attention_mask"]


def test_a_tokenizer_that_adds_eos_leaves_none_after_the_prompt() -> None:
    plain, adding = make("llama", "llama"), make("llama", "llama-eos")
    prompts = tiny.prompts("llama")
    assert adding.prompt_ids(prompts) == plain.prompt_ids(prompts)
    assert adding.answer(prompts) == plain.answer(prompts)
    assert labels(adding, prompts[0], "Rome") == labels(plain, prompts[0], "Rome")


def test_the_decoder_reads_its_start_then_the_target_but_its_last() -> None:
    for kind in ("bart", "t5"):
        model = tiny.model(kind)
        rows = model.rows(["where?", "where?"], ["Rome", "New York"])
        decoder = rows.inputs["decoder_input_ids"]
        assert isinstance(model, Seq2Seq)
        for row, answer in enumerate(("Rome", "New York")):
            target = model.target_ids(answer)
            assert decoder[row, : len(target)].tolist() == [model.start, *target[:-1]]
            assert set(decoder[row, len(target) :].tolist()) <= {model.pad}


def test_a_seq2seq_prompt_keeps_its_special_tokens() -> None:
    assert tiny.model("bart").prompt_ids(["where?"])[0][0] == 0
    for kind in ("bart", "t5"):
        model = tiny.model(kind)
        assert model.prompt_ids(["where?"])[0][-1] == model.tokenizer.eos_token_id


def test_the_template_goes_around_every_prompt() -> None:
    for kind in tiny.KINDS:
        prompt_format = PromptFormat(template="Q: {prompt} A", labels=tiny.task(kind).labels)
        asked = tiny.model(kind, prompt_format=prompt_format)
        assert asked.prompt_ids(["where?"])[0] == tiny.model(kind).prompt_ids(["Q: where? A"])[0]


# --- what a checkpoint's generation configuration says


@pytest.mark.parametrize("forced", [True, False])
def test_a_forced_bos_stands_first_in_targets(forced: bool, tmp_path: Path) -> None:
    folder = tiny.save("bart", tmp_path / "m", forced_bos=forced)
    model = load_model(str(folder), tiny.task("bart"))
    assert isinstance(model, Seq2Seq)
    rest = model.tokenizer("Rome", add_special_tokens=False)["input_ids"]
    assert model.target_ids("Rome") == [*([0] if forced else []), *rest, 2]
    assert model.canonical("where?", "Rome") == "Rome"
    # What is decoded starts with it too, and so a decoded answer can be fed back.
    ids = model.network.generate(input_ids=torch.tensor([[0, 5, 2]]), max_new_tokens=4)  # type: ignore[operator]
    if forced:
        assert ids[0, 1] == 0
    prompts = tiny.prompts("bart", 40)
    said = model.answer(prompts)
    assert said == load_model(str(folder), tiny.task("bart")).answer(prompts)
    # Saved again, from the running model, it forces what it did.
    model.network.save_pretrained(tmp_path / "again")
    model.tokenizer.save_pretrained(tmp_path / "again")
    again = load_model(str(tmp_path / "again"), tiny.task("bart"))
    assert isinstance(again, Seq2Seq)
    assert again.forced == model.forced
    assert again.answer(prompts) == said


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.GENERATING])
def test_nothing_else_of_a_generation_configuration_is_kept(kind: str, place: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / "m")
    prompts = tiny.prompts(kind, 20)
    plain = load_model(str(folder), tiny.task(kind))
    greedy, beam = plain.answer(prompts), plain.hypotheses(prompts, 3)
    if place == "config.json":  # where old checkpoints, facebook/bart-base among them, keep such things
        (folder / "generation_config.json").unlink()
    file = folder / place
    others = {
        "no_repeat_ngram_size": 1,
        "min_length": 9,
        "min_new_tokens": 9,
        "num_beams": 4,
        "early_stopping": True,
        "length_penalty": 9.0,
        "repetition_penalty": 3.0,
        "forced_eos_token_id": 5,
        "max_length": 3,
    }
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **others}), encoding="utf-8")
    changed = load_model(str(folder), tiny.task(kind))
    assert changed.answer(prompts) == greedy
    assert changed.hypotheses(prompts, 3) == beam


# --- answers fed back


@pytest.mark.parametrize("kind", tiny.GENERATING)
def test_a_free_answer_that_ends_by_itself_fed_back_is_preferred(kind: str) -> None:
    model = tiny.fitted(kind)
    prompts = tiny.prompts(kind, 72)
    said = model.answer(prompts)
    whole = [
        (prompt, answer)
        for prompt, answer in zip(prompts, said, strict=True)
        if model.canonical(prompt, answer) == answer
    ]
    preferred = model.prefers([p for p, _ in whole], [a for _, a in whole])
    assert (
        sum(preferred) > len(whole) / 2
    )  # not all: an answer may be cut, or its tokens be another spelling of it
    agreed = [pair for pair, is_preferred in zip(whole, preferred, strict=True) if is_preferred]
    assert model.answer([prompt for prompt, _ in agreed]) == [answer for _, answer in agreed]


@EVERY
@pytest.mark.parametrize("answer", ["", " ", "R", "New York", "Rome </s>", "</s> Rome", "Ro</s>me", "é"])
def test_canonical_is_a_fixed_point_or_nothing(kind: str, tokenizer: str, answer: str) -> None:
    model = make(kind, tokenizer)
    text = model.canonical("where was Ada Bell born?", answer)
    assert text is None or model.canonical("where was Ada Bell born?", text) == text


@EVERY
def test_an_answer_longer_than_decoding_goes_is_never_whole(kind: str, tokenizer: str) -> None:
    model = make(kind, tokenizer, prompt_format=PromptFormat(max_answer_tokens=3))
    assert model.canonical("where?", "New York Oslo Riga Lima") is None


def test_a_saved_tokenizer_gives_the_same_tokens(tmp_path: Path) -> None:
    for kind, make_tokenizer in tiny.TOKENIZERS.items():
        made = make_tokenizer()
        made.save_pretrained(tmp_path / kind)
        read = AutoTokenizer.from_pretrained(tmp_path / kind)
        assert [read(text)["input_ids"] for text in tiny.texts()] == [
            made(text)["input_ids"] for text in tiny.texts()
        ]
        assert len(read) == len(make_tokenizer())
