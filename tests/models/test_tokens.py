"""A subject's tokens, and a layer's inputs at them, against plain passes over one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from architectures import ARCHITECTURES, build
from tolerance import assert_same, through
from torch import Tensor

from kebench.edits.edit import Edit
from kebench.edits.versions import low_rank_under
from kebench.errors import BadSetting, NotFound
from kebench.models.changes import LowRank, LowRankBatch, dense_weights, substituted
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.tokens import TokenPlace, find_subject

KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])
PLACES: tuple[TokenPlace, ...] = ("subject_first", "subject_last", "last")
TEMPLATE = "{{a}} is, {prompt}, b?"


def asked(kind: str, template: str = "{prompt}", max_prompt_tokens: int = 40) -> AbstractModel:
    labels = tiny.LABELS if kind == "bert" else ()
    return tiny.model(kind, prompt_format=PromptFormat(template, max_prompt_tokens, 6, labels))


def requests() -> list[Edit]:
    """Prompts of different lengths, the subject at another place in each."""
    texts = [
        ("where was Ada Bell born?", "Ada Bell"),
        ("Bo Cole is where?", "Bo Cole"),
        ("in which city, of all the cities, was Cy Dunn born?", "Cy Dunn"),
        ("Oslo", "Oslo"),
    ]
    return [Edit(str(index), prompt, "", "Rome", subject) for index, (prompt, subject) in enumerate(texts)]


# --- spans


@KINDS
@pytest.mark.parametrize("template", ["{prompt}", TEMPLATE])
def test_a_span_holds_the_subjects_tokens_and_no_other(kind: str, template: str) -> None:
    base = asked(kind, template)
    for edit in requests():
        assert edit.subject is not None
        span = base.subject_span(edit.prompt, edit.subject)
        (ids,) = base.prompt_ids([edit.prompt])
        spelled = base.tokenizer.decode(ids[span.start : span.stop]).strip()
        assert spelled == (edit.subject.lower() if kind == "bert" else edit.subject)


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("was Adam, or was Ada, born?", "Ada", (17, 20)),  # a whole word before a part of one
        ("Adamant", "Ada", (0, 3)),
        ("where was ada born?", "Ada", (10, 13)),
        ("Ada is not Ada", "Ada", (0, 3)),
        ("who wrote C++ (first edition)?", "C++ (first", (10, 20)),  # no pattern
        ("where was Ada born?", " Ada ", (10, 13)),
    ],
)
def test_where_a_subject_stands(prompt: str, subject: str, expected: tuple[int, int]) -> None:
    assert find_subject(prompt, subject) == expected


@pytest.mark.parametrize("subject", ["Eve", "", "  "])
def test_a_subject_that_is_not_in_the_prompt_is_an_error(subject: str) -> None:
    with pytest.raises(BadSetting, match=r"subject: found no '.*' in the prompt 'where was Ada born\?'"):
        asked("gpt2").subject_span("where was Ada born?", subject)


@KINDS
def test_a_subject_that_is_cut_off_is_an_error(kind: str) -> None:
    prompt, subject = "where was Ada Bell born?", "Ada Bell"
    span = asked(kind).subject_span(prompt, subject)
    ends = len(asked(kind).tokenizer("")["input_ids"]) - (kind == "bert" or kind == "bart" or kind == "llama")
    whole = asked(kind, max_prompt_tokens=span.stop + ends)  # all of it, and what a tokenizer puts after it
    assert whole.subject_span(prompt, subject) == span
    cut = asked(kind, max_prompt_tokens=span.stop + ends - 1)
    with pytest.raises(BadSetting, match=f"subject: found '{subject}' beyond the .* tokens"):
        cut.subject_span(prompt, subject)


# --- inputs


def layers_of(base: AbstractModel) -> list[str]:
    """Maps that read the prompt: one of the first layer's attention, the MLP-out of the last layer that reads
    it, and of a decoder the values of its attention to the encoder."""
    reading = [layer for layer in base.parts.layers if "decoder" not in layer.name]
    values = ("encoder_attn.v_proj.weight", "EncDecAttention.v.weight")
    cross = [name for name in base.parts.layers[-1].attention if name.endswith(values)]
    assert len(cross) == (base.family == "seq2seq")
    return [reading[0].attention[0], reading[-1].mlp_out[0], *cross]


def plain(base: AbstractModel, edit: Edit, layer: str) -> Tensor:
    """What a map is given in a pass of the network over one prompt, (tokens, d_in)."""
    given: list[Tensor] = []
    module = base.network.get_submodule(layer.removesuffix(".weight"))
    hook = module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0][0]))
    (ids,) = base.prompt_ids([edit.prompt])
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    if base.family == "seq2seq":
        inputs["decoder_input_ids"] = torch.tensor([[base.network.config.decoder_start_token_id]])
    with torch.no_grad():
        base.network(**inputs)
    hook.remove()
    return given[0]


def expected(base: AbstractModel, edit: Edit, layer: str, at: TokenPlace) -> Tensor:
    rows = plain(base, edit, layer)
    assert edit.subject is not None
    span = base.subject_span(edit.prompt, edit.subject)
    return rows[{"subject_first": span.start, "subject_last": span.stop - 1, "last": len(rows) - 1}[at]]


@KINDS
@pytest.mark.parametrize("decoding", [False, True], ids=["in one pass", "decoding"])
def test_a_layers_inputs_are_those_of_each_prompt_alone(kind: str, decoding: bool) -> None:
    base = asked(kind, TEMPLATE)
    edits = requests()
    assert len({len(ids) for ids in base.prompt_ids([edit.prompt for edit in edits])}) == len(edits)
    for layer in layers_of(base):
        for at in PLACES:
            found = base.inputs_at(edits, layer, at, decoding=decoding)
            alone = torch.stack([expected(base, edit, layer, at) for edit in edits])
            assert_same(found, alone, **through(base))


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_decoders_own_layers_have_read_its_start_alone(kind: str) -> None:
    base, edits = asked(kind), requests()
    layer = base.parts.layers[-1].mlp_out[0]
    for decoding in (False, True):
        found = base.inputs_at(edits, layer, "last", decoding=decoding)
        assert_same(found, torch.stack([plain(base, edit, layer)[0] for edit in edits]), **through(base))
        with pytest.raises(
            BadSetting, match=f"layer {layer}: found a decoder's, which does not read the subject"
        ):
            base.inputs_at(edits, layer, decoding=decoding)


@pytest.mark.parametrize("kind", ["bert", "bart", "gpt2"])
def test_edits_in_force_are_seen(kind: str) -> None:
    base, edits = asked(kind), requests()[:2]
    layer, first = layers_of(base)[1], base.parts.layers[0].attention[-1]
    generator = torch.Generator().manual_seed(3)
    b, a = (torch.randn(shape, generator=generator) for shape in ((16, 2), (2, 16)))
    change = {first: LowRank(b, a)}
    batches = {first: LowRankBatch.stack([change[first]])}
    found = base.inputs_at(edits, layer, under=low_rank_under(base, batches, [0, 0]))
    with substituted(base.network, dense_weights(base.network, change)):
        alone = torch.stack([expected(base, edit, layer, "subject_last") for edit in edits])
    assert_same(found, alone, **through(base))
    assert not torch.allclose(found, base.inputs_at(edits, layer))


def test_a_map_whose_rows_are_tokens_is_asked_one_prompt_at_a_time() -> None:
    base = build(next(each for each in ARCHITECTURES if str(each) == "classifier-phimoe"))
    layer = next(name for name in base.parts.layers[-1].other if "router" in name)
    edits = requests()[:3]
    found = base.inputs_at(edits, layer, "last")
    alone = torch.stack([base.inputs_at([edit], layer, "last")[0] for edit in edits])
    assert torch.equal(found, alone)


def errors() -> Sequence[tuple[str, Edit, str, type[Exception], str]]:
    edit = requests()[0]
    name = "transformer.h.0.attn.c_attn.weight"
    return (
        ("gpt2", replace(edit, subject=None), name, BadSetting, "subject: found none for the prompt"),
        ("gpt2", replace(edit, subject="Eve"), name, BadSetting, "subject: found no 'Eve' in the prompt"),
        ("gpt2", edit, name.replace("h.0", "h.7"), NotFound, "no linear map named .*did you mean"),
    )


@pytest.mark.parametrize(("kind", "edit", "layer", "error", "said"), errors())
def test_what_cannot_be_read(kind: str, edit: Edit, layer: str, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        asked(kind).inputs_at([edit], layer)


def test_a_layer_that_is_run_several_times_has_no_one_input() -> None:
    base = build(next(each for each in ARCHITECTURES if str(each) == "classifier-albert"))
    layer = base.parts.layers[0].mlp_out[0]
    with pytest.raises(BadSetting, match="found it called 2 times while a prompt is read"):
        base.inputs_at(requests()[:2], layer)
