"""Rows and edits in one pass are as each alone, whatever the architecture and whatever a pass can hold."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch
from alone import updates_of
from architectures import ARCHITECTURES, Architecture, build
from dense_reference import dense_gradients, really_edited
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.knowledge_editor import KnowledgeEditor
from kebench.baselines.knowledge_editor.training import under_updates
from random_updates import random_low_rank, stacked
from tolerance import assert_same, through, tolerance
from torch import Tensor, nn

from kebench.edits.applications import edit_gradients
from kebench.edits.edit import Edit
from kebench.edits.versions import Versions, low_rank_under
from kebench.models.changes import Changes, LowRank, dense_delta
from kebench.models.layers import editable
from kebench.models.model import AbstractModel
from kebench.running.environment import execution

EVERY = pytest.mark.parametrize(
    "architecture",
    [pytest.param(each, marks=() if each.quick else pytest.mark.slow) for each in ARCHITECTURES],
    ids=str,
)
NAMED = {str(each): each for each in ARCHITECTURES}
DEBERTA, MAMBA = NAMED["classifier-deberta-v2"], NAMED["causal-mamba"]
EDIT_OF = [0, 1, 1, 2, 0, 2]


def asked(base: AbstractModel) -> tuple[list[str], list[str]]:
    """Prompts and targets of different lengths."""
    prompts = ["where was Ada Bell born?", "where?", "the city of Bo Cole is?", "a", "is b c?", "Rome"]
    targets = ["Rome", "New York", "a, b > c", "Oslo", "d", "Lima"]
    labels = base.prompt_format.labels
    return prompts, [labels[index % 2] for index in range(6)] if labels else targets


def edits(base: AbstractModel) -> list[Edit]:
    """Three requests; of a classifier, for the label that it does not give."""
    prompts, targets = (texts[:3] for texts in asked(base))
    said = base.answer(prompts)
    if base.prompt_format.labels:
        targets = [next(label for label in base.prompt_format.labels if label != answer) for answer in said]
    triples = zip(prompts, said, targets, strict=True)
    return [Edit(f"e{index}", *each) for index, each in enumerate(triples)]


@EVERY
def test_what_a_pass_may_hold(architecture: Architecture) -> None:
    base = build(architecture)
    assert base.one_pass.holds_rows() == architecture.rows
    assert base.one_pass.holds_edits(editable(base.network)) == architecture.edits
    assert execution(base, ()).get("edits_in_one_pass", True) == architecture.edits


@EVERY
def test_edited_models_answer_as_each_alone(architecture: Architecture) -> None:
    base = build(architecture)
    updates = [random_low_rank(base, seed) for seed in (1, 2, 3)]
    prompts, targets = asked(base)
    edited = Versions(base, updates)
    answers = edited.answer(prompts, EDIT_OF, targets)
    odds = edited.log_odds(prompts, EDIT_OF, targets)
    for row, edit in enumerate(EDIT_OF):
        alone = really_edited(base, updates[edit])
        assert answers[row] == alone.answer([prompts[row]])[0]
        (expected,) = alone.log_odds([prompts[row]], [targets[row]])
        near = tolerance(torch.float32, **through(base), size=max(20, abs(expected)))
        assert odds[row] == pytest.approx(expected, abs=near)
    assert odds != pytest.approx(base.log_odds(prompts, targets), rel=1e-3), "the updates must matter"


@EVERY
def test_every_row_has_its_own_gradient(architecture: Architecture) -> None:
    base = build(architecture)
    names = editable(base.network)
    prompts, targets = asked(base)
    rows = [Edit(prompt, prompt, "", target) for prompt, target in zip(prompts, targets, strict=True)]
    _, factors = edit_gradients(base, rows, names)
    for row in range(3):
        expected = dense_gradients(base, prompts[row], targets[row], names)
        largest = max(gradient.norm() for gradient in expected.values())
        for name, gradient in expected.items():
            found = torch.zeros_like(gradient)
            if name in factors:
                found = factors[name].D[row].T @ factors[name].X[row]
            assert (found - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5 * largest, name


@EVERY
def test_edits_are_tuned_as_each_alone(architecture: Architecture) -> None:
    base = build(architecture)
    editor = FineTuning(learning_rate=1e-2, max_steps=2)
    together = updates_of(editor, {}, base, edits(base))
    alone = [updates_of(editor, {}, base, [edit])[0] for edit in edits(base)]
    for edit in range(3):
        others = [far(base, alone[edit], alone[other]) for other in range(3) if other != edit]
        assert far(base, alone[edit], together[edit]) <= 0.1 * max(others)


def far(base: AbstractModel, one: Changes, other: Changes) -> float:
    """How large the change is that leads from one to the other."""
    total = 0.0
    for name in {**one, **other}:
        deltas: list[Tensor | float] = [
            dense_delta(base.network, name, update[name]) if name in update else 0.0
            for update in (one, other)
        ]
        difference = deltas[0] - deltas[1]
        assert isinstance(difference, Tensor)
        total += difference.square().sum().item()
    return total**0.5


# Where edits cannot share a pass ----------------------------------------------------------------------


@pytest.mark.parametrize("span", [10, 15])
def test_shapes_that_happen_to_fit_are_no_proof(span: int) -> None:
    # Of 2 * span position embeddings, each of the five probes would get a fifth.
    base = build(replace(DEBERTA, changes={**DEBERTA.changes, "max_relative_positions": span}))
    shapes: set[torch.Size] = set()
    layer = base.network.get_submodule("deberta.encoder.layer.0.attention.self.pos_key_proj")
    with layer.register_forward_hook(lambda _, inputs, __: shapes.add(inputs[0].shape)):
        assert not base.one_pass.holds_edits(editable(base.network))
    assert {shape[-2] for shape in shapes} == {2 * span}
    assert execution(base, ())["edits_in_one_pass"] is False


def test_a_layer_whose_weight_is_read_without_a_call_is_no_proof() -> None:
    class Reading(nn.Module):
        """Uses a linear map's weight; calls it only where `calls`."""

        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.layer.weight, self.layer.bias)

    base = tiny.model("bert")
    attention = base.network.get_submodule("bert.encoder.layer.1.attention.self")
    attention.query = Reading(attention.query)
    read = "bert.encoder.layer.1.attention.self.query.layer.weight"
    others = [name for name in editable(base.network) if name != read]
    assert base.one_pass.holds_edits(others)
    assert not base.one_pass.holds_edits([read])
    assert not base.one_pass.holds_edits([*others, read])
    assert base.one_pass.holds_edits(others[:3])  # of those already proved


def test_several_edits_in_one_pass_are_refused_where_that_is_not_proved() -> None:
    base = build(DEBERTA)
    updates = stacked(base, [random_low_rank(base, seed) for seed in range(2)])
    under = low_rank_under(base, updates, [0, 1, 1])
    with pytest.raises(ValueError, match="its edits cannot share a pass, found 2 in one"):
        under([0, 1])
    with under([1, 2]):
        pass


@pytest.mark.parametrize("architecture", [DEBERTA, MAMBA], ids=str)
def test_knowledge_editor_applies_itself_to_each_edit_alone(architecture: Architecture) -> None:
    base = build(architecture)
    editor = KnowledgeEditor(lstm_size=4, condition_size=8, head_size=4, loop=3, scale=20.0)
    state = editor.hypernetwork(base).state_dict()
    together = updates_of(editor, state, base, edits(base))
    for edit, update in zip(edits(base), together, strict=True):
        (alone,) = updates_of(editor, state, base, [edit])
        assert far(base, alone, update) <= 1e-3 * far(base, alone, {})


@pytest.mark.parametrize("architecture", [DEBERTA, MAMBA], ids=str)
def test_training_asks_each_edit_alone_and_learns_from_it(architecture: Architecture) -> None:
    base = build(architecture)
    plain: list[dict[str, LowRank]] = [random_low_rank(base, seed, size=0.1) for seed in range(3)]
    batches = stacked(base, plain)
    leaves = [tensor.requires_grad_() for batch in batches.values() for tensor in (batch.B, batch.A)]
    prompts, targets = asked(base)
    which = sorted(EDIT_OF)
    parts = under_updates(base, batches, list(zip(which, prompts, targets, strict=True)))
    found = {
        question: logits
        for part in parts
        for question, logits in zip(
            part.questions, part.logits.split(torch.bincount(part.rows.row).tolist()), strict=True
        )
    }
    gradients = torch.autograd.grad(sum(logits.sum() for logits in found.values()), leaves)
    assert any(gradient.any() for gradient in gradients)
    for edit, prompt, target in zip(which, prompts, targets, strict=True):
        alone = really_edited(base, plain[edit])
        expected = alone.logits(alone.rows([prompt], [target]))
        assert_same(found[prompt, target], expected, **through(base), size=20)


# Where rows cannot share a pass -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["classifier-fnet", "causal-bart"])
def test_a_network_that_reads_padding_is_asked_row_by_row(name: str) -> None:
    base = build(NAMED[name])
    prompts, targets = asked(base)
    ask = partial(base.answer, guesses=targets)
    assert ask(prompts) == [base.answer([prompt])[0] for prompt in prompts]
    odds = [base.log_odds([prompt], [target])[0] for prompt, target in zip(prompts, targets, strict=True)]
    assert base.log_odds(prompts, targets) == pytest.approx(odds)
    assert execution(base, ())["batch_limit"] == "1 rows"


def test_proofs_leave_no_trace() -> None:
    base = tiny.model("bart")
    prompt_format = base.prompt_format
    assert base.one_pass.holds_edits(editable(base.network))
    assert base.prompt_format is prompt_format
    assert not [module for module in base.network.modules() if module._forward_hooks]
    assert "edits_in_one_pass" not in execution(base, ())


def fails_once(base: AbstractModel, error: Exception) -> None:
    """Lets the first layer raise the error in its next pass."""
    left = [error]

    def fail(*_: object) -> None:
        if left:
            raise left.pop()

    base.network.get_submodule("bert.encoder.layer.0").register_forward_pre_hook(fail)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("shapes\ndiffer"), "RuntimeError: shapes differ"),
        (torch.OutOfMemoryError("full"), "out of memory"),
    ],
)
def test_a_network_that_refuses_the_probes_is_told(
    error: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny.model("bert")
    assert base.one_pass.holds_rows()
    fails_once(base, error)
    with caplog.at_level(logging.INFO, logger="kebench"):
        assert not base.one_pass.holds_edits(editable(base.network))
    assert [record.getMessage() for record in caplog.records] == [
        f"{base.name}: several edits cannot share a pass, so they are computed one by one ({told})"
    ]


def test_an_error_that_no_network_raises_by_itself_is_passed_on_and_proves_nothing() -> None:
    base = tiny.model("bert")
    assert base.one_pass.holds_rows()
    fails_once(base, OSError("the disk is gone"))
    with pytest.raises(OSError, match="the disk is gone"):
        base.one_pass.holds_edits(editable(base.network))
    assert base.one_pass.holds_edits(editable(base.network))
