"""KnowledgeEditor against the numbers of the original (`files/parity`), for a BERT and a BART; and its KL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import alone
import pytest
import torch
from dense_reference import dense_gradients, knowledge_editor, products, really_edited
from kebench.baselines.knowledge_editor import KnowledgeEditor
from kebench.baselines.knowledge_editor.training import Batch, losses
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tolerance import assert_same, through, tolerance
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from kebench.edits.edit import Edit
from kebench.edits.editor import RetainQuestion, State, TrainingEdit
from kebench.edits.versions import Versions
from kebench.models.base_logits import BaseLogits
from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.classifier import Classifier
from kebench.models.layers import as_stored, editable, linear_maps
from kebench.models.model import AbstractModel, PromptFormat
from kebench.models.rows import pad
from kebench.models.seq2seq import Seq2Seq

FILES = Path(__file__).parents[1] / "samples" / "parity"
EDITS = {"bert": 6, "bart": 13}
SIZES = {
    "bert": {"lstm_size": 16, "condition_size": 48, "head_size": 16},
    "bart": {"lstm_size": 8, "condition_size": 20, "head_size": 8},
}
KINDS = pytest.mark.parametrize("kind", ["bert", "bart"])


@cache
def original(kind: str) -> dict[str, Tensor]:
    return load_file(FILES / f"ke_decao_tiny_{kind}.safetensors")


def words(ids: Tensor) -> str:
    """Tokens as text: in these models a word is its own number."""
    return " ".join(map(str, ids.tolist()))


@cache
def base_of(kind: str) -> AbstractModel:
    """The original's tiny model; its words are their own numbers, so that a prompt is its ids."""
    weights = {
        name.removeprefix("base."): tensor
        for name, tensor in original(kind).items()
        if name.startswith("base.")
    }
    # The padding has no number for a name: a special token is cut out of other words, 0 of 107 too.
    padding, vocabulary = {"bert": (0, 120), "bart": (1, 240)}[kind]
    vocab = {"[PAD]": padding, **{str(index): index for index in range(vocabulary) if index != padding}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    asked = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[PAD]")
    if kind == "bert":
        config = BertConfig(
            vocab_size=120,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=40,
            num_labels=1,
            attn_implementation="eager",
        )
        network = BertForSequenceClassification(config).to(torch.float64)
        network.load_state_dict({n.replace("model.", "bert.", 1): t for n, t in weights.items()})
        return Classifier("original", network, asked, PromptFormat(labels=("0", "1")))
    bart = BartConfig(
        vocab_size=240,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        forced_eos_token_id=None,
        attn_implementation="eager",
    )
    generator = BartForConditionalGeneration(bart).to(torch.float64)
    lacking = generator.load_state_dict(weights, strict=False)
    assert not lacking.unexpected_keys
    assert all("embed_tokens" in name or name == "lm_head.weight" for name in lacking.missing_keys)  # tied
    return Seq2Seq("original", generator, asked, PromptFormat(max_prompt_tokens=32, max_answer_tokens=19))


@dataclass(frozen=True)
class GivenCondition(KnowledgeEditor):
    """Reads each edit's condition from the original's file, which has ids and no texts."""

    kind: str = "bert"

    def condition(self, base: AbstractModel, edits: list[Edit]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = [original(self.kind)[f"edit{edit.id}.cond"][0].tolist() for edit in edits]
        return pad(rows, 0, base.device), torch.tensor([len(row) for row in rows])


def editor_of(kind: str) -> GivenCondition:
    return GivenCondition(**SIZES[kind], kind=kind)


def state_of(kind: str) -> dict[str, Tensor]:
    """The original editor's weights under our names."""
    state = {}
    for key, tensor in original(kind).items():
        if not key.startswith("learner."):
            continue
        name = key.removeprefix("learner.")
        if name.startswith("condition."):
            name = name.replace("condition.", "encoder.", 1).replace("_module.", "")
            name = name.replace("_linear_layers.0.", "")
        else:
            head, rest = name.removeprefix("conditioners.").split("_conditioner.conditioners.")
            head = head.replace("model_", "bert_", 1) if kind == "bert" else head
            rest = rest.replace("weight_g", "parametrizations.weight.original0")
            rest = rest.replace("weight_v", "parametrizations.weight.original1")
            name = f"heads.{head}.layers.{rest}"
        state[name] = tensor
    return state


def edits_of(kind: str) -> list[Edit]:
    found = []
    for index in range(EDITS[kind]):
        numbers = {name: original(kind).get(f"edit{index}.{name}") for name in ("x", "target", "prediction")}
        x, target, prediction = numbers.values()
        assert x is not None
        assert target is not None
        if prediction is None:  # a label, and the other one was predicted
            target = target.long()[None]
            prediction = 1 - target
        found.append(Edit(str(index), *(words(ids[0]) for ids in (x, prediction, target))))
    return found


def updates_of(kind: str, state: State, batched: bool = True) -> list[Changes]:
    editor, base, edits = editor_of(kind), base_of(kind), edits_of(kind)
    if batched:
        return alone.updates_of(editor, state, base, edits)
    return [update for edit in edits[:4] for update in alone.updates_of(editor, state, base, [edit])]


def furthest(kind: str, updates: list[Changes]) -> float:
    """The largest difference from the original: of an update's entries, and of a BART's norms."""
    found = 0.0
    for index, update in enumerate(updates):
        start = f"edit{index}.delta."
        names = {key.removeprefix(start) for key in original(kind) if key.startswith(start)}
        made = {name.replace("bert.", "model.", 1): delta for name, delta in products(update).items()}
        assert names in ([set(made)] if kind == "bert" or index == 1 else [set()])
        for name in names:
            found = max(found, (made[name] - original(kind)[start + name]).abs().max().item())
        if kind == "bart":
            norms = torch.stack([made[name].norm() for name in sorted(made)])
            found = max(found, (norms - original(kind)[f"edit{index}.norms"]).abs().max().item())
    return found


def near(kind: str) -> float:
    """Forwards, backwards, and the hypernetwork; the updates' entries and norms are below 1."""
    return tolerance(torch.float64, **through(base_of(kind), passes=3))


@KINDS
@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "batched"])
def test_updates_are_the_originals(kind: str, batched: bool) -> None:
    updates = updates_of(kind, state_of(kind), batched)
    assert furthest(kind, updates) <= near(kind)
    for update, edit in zip(updates, edits_of(kind), strict=batched):
        # As the original's own update: the outer products of T tokens (read or answered), and the offset.
        tokens = max(len(edit.prompt.split()), len(edit.target.split()) + 1)
        for change in update.values():
            assert isinstance(change, LowRank)
            assert torch.linalg.matrix_rank(change.B @ change.A, rtol=1e-12) <= tokens + 1
            # Padding, and tokens without a gradient (all but [CLS] in BERT's last layer), take no place.
            assert change.B.shape[1] == change.A.shape[0] <= tokens + 1


# --- BERT's logits, before and after


def probes() -> list[str]:
    ids, mask = original("bert")["probe.ids"], original("bert")["probe.mask"]
    return [words(row[keep.bool()]) for row, keep in zip(ids, mask, strict=True)]


def logit(base: AbstractModel, prompts: list[str]) -> Tensor:
    return base.logits(base.rows(prompts, ["1"] * len(prompts)))[:, 1]


def test_logits_are_the_originals() -> None:
    base, expected = base_of("bert"), original("bert")
    depth = through(base, passes=4)
    assert_same(logit(base, probes()), expected["probe.base_logits"], **depth)
    updates = updates_of("bert", state_of("bert"))
    for index, (edit, update) in enumerate(zip(edits_of("bert"), updates, strict=True)):
        edited = really_edited(base, update)
        assert base.answer([edit.prompt]) == [edit.prediction]
        assert_same(logit(edited, probes()), expected[f"edit{index}.probe_logits"], **depth)
        of_x = torch.cat([logit(base, [edit.prompt]), logit(edited, [edit.prompt])])
        assert_same(of_x, expected[f"edit{index}.x_logits"].reshape(-1), **depth)


def test_all_edits_answer_as_the_originals_in_one_batch() -> None:
    count, asked = EDITS["bert"], probes()
    edited = Versions(base_of("bert"), updates_of("bert", state_of("bert")))
    which = [edit for edit in range(count) for _ in asked]
    answers = edited.answer(asked * count, which, ["0"] * len(which))
    expected = [
        str(int(value > 0)) for edit in range(count) for value in original("bert")[f"edit{edit}.probe_logits"]
    ]
    assert answers == expected
    assert set(answers) == {"0", "1"}


# --- the constraint


@KINDS
def test_the_constraint_is_the_papers_formula(kind: str) -> None:
    """KL(p_θ ‖ p_θ'), with θ' from dense masks and autograd on the weights; one question at a time."""
    base, editor, edits = base_of(kind), editor_of(kind), edits_of(kind)[:4]
    known = [RetainQuestion(edit.id, edit.prompt, edit.prediction) for edit in edits]
    pairs = [(edit, other) for edit in range(4) for other in range(4) if edit != other]
    batch = Batch(
        [TrainingEdit(edit.id, edit) for edit in edits],
        (),
        [known[other] for _, other in pairs],
        [edit for edit, _ in pairs],
    )
    hypernetwork = editor.hypernetwork(base)
    hypernetwork.load_state_dict(state_of(kind))
    before = BaseLogits(base, [(each.prompt, each.prediction) for each in known])
    with torch.no_grad():
        _, found = losses(editor, hypernetwork, base, before, batch)

    names, maps = editable(base.network), linear_maps(base.network)
    divergences = []
    for index, edit in enumerate(edits):
        gradients = dense_gradients(base, edit.prompt, edit.target, names)
        condition = original(kind)[f"edit{edit.id}.cond"][0]
        with torch.no_grad():
            deltas = knowledge_editor(hypernetwork, condition, gradients, editor.scale)
        edited = really_edited(base, {name: Dense(as_stored(maps[name], deltas[name])) for name in names})
        for other in (place for place in range(4) if place != index):
            rows = base.rows([known[other].prompt], [known[other].prediction])
            p, q = base.logits(rows).softmax(-1), edited.logits(rows).softmax(-1)
            divergences += [(a * (a / b).log()).sum() for a, b in zip(p, q, strict=True)]
    expected = torch.stack(divergences).mean()
    assert expected > 1e-4
    # p ln(p / q) is a small difference of numbers as large as ln p.
    torch.testing.assert_close(found, expected, rtol=0, atol=near(kind))


# --- the check can fail


def swap_head_rows(first: int, second: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Swaps two of a head's outputs γ, α, δ, β (of one size here, in the square matrices)."""

    def mutate(state: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = {}
        for name, tensor in state.items():
            if ".layers.2." in name and len(tensor) == 4 * 32 + 1:
                parts = list(tensor.split([32, 32, 32, 32, 1]))
                parts[first], parts[second] = parts[second], parts[first]
                tensor = torch.cat(parts)
            changed[name] = tensor
        return changed

    return mutate


def swap_directions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def other(name: str) -> str:
        return name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"

    return {other(name) if ".lstm." in name else name: tensor for name, tensor in state.items()}


def without_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor * 2 if name.endswith("original0") else tensor for name, tensor in state.items()}


@KINDS
@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(swap_head_rows(1, 3), id="alpha is beta"),
        pytest.param(swap_head_rows(0, 2), id="gamma is delta"),
        pytest.param(swap_head_rows(0, 1), id="gamma is alpha"),
        pytest.param(swap_directions, id="forward is backward"),
        pytest.param(without_norm, id="another weight norm"),
    ],
)
def test_the_parity_check_can_fail(kind: str, mutate: Callable[[dict[str, Any]], dict[str, Tensor]]) -> None:
    assert furthest(kind, updates_of(kind, mutate(state_of(kind)))) > 1e6 * near(kind)
