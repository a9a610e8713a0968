"""The preconditioned step: its formula, dense; the untrained KnowledgeEditor; its loop; what it prepares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from alone import updates_of
from dense_reference import dense_gradients, products, really_edited
from kebench.baselines.knowledge_editor import KnowledgeEditor, training
from kebench.baselines.preconditioned_step import PreconditionedStep
from tolerance import assert_same, through

from kebench.edits.editor import State, TrainingSet, Workspace
from kebench.edits.moments import inverse, second_moments
from kebench.errors import BadSetting
from kebench.models.layers import editable
from kebench.models.model import AbstractModel
from kebench.models.rows import target_loss

KINDS = pytest.mark.parametrize("kind", ["bert", "bart", "gpt2", tiny.slow("llama")])
STEP = PreconditionedStep(epsilon=0.1, loop=1, moment_questions=8)


def prepared(editor: PreconditionedStep, base: AbstractModel, kind: str) -> State:
    return editor.prepare(base, tiny.training_set(base, kind), Workspace(Path(), lambda *_: None))


@KINDS
def test_a_step_is_its_formula(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    editor = replace(STEP, layers="all")
    state = prepared(editor, base, kind)
    edits = tiny.edits(base, kind, 3)
    for edit, update in zip(edits, updates_of(editor, state, base, edits), strict=True):
        gradients = dense_gradients(base, edit.prompt, edit.target, editable(base.network))
        rows = base.rows([edit.prompt], [edit.target])
        loss = target_loss(base.logits(rows), rows).item()
        norm = sum(float((g @ state[name] * g).sum()) for name, g in gradients.items())
        step = -editor.scale * loss / norm
        expected = {name: step * gradient @ state[name] for name, gradient in gradients.items()}
        assert_same(products(update), expected, **through(base, passes=4))


@KINDS
@pytest.mark.parametrize("loop", [tiny.slow(1), 3])
def test_an_untrained_knowledge_editor_makes_the_same_update(kind: str, loop: int) -> None:
    """With its masks at their start: the random weights of the last layer of its heads are 0."""
    base = tiny.model(kind, dtype=torch.float64)
    data = tiny.training_set(base, kind)
    learner = KnowledgeEditor(
        layers="last", step="polyak", precondition=0.1, scale=4.0, loop=loop,
        lstm_size=4, condition_size=6, head_size=4,
    )  # fmt: skip
    hypernetwork = training.hypernetwork_for(learner, base, data)
    with torch.no_grad():
        for head in hypernetwork.heads.values():
            head.layers[-1].parametrizations.weight.original0.zero_()
            head.layers[-1].bias.zero_()
    editor = replace(STEP, scale=2.0, loop=loop, moment_questions=training.MOMENT_QUESTIONS)  # σ(0) = 1/2
    edits = tiny.edits(base, kind, 4)
    expected = updates_of(learner, hypernetwork.state_dict(), base, edits)
    for one, other in zip(
        updates_of(editor, prepared(editor, base, kind), base, edits), expected, strict=True
    ):
        assert_same(products(one), products(other), **through(base, passes=4 * loop))


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_each_step_starts_from_the_edited_model_until_it_answers(kind: str) -> None:
    base = (tiny.model if kind == "bert" else tiny.fitted)(kind, dtype=torch.float64)
    state = prepared(STEP, base, kind)
    edits = tiny.edits(base, kind, 6)
    once = replace(STEP, scale=0.3)
    taken = set()
    for edit, twice in zip(edits, updates_of(replace(once, loop=2), state, base, edits), strict=True):
        (first,) = updates_of(once, state, base, [edit])
        edited = really_edited(base, first)
        done = edited.says([edit.prompt], [edit.target])[0]
        taken.add(done)
        second = {} if done else products(updates_of(once, state, edited, [edit])[0])
        expected = {name: change + second.get(name, 0.0) for name, change in products(first).items()}
        assert_same(products(twice), expected, **through(base, passes=8))
    assert taken == {True, False}


@pytest.mark.parametrize("kind", ["bert", tiny.slow("bart")])
def test_what_it_prepares_are_preconditioners_of_what_may_be_learnt_from(kind: str) -> None:
    base = tiny.fitted(kind, dtype=torch.float64)
    data = tiny.training_set(base, kind)
    every = replace(STEP, moment_questions=1000)
    state = prepared(every, base, kind)
    names = editable(base.network, "last")
    questions = [(known.prompt, known.prediction) for known in (*data.known, *data.unseen)]
    moments = second_moments(base, names, questions)
    assert set(state) == set(names)
    assert_same(state, {name: inverse(moment, 0.1) for name, moment in moments.items()}, **through(base))
    # Of more questions than are asked for, the seed draws.
    drawn, again, other = (prepared(each, base, kind) for each in (STEP, STEP, replace(STEP, seed=1)))
    assert all(torch.equal(matrix, again[name]) for name, matrix in drawn.items())
    assert not any(torch.equal(matrix, other[name]) for name, matrix in drawn.items())


def test_length_and_loop_do_not_change_what_is_prepared() -> None:
    assert replace(STEP, scale=0.5, loop=9).prepared_by() == STEP.prepared_by()
    for change in ({"epsilon": 0.2}, {"layers": "all"}, {"moment_questions": 9}, {"seed": 1}):
        assert replace(STEP, **change).prepared_by() != STEP.prepared_by()  # type: ignore[arg-type]


def test_no_edits_no_updates() -> None:
    base = tiny.model("bert")
    assert updates_of(STEP, prepared(STEP, base, "bert"), base, []) == []


def test_nothing_to_gather_is_said_in_one_line() -> None:
    base = tiny.model("bert")
    nothing = TrainingSet(train=[], dev=[], known=[], unseen=[], dev_known=[])
    with pytest.raises(BadSetting, match="found no question that the base model answers"):
        STEP.prepare(base, nothing, Workspace(Path(), lambda *_: None))


@pytest.mark.parametrize("setting", ["scale", "epsilon", "loop", "moment_questions"])
def test_a_setting_that_is_not_positive_is_refused(setting: str) -> None:
    with pytest.raises(BadSetting, match=f"{setting}: found 0, wanted a number above 0"):
        replace(STEP, **{setting: 0})  # type: ignore[arg-type]
