"""Models whose answers end with any of several tokens answer as `network.generate()` does."""

from __future__ import annotations

import copy
import json
import math
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, PreTrainedModel

from kebench.errors import BadSetting
from kebench.models.batching import Batching
from kebench.models.causal import Causal
from kebench.models.load import FAMILIES, load_model
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.rows import Rows, all_argmax, least_margin, log_odds
from kebench.models.seq2seq import Seq2Seq

GENERATING = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.GENERATING])
SEEDS = (0, 1)
COUNT = 16


@cache
def networks(kind: str, seed: int) -> tuple[PreTrainedModel, AbstractModel]:
    """A tiny network with a second end, as transformers has it, and the model that kebench makes of it.

    The second end is a token that half of its answers hold, so that some end with it, and others with the
    tokenizer's. If possible, an answer that ends with it has the tokens that the tokenizer gives to its text.
    Seed 1 is a network that has learnt the toy world.
    """
    words = tiny.TOKENIZERS[kind]()
    plain = tiny.fitted(kind) if seed else tiny.model(kind)
    network = copy.deepcopy(plain.network)
    eos = words.eos_token_id
    asked = [(prompt, generated(network, plain, prompt)) for prompt in tiny.prompts(kind, 10)]
    every, later = ({token for _, ids in asked for token in ids[skip:]} - {eos} for skip in (0, 1))

    def unlike(token: int) -> tuple[bool, float]:
        holding = [(prompt, ids[: ids.index(token)]) for prompt, ids in asked if token in ids]
        as_encoded = any(encoded(plain, prompt, ids) == ids for prompt, ids in holding)
        return not as_encoded, abs(len(holding) - len(asked) / 2)

    second = min(sorted(later or every), key=unlike)
    network.generation_config = GenerationConfig.from_dict(
        {**network.generation_config.to_dict(), "eos_token_id": [second, eos]}
    )
    theirs = copy.deepcopy(network)
    return theirs, FAMILIES[tiny.FAMILY[kind]]("two ends", network, words, PromptFormat.of(tiny.task(kind)))


def encoded(model: AbstractModel, prompt: str, ids: list[int]) -> list[int]:
    """The tokens that the tokenizer gives to the text of an answer, without an end; none for no text."""
    text = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return model.rows([prompt], [text]).labels.tolist()[:-1] if text else []


def generated(network: PreTrainedModel, model: AbstractModel, prompt: str, beams: int = 1) -> list[int]:
    """What plain transformers makes of one prompt, without batch or padding, its end included."""
    ids = torch.tensor(model.prompt_ids([prompt]))
    out = network.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=beams,
        max_new_tokens=model.prompt_format.max_answer_tokens,
    )  # fmt: skip
    start = ids.shape[1] if model.family == "causal" else 1
    return [int(token) for token in out[0, start:]]


@cache
def expected(kind: str, seed: int, beams: int = 1) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """The answers of plain transformers, and the token each ends with; None where it is cut."""
    theirs, ours = networks(kind, seed)
    ends = theirs.generation_config.eos_token_id
    texts, found = [], []
    for prompt in tiny.prompts(kind, COUNT):
        ids = generated(theirs, ours, prompt, beams)
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        texts.append(ours.tokenizer.decode(ids[:end], skip_special_tokens=True).strip())
        found.append(None if end is None else ids[end])
    return tuple(texts), tuple(found)


@GENERATING
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_generate(kind: str, beams: int) -> None:
    for seed in SEEDS if beams == 1 else (1,):
        theirs, ours = networks(kind, seed)
        texts, ends = expected(kind, seed, beams)
        assert ours.answer(tiny.prompts(kind, COUNT), beams=beams) == list(texts)
        assert theirs.generation_config.eos_token_id[0] in ends  # else the example would not show it
        assert ours.tokenizer.eos_token_id in ends or not seed


@GENERATING
@given(data=st.data())
@settings(max_examples=10, deadline=None, derandomize=True)
def test_guesses_and_batches_change_no_answer_with_two_ends(kind: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(SEEDS))
    texts, _ = expected(kind, seed)
    prompts, model = tiny.prompts(kind, COUNT), networks(kind, seed)[1]
    chosen = data.draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12))
    second = model.tokenizer.decode(model.ends_with[1:])  # type: ignore[attr-defined]
    guesses = [
        data.draw(
            st.sampled_from(
                [texts[index], texts[index][:-1], f"{texts[index]}{second}", f"{texts[index]} {second} Rome",
                 f"{texts[index]}{model.tokenizer.eos_token}", *texts[index : index + 2]]
            )
        )
        for index in chosen
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "batching", Batching(limit=data.draw(st.sampled_from([1, 40, 4096]))))
        answers = model.answer([prompts[index] for index in chosen], guesses=guesses)
    assert answers == [texts[index] for index in chosen]


@GENERATING
def test_an_answer_is_proved_whichever_token_ends_it(kind: str) -> None:
    """No decoding where an answer's tokens are right and the model then says any of its ends."""
    proved: set[int] = set()
    theirs, model = networks(kind, 1)
    for prompt, text, end in zip(tiny.prompts(kind, COUNT), *expected(kind, 1), strict=True):
        if end is not None and model.canonical(prompt, text) == text:
            ids = generated(theirs, model, prompt)
            same = model.rows([prompt], [text]).labels.tolist()[:-1] == ids[: ids.index(end)]
            assert model.says([prompt], [text]) == [same]
            proved |= {end} if same else set()
    second, eos = theirs.generation_config.eos_token_id
    assert proved == {eos, second}


@GENERATING
def test_a_target_ends_with_the_tokenizers_end_if_it_is_one(kind: str) -> None:
    _, model = networks(kind, 0)
    assert isinstance(model, Causal | Seq2Seq)
    eos = model.tokenizer.eos_token_id
    assert model.ends_with[0] == eos
    assert len(model.ends_with) == 2
    assert model.rows(["where?"], ["Rome"]).labels.tolist()[-1] == eos


# --- where the ends are written


@GENERATING
@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
def test_a_list_is_read_wherever_it_is_written(kind: str, place: str, tmp_path: Path) -> None:
    theirs, _ = networks(kind, 0)
    folder = tiny.save(kind, tmp_path / "m")
    if place == "config.json":
        (folder / "generation_config.json").unlink()
    file = folder / place
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields["eos_token_id"] = theirs.generation_config.eos_token_id
    file.write_text(json.dumps(fields), encoding="utf-8")
    model = load_model(str(folder), tiny.task(kind))
    assert model.answer(tiny.prompts(kind, COUNT)) == list(expected(kind, 0)[0])


@GENERATING
def test_another_end_than_the_tokenizers_is_the_one_that_counts(kind: str) -> None:
    """As of chat models whose turns end with another token than texts do."""
    theirs, _ = networks(kind, 0)
    words = tiny.TOKENIZERS[kind]()
    network = copy.deepcopy(theirs)
    second = theirs.generation_config.eos_token_id[0]
    network.generation_config.eos_token_id = second
    alone = copy.deepcopy(network)
    model = FAMILIES[tiny.FAMILY[kind]]("one end", network, words, PromptFormat.of(tiny.task(kind)))
    assert isinstance(model, Causal | Seq2Seq)
    assert model.ends_with == (second,)
    for prompt in tiny.prompts(kind, 6):
        ids = generated(alone, model, prompt)
        end = ids.index(second) if second in ids else None
        assert model.answer([prompt]) == [words.decode(ids[:end], skip_special_tokens=True).strip()]


@GENERATING
def test_an_end_that_the_network_cannot_say_is_none(kind: str) -> None:
    """Configurations made anew have GPT-2's 50256, whatever their vocabulary."""
    words = tiny.TOKENIZERS[kind]()
    network = tiny.network(kind, words)
    network.generation_config.eos_token_id = 50256
    network.config.eos_token_id = 50256
    model = FAMILIES[tiny.FAMILY[kind]]("m", network, words, PromptFormat.of(tiny.task(kind)))
    assert model.answer(tiny.prompts(kind, 20)) == tiny.model(kind).answer(tiny.prompts(kind, 20))


def test_a_model_without_any_end_is_refused_in_one_line() -> None:
    words = copy.deepcopy(tiny.TOKENIZERS["llama"]())
    network = tiny.network("llama", words)
    words.eos_token = None
    network.generation_config.eos_token_id = network.config.eos_token_id = None
    with pytest.raises(BadSetting) as caught:
        Causal("m", network, words, PromptFormat())
    assert str(caught.value) == "model m: found no token that ends a sequence, so no answer would end"


# --- what is measured of such an answer: token 0 and 1 end it; the first row is "2, end", the second "3, end"

ROWS = Rows(
    {"input_ids": torch.zeros(2, 1)}, torch.tensor([2, 0, 3, 0]), torch.tensor([0, 0, 1, 1]), ends=(0, 1)
)
LOGITS = torch.tensor([[0.0, 1, 5, 3], [1, 9, 2, 4], [2, 6, 0, 5], [7, 1, 2, 3]])


def test_any_end_counts_at_the_last_position_and_none_before() -> None:
    # The first row says 2, then 1, an end. The second says 1, and so ends before its 3.
    assert all_argmax(LOGITS, ROWS).tolist() == [True, False]
    too_early = Rows(ROWS.inputs, torch.tensor([2, 0, 1, 0]), ROWS.row, ends=(0, 1))
    assert all_argmax(LOGITS, too_early).tolist() == [True, False]


def test_the_ends_are_no_rivals_of_each_other() -> None:
    # Leads by position: 5 - 3, 9 - 4; then 6 - 5 and 7 - 3.
    assert least_margin(LOGITS, ROWS).tolist() == [2, 1]
    near = LOGITS.clone()
    near[1, 0] = 8.5  # the two ends lie near each other: no other answer is near
    assert least_margin(near, ROWS).tolist() == [2, 1]


def test_the_belief_in_an_answer_sums_over_its_ends() -> None:
    p = LOGITS.double().softmax(-1)
    for row, (first, last) in enumerate(((p[0, 2], p[1, :2].sum()), (p[2, 3], p[3, :2].sum()))):
        both = float(first * last)
        assert log_odds(LOGITS, ROWS)[row].item() == pytest.approx(math.log(both / (1 - both)), rel=1e-12)
