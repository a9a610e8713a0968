"""KnowledgeEditor: the paper's formula, and its training. The original's numbers are in `test_parity.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal

import pytest
import tiny
import torch
from alone import updates_of
from dense_reference import dense_gradients, knowledge_editor, products, really_edited
from kebench.baselines.knowledge_editor import KnowledgeEditor, training
from kebench.baselines.knowledge_editor.hypotheses import BaseHypotheses
from kebench.baselines.knowledge_editor.method import l2_constraint
from kebench.baselines.knowledge_editor.training import (
    Batch,
    Part,
    draw,
    joint_score,
    losses,
)
from kebench.baselines.random_update import RandomUpdate
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tolerance import assert_same, through, tolerance
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from kebench.edits.edit import Edit
from kebench.edits.editor import RetainQuestion, State, TrainingEdit, TrainingSet, Workspace
from kebench.edits.moments import inverse, second_moments
from kebench.errors import BadSetting
from kebench.models.base_logits import BaseLogits
from kebench.models.changes import LowRank, LowRankBatch
from kebench.models.identity import fingerprint
from kebench.models.layers import editable, linear_maps
from kebench.models.load import FAMILIES
from kebench.models.model import AbstractModel, EditsInForce, PromptFormat
from kebench.models.rows import target_loss

# --- the formula, dense -------------------------------------------------------------------------------

TINY = KnowledgeEditor(
    scale=10.0,
    lstm_size=6,
    condition_size=12,
    head_size=6,
    steps=30,
    edits_per_step=6,
    retain_per_edit=3,
    learning_rate=1e-2,
    warmup_steps=3,
    decay_steps=200,
    validate_every=10,
    validate_edits=6,
)
KINDS = pytest.mark.parametrize("kind", ["bert", "bart", "gpt2", tiny.slow("llama")])


def random_state(editor: KnowledgeEditor, base: AbstractModel) -> dict[str, Tensor]:
    """The initial weights, larger, so that no update is near zero."""
    generator = torch.Generator().manual_seed(7)
    state = editor.hypernetwork(base).state_dict()
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in state.items()
    }


@KINDS
@pytest.mark.parametrize("scale", [tiny.slow(1.0), 10.0])
def test_factors_are_the_papers_formula(kind: str, scale: float) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    editor = replace(TINY, scale=scale)
    state = random_state(editor, base)
    edits = tiny.edits(base, kind, 3)
    updates = updates_of(editor, state, base, edits)

    hypernetwork = editor.hypernetwork(base)
    hypernetwork.load_state_dict(state)
    names = editable(base.network)
    for edit, update in zip(edits, updates, strict=True):
        assert set(update) == set(names)
        text = f"{edit.prediction} >> {edit.target} || {edit.prompt}"
        condition = torch.tensor(base.tokenizer(text, truncation=True, max_length=32)["input_ids"])
        gradients = dense_gradients(base, edit.prompt, edit.target, names)
        with torch.no_grad():
            expected = knowledge_editor(hypernetwork, condition, gradients, scale)
        assert_same(products(update), expected, **through(base, passes=3))


TUNED = replace(TINY, scale=4.0, step="polyak", precondition=0.1, layers="last", relative_margin=True)


@KINDS
@pytest.mark.parametrize(
    ("step", "precondition"), [tiny.slow("polyak", 0.0), tiny.slow("paper", 0.1), ("polyak", 0.1)]
)
def test_steps_and_preconditioners_are_their_formulas(
    kind: str, step: Literal["paper", "polyak"], precondition: float
) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    editor = replace(TINY, step=step, precondition=precondition)
    state = random_state(editor, base)
    edits = tiny.edits(base, kind, 3)
    names = editable(base.network)
    generator = torch.Generator().manual_seed(3)
    preconditioners = None
    if precondition:
        preconditioners = {}
        for name in names:
            key = f"heads.{name.replace('.', '_')}.preconditioner"
            root = torch.randn(state[key].shape, generator=generator, dtype=torch.float64)
            state[key] = preconditioners[name] = root @ root.T / len(root)
    updates = updates_of(editor, state, base, edits)

    hypernetwork = editor.hypernetwork(base)
    hypernetwork.load_state_dict(state)
    for edit, update in zip(edits, updates, strict=True):
        text = f"{edit.prediction} >> {edit.target} || {edit.prompt}"
        condition = torch.tensor(base.tokenizer(text, truncation=True, max_length=32)["input_ids"])
        gradients = dense_gradients(base, edit.prompt, edit.target, names)
        rows = base.rows([edit.prompt], [edit.target])
        loss = target_loss(base.logits(rows), rows).item() if step == "polyak" else None
        with torch.no_grad():
            expected = knowledge_editor(
                hypernetwork, condition, gradients, editor.scale,
                polyak_loss=loss, preconditioners=preconditioners,
            )  # fmt: skip
        assert_same(products(update), expected, **through(base, passes=4))


@KINDS
def test_one_polyak_step_would_bring_a_linear_loss_to_zero(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    editor = replace(TUNED, scale=2.0)  # σ(0) = 1/2
    hypernetwork = editor.hypernetwork(base)
    for head in hypernetwork.heads.values():
        with torch.no_grad():
            head.layers[-1].parametrizations.weight.original0.zero_()
            head.layers[-1].bias.zero_()
    edits = tiny.edits(base, kind, 3)
    with torch.no_grad():
        updates = editor.predict(hypernetwork, base, edits)
    for index, edit in enumerate(edits):
        gradients = dense_gradients(base, edit.prompt, edit.target, tuple(updates))
        change = sum(
            float((updates[name][index].B @ updates[name][index].A * gradient).sum())
            for name, gradient in gradients.items()
        )
        rows = base.rows([edit.prompt], [edit.target])
        near = tolerance(torch.float64, **through(base, passes=3))
        assert change == pytest.approx(-target_loss(base.logits(rows), rows).item(), rel=near)


@pytest.mark.parametrize("kind", ["bert", tiny.slow("bart")])
def test_preconditioners_come_from_what_is_learnt_from(kind: str, tmp_path: Path) -> None:
    base = learner(kind)
    data = tiny.training_set(base, kind)
    made = training.hypernetwork_for(TUNED, base, data)
    state = train(kind, tmp_path, replace(TUNED, steps=4, validate_every=2))
    questions = [(known.prompt, known.prediction) for known in (*data.known, *data.unseen)]
    names = editable(base.network, "last")
    for name, moment in second_moments(base, names, questions).items():
        found = made.head(name).preconditioner
        assert found is not None
        assert_same(found, inverse(moment, 0.1).float(), **through(base))
        # Kept with what is learnt, and not itself learnt.
        assert torch.equal(state[f"heads.{name.replace('.', '_')}.preconditioner"], found)
    (update,) = updates_of(TUNED, state, base, tiny.edits(base, kind, 1))
    assert set(update) == set(names)


def test_a_checkpoint_that_retains_too_little_is_chosen_only_among_its_like() -> None:
    good, greedy = {"success": 0.9, "retain": 0.98}, {"success": 1.0, "retain": 0.97}
    assert joint_score(greedy, 0.0) > joint_score(good, 0.0)
    assert (
        joint_score(good, 0.975) > joint_score(greedy, 0.975) > joint_score({**greedy, "retain": 0.9}, 0.975)
    )
    assert joint_score({"success": 0.0, "retain": 1.0}, 0.975) == 0.0
    both = {"success": 1.0, "equivalence": 0.5, "retain": 1.0}
    assert joint_score(both, 0.0) == pytest.approx(0.75)


def test_the_margin_tightens_only_while_enough_edits_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = iter([0.8, 0.9, 0.7, 0.8])
    monkeypatch.setattr(training, "validate", lambda *_: {"success": next(dev), "retain": 1.0})
    wanted = 0.75  # reached at the first, second and fourth validation
    editor = replace(TINY, steps=4, validate_every=1, margin=0.1, margin_decay=0.5, margin_success=wanted)
    train("bert", tmp_path, editor)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["margin"] for row in history["history"]] == pytest.approx([0.1, 0.05, 0.025, 0.025])
    assert history["margin"] == pytest.approx(0.0125)


def test_the_condition_is_prediction_target_prompt_cut() -> None:
    base = tiny.model("bart")
    edit = Edit("e", "where was Ada Bell born?", "Oslo", "New York")
    ids, lengths = TINY.condition(base, [edit, Edit("f", "where?", "a", "b")])
    text = base.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert text.startswith("Oslo >> New York || where was")
    assert lengths[0] <= TINY.max_condition_tokens
    assert lengths[1] < ids.shape[1] == lengths[0]
    assert replace(TINY, max_condition_tokens=8).condition(base, [edit])[0].shape == (1, 8)


@KINDS
def test_the_size_of_an_update_is_its_root_mean_square(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    updates = updates_of(TINY, random_state(TINY, base), base, tiny.edits(base, kind, 3))
    names = list(updates[0])
    batches = {name: LowRankBatch.stack([u[name] for u in updates]) for name in names}  # type: ignore[misc]
    dense = [[(u[name].B @ u[name].A).square().mean().sqrt() for u in updates] for name in names]  # type: ignore[union-attr]
    expected = torch.stack([torch.stack(sizes).mean() for sizes in dense]).mean()
    assert_same(l2_constraint(batches), expected, layers=3, terms=24 * 16)


# --- the loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", pytest.param("bart", marks=pytest.mark.slow)])
def test_the_loop_adds_factors_and_stops_at_success(kind: str) -> None:
    base = learner(kind, torch.float64)
    edits = tiny.edits(base, kind, 3)
    # From weak to strong, so that some edits take once, some later, some never.
    applied: set[int] = set()
    for scale in (1.0, 20.0):
        once = replace(TINY, scale=scale)
        state = random_state(once, base)
        looped = replace(once, loop=5)
        first, total = updates_of(once, state, base, edits), updates_of(looped, state, base, edits)
        took = [
            really_edited(base, update).says([e.prompt], [e.target])[0]
            for e, update in zip(edits, first, strict=True)
        ]
        for edit, before, after, done in zip(edits, first, total, took, strict=True):
            tokens = base.rows([edit.prompt], [edit.target])
            longest = max(tensor.shape[1] for tensor in tokens.inputs.values())
            for name in before:
                one, many = before[name], after[name]
                assert isinstance(one, LowRank)
                assert isinstance(many, LowRank)
                if done:
                    assert_same(many.B @ many.A, one.B @ one.A, **through(base, passes=3))
                    assert many.B.shape == one.B.shape
                else:
                    assert many.B.shape[1] > one.B.shape[1]
                    rank = torch.linalg.matrix_rank(many.B @ many.A, rtol=1e-12)
                    assert rank <= 5 * (longest + 1)
            alone = updates_of(looped, state, base, [edit])[0]
            widths = {alone[name].B.shape[1] for name in alone}  # type: ignore[union-attr]
            per_application = updates_of(once, state, base, [edit])[0]
            counts = {
                alone[name].B.shape[1] // per_application[name].B.shape[1]  # type: ignore[union-attr]
                for name in alone
            }
            assert max(widths) <= 5 * (longest + 1)
            applied.add(max(counts))  # a token whose gradient vanished is left out of a matrix
    assert 1 in applied
    assert 5 in applied


def test_each_application_starts_from_the_edited_model() -> None:
    base = tiny.model("bart", dtype=torch.float64)
    edits = tiny.edits(base, "bart", 3)
    state = random_state(TINY, base)
    twice = updates_of(replace(TINY, loop=2), state, base, edits)
    for edit, update in zip(edits, twice, strict=True):
        first = updates_of(TINY, state, base, [edit])[0]
        edited = really_edited(base, first)
        if edited.says([edit.prompt], [edit.target])[0]:
            continue
        # The condition and the hypernetwork's start do not change; only the gradient's weights do.
        second = updates_of(TINY, state, edited, [edit])[0]
        one, other = products(first), products(second)
        expected = {name: one[name] + other[name] for name in update}
        assert_same(products(update), expected, **through(base, passes=6))


def test_settings_that_only_matter_at_test_time_do_not_change_what_prepares() -> None:
    assert replace(TINY, loop=5).prepared_by() == TINY.prepared_by() == TINY
    assert replace(TINY, paraphrases=True).prepared_by() != TINY.prepared_by()
    assert RandomUpdate(reference=replace(TINY, loop=5)).prepared_by() == TINY.prepared_by()


# --- training -----------------------------------------------------------------------------------------


SHORT = replace(TINY, steps=8, validate_every=3, validate_edits=3)


class Interrupted(Exception):
    """The power fails."""


def train(
    kind: str, folder: Path, editor: KnowledgeEditor = TINY, *, stop_at: int | None = None
) -> dict[str, Tensor]:
    base = learner(kind)

    def report(done: int, steps: int, told: str) -> None:
        assert steps == editor.steps
        assert told.startswith("loss ")
        if done == stop_at:
            raise Interrupted

    folder.mkdir(exist_ok=True)
    return dict(editor.prepare(base, tiny.training_set(base, kind), Workspace(folder, report)))


@cache
def learner(kind: str, dtype: torch.dtype = torch.float32) -> AbstractModel:
    return (tiny.model if kind == "bert" else tiny.fitted)(kind, dtype=dtype)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, dict[str, Tensor]]]:
    """Each kind trained once, shortly: the folder with its checkpoints, and the state."""

    @cache
    def trained(kind: str) -> tuple[Path, dict[str, Tensor]]:
        folder = tmp_path_factory.mktemp(kind)
        return folder, train(kind, folder, SHORT)

    return trained


Trained = Callable[[str], tuple[Path, dict[str, Tensor]]]


def base_logits(base: AbstractModel, batch: Batch) -> BaseLogits:
    return BaseLogits(base, [(known.prompt, known.prediction) for known in batch.retain])


def same_tensors(one: State, other: State) -> bool:
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("kind", ["bert", tiny.slow("bart")])
def test_training_lowers_the_loss(kind: str, tmp_path: Path) -> None:
    train(kind, tmp_path, replace(TINY, steps=20))
    base, last = learner(kind), load_file(tmp_path / "last.safetensors")
    before = fingerprint(base.network)
    data = tiny.training_set(base, kind)
    batch = draw(data.train, (data.known, data.unseen), TINY, "held", 12)
    hypernetwork = TINY.hypernetwork(base)
    with torch.no_grad():
        start, _ = losses(TINY, hypernetwork, base, base_logits(base, batch), batch)
        prefix = "module.hypernetwork."
        hypernetwork.load_state_dict(
            {name.removeprefix(prefix): t for name, t in last.items() if name.startswith(prefix)}
        )
        end, _ = losses(TINY, hypernetwork, base, base_logits(base, batch), batch)
    assert end < 0.8 * start
    assert fingerprint(base.network) == before


@pytest.mark.parametrize(
    ("kind", "stop_at"), [tiny.slow("bert", 6), ("bert", 5), ("bert", 2), tiny.slow("bart", 6)]
)
def test_an_interrupted_training_goes_on_to_the_same_bits(
    kind: str, stop_at: int, tmp_path: Path, uninterrupted: Trained
) -> None:
    folder, expected = uninterrupted(kind)
    with pytest.raises(Interrupted):
        train(kind, tmp_path, SHORT, stop_at=stop_at)
    assert (tmp_path / "last.safetensors").exists() == (stop_at > SHORT.validate_every)
    assert same_tensors(train(kind, tmp_path, SHORT), expected)
    # The last weights and the optimiser's state too, not only the best weights.
    assert same_tensors(load_file(tmp_path / "last.safetensors"), load_file(folder / "last.safetensors"))
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.pt"))


def test_a_seed_gives_one_state(tmp_path: Path, uninterrupted: Trained) -> None:
    _, expected = uninterrupted("bert")
    torch.manual_seed(12345)  # what ran before does not matter
    assert same_tensors(train("bert", tmp_path / "again", SHORT), expected)
    other = train("bert", tmp_path / "other", replace(SHORT, seed=1))
    assert not same_tensors(other, expected)


@pytest.mark.slow
def test_the_state_does_not_depend_on_the_loop(tmp_path: Path, uninterrupted: Trained) -> None:
    looped = replace(SHORT, loop=5)
    assert same_tensors(train("bert", tmp_path, looped.prepared_by()), uninterrupted("bert")[1])


@pytest.mark.parametrize(
    "change",
    [
        {"constraint": "l2", "margin": 1e-3},
        {"paraphrases": True},
        {"layers": "last"},
        {"kl_over": "beam", "kl_beams": 3},
        {"step": "polyak", "precondition": 0.01, "relative_margin": True, "scale": 4.0},
    ],
)
def test_the_other_rows_train_too(change: dict[str, object], tmp_path: Path) -> None:
    editor = replace(TINY, steps=2, validate_every=1, **change)  # type: ignore[arg-type]
    state = train("gpt2", tmp_path, editor)
    base = learner("gpt2")
    (update,) = updates_of(editor, state, base, tiny.edits(base, "gpt2", 1))
    assert set(update) == set(editable(base.network, editor.layers))


def test_draws_are_seeded_and_leave_out_the_edits_own_fact() -> None:
    data = tiny.training_set(learner("bart"), "bart")
    batch = draw(data.train, (data.known, data.unseen), TINY, "0:1", 6)
    assert batch == draw(data.train, (data.known, data.unseen), TINY, "0:1", 6)
    assert batch != draw(data.train, (data.known, data.unseen), TINY, "0:2", 6)
    assert len(batch.retain) == len(batch.retain_edit) == 6 * TINY.retain_per_edit
    assert not batch.paraphrases
    for known, owner in zip(batch.retain, batch.retain_edit, strict=True):
        assert known.fact != batch.edits[owner].fact
    drawn = draw(data.train, (data.known, data.unseen), replace(TINY, paraphrases=True), "0:1", 6)
    for paraphrase, item in zip(drawn.paraphrases, drawn.edits, strict=True):
        assert paraphrase in item.edit.paraphrases


def five_edits(editor: KnowledgeEditor, base: AbstractModel, kind: str) -> Batch:
    """A batch of the toy training set."""
    data = tiny.training_set(base, kind)
    return draw(data.train, (data.known, data.unseen), editor, "0:1", 5)


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_the_loss_does_not_depend_on_which_questions_share_a_pass(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = learner(kind, torch.float64)
    editor = replace(TINY, paraphrases=True, retain_per_edit=5, scale=30.0)
    batch = five_edits(editor, base, kind)
    hypernetwork = editor.hypernetwork(base)
    depth = through(base, passes=4)
    found = []
    with torch.no_grad():
        for tokens in (10**6, 40):
            monkeypatch.setitem(training.TOKENS_TOGETHER, "cpu", tokens)
            found.append(losses(editor, hypernetwork, base, base_logits(base, batch), batch))
        assert_same(found[0], found[1], **depth)
        still = replace(editor, scale=1e-30)  # no update: whatever the order of the passes, nothing diverges
        _, constraint = losses(still, still.hypernetwork(base), base, base_logits(base, batch), batch)
    assert found[0][1] > 1e-4
    assert abs(constraint.item()) <= tolerance(torch.float64, **depth)


@pytest.mark.parametrize("kind", ["bert", tiny.slow("llama")])
def test_a_last_layer_learns_the_same_from_states_kept_below_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = learner(kind, torch.float64)
    editor = replace(TINY, layers="last", paraphrases=True, scale=30.0)
    batch = five_edits(editor, base, kind)
    changed = frozenset(editable(base.network, "last"))
    # Kept while answers were given, in inference mode: they can be learnt from all the same.
    known = [(each.prompt, each.prediction) for each in batch.retain]
    base.says(*zip(*known, strict=True), under=EditsInForce(lambda _: nullcontext(), changed))
    before = base_logits(base, batch)
    before.of(known)

    def gradients() -> dict[str, Tensor]:
        hypernetwork = editor.hypernetwork(base)
        sum(losses(editor, hypernetwork, base, before, batch)).backward()
        return {
            name: weight.grad for name, weight in hypernetwork.named_parameters() if weight.grad is not None
        }

    gradients()
    asked: list[int] = []
    first = next(module for name, module in linear_maps(base.network).items() if ".0." in name)
    with first.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0]))):
        kept = gradients()
        assert not asked
        monkeypatch.setattr(base.reuse, "below", lambda *_: nullcontext())
        plain = gradients()
    assert sum(asked) >= len(batch.edits) + len(batch.edited()) + len(batch.retain)
    assert any(gradient.abs().max() > 1e-6 for gradient in plain.values())
    assert_same(kept, plain, **through(base, passes=6))


def test_every_question_is_asked_once_with_those_of_its_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    base = learner("bert")
    data = tiny.training_set(base, "bert")
    asked = [
        (edit, known.prompt, known.prediction)
        for edit, count in enumerate((5, 1, 4, 7))
        for known in data.known[:count]
    ]
    for tokens in (10**6, 60, 15, 1):
        monkeypatch.setitem(training.TOKENS_TOGETHER, "cpu", tokens)
        passes = training._together(base, asked)
        assert sorted(index for indices in passes for index in indices) == list(range(len(asked)))
        for indices in passes:
            edits = [edit for edit, _ in groupby(asked[index][0] for index in indices)]
            assert len(edits) == len(set(edits))
        assert (len(passes) > 1) == (tokens < 100)


def without_paraphrases(items: Sequence[TrainingEdit]) -> list[TrainingEdit]:
    return [replace(item, edit=replace(item.edit, paraphrases=())) for item in items]


def test_an_edit_without_paraphrases_is_learnt_from_once() -> None:
    base = learner("bart")
    data = tiny.training_set(base, "bart")
    edits = [*without_paraphrases(data.train[:1]), *data.train[1:6]]  # all wordings of the first are held out
    one, *others = edits
    editor = replace(TINY, paraphrases=True)
    batch = draw(edits, (data.known, data.unseen), editor, "0:1", 6)
    asked = [(batch.edits[index].edit.id, prompt) for index, prompt, _ in batch.edited()]
    assert asked.count((one.edit.id, one.edit.prompt)) == 1
    assert sorted(name for name, _ in asked) == sorted([one.edit.id, *2 * [item.edit.id for item in others]])
    hypernetwork = editor.hypernetwork(base)
    with torch.no_grad():
        found, _ = losses(editor, hypernetwork, base, base_logits(base, batch), batch)
        updates = editor.predict(hypernetwork, base, [item.edit for item in batch.edits])
        each = [
            target_loss(part.logits, part.rows, smoothing=editor.label_smoothing)
            for part in training.under_updates(base, updates, batch.edited())
        ]
    assert_same(found, torch.cat(each).mean(), terms=11)
    assert len(torch.cat(each)) == 11


def test_a_dev_edit_without_paraphrases_does_not_count_for_equivalence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = learner("bart")
    data = tiny.training_set(base, "bart")
    editor = replace(TINY, paraphrases=True, choose_by=("success", "equivalence", "retain"), edits_per_step=2)
    some = replace(data, dev=[*without_paraphrases(data.dev[:3]), *data.dev[3:]])  # a batch has none at all
    # Every paraphrase is answered as wanted, and no prompt.
    paraphrases = {text for item in data.dev for text in item.edit.paraphrases}
    under_updates = training.under_updates

    def as_told(base: AbstractModel, updates: object, asked: Sequence[training.Asked]) -> list[Part]:
        parts = under_updates(base, updates, asked)  # type: ignore[arg-type]
        said = [[prompt in paraphrases for prompt, _ in part.questions] for part in parts]
        return [replace(part, logits=_saying(part, right)) for part, right in zip(parts, said, strict=True)]

    monkeypatch.setattr(training, "under_updates", as_told)
    for known in (data, some):
        rates = training.validate(editor, editor.hypernetwork(base), base, known)
        assert (rates["success"], rates["equivalence"]) == (0.0, 1.0)


def _saying(part: Part, right: Sequence[bool]) -> Tensor:
    """Logits whose argmax is the label in the rows that are to be right, and nowhere else."""
    chosen = torch.nn.functional.one_hot(part.rows.labels, part.logits.shape[-1]).float()
    return torch.where(torch.tensor(right)[part.rows.row].unsqueeze(-1), chosen, 1 - chosen)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_paraphrases_that_nobody_has_are_refused(split: str, tmp_path: Path) -> None:
    base = learner("bert")
    data = tiny.training_set(base, "bert")
    editor = replace(TINY, paraphrases=True, choose_by=("success", "equivalence", "retain"))
    lacking = replace(data, **{split: without_paraphrases(getattr(data, split))})
    wanted = {
        "train": "paraphrases: found true, but none of 18 training edits has a paraphrase to learn from",
        "dev": "choose_by: found equivalence, but none of 6 dev edits has a paraphrase to measure it on",
    }
    with pytest.raises(BadSetting, match=wanted[split]):
        editor.prepare(base, lacking, Workspace(tmp_path, lambda *_: None))


# --- the KL over hypotheses ----------------------------------------------------------------------------


def speller(kind: str) -> AbstractModel:
    """A model that knows two letters; an answer is one or two of them, each a token: six answers in all."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {token: index for index, token in enumerate([*special, "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    network = tiny.network(kind, words).to(torch.float64)
    return FAMILIES[tiny.FAMILY[kind]](f"speller-{kind}", network, words, PromptFormat(max_answer_tokens=3))


EVERY_ANSWER = ("a", "b", "a a", "a b", "b a", "b b")


def enumerated(base: AbstractModel, prompt: str) -> dict[str, float]:
    """The probability of each answer of one or two letters, from the network's own logits, by token."""
    ids = {"a": 4, "b": 5}
    prompt_ids = base.prompt_ids([prompt])[0]
    found = {}
    for answer in EVERY_ANSWER:
        told: list[int] = []
        log_prob = 0.0
        for token in [*(ids[letter] for letter in answer.split()), base.tokenizer.eos_token_id]:
            if base.family == "seq2seq":
                start = base.network.config.decoder_start_token_id
                asked = {"input_ids": [prompt_ids], "decoder_input_ids": [[start, *told]]}
            else:
                asked = {"input_ids": [[*prompt_ids, *told]]}
            logits = base.network(**{name: torch.tensor(value) for name, value in asked.items()}).logits
            log_prob += logits[0, -1].log_softmax(-1)[token].item()
            told.append(token)
        found[answer] = math.exp(log_prob)
    return found


def kl_by_hand(before: dict[str, float], after: dict[str, float], answers: Iterable[str]) -> float:
    """Both renormalised over the answers; in nats."""
    all_p, all_q = (sum(each[answer] for answer in answers) for each in (before, after))
    return sum(
        before[answer] / all_p * math.log(before[answer] / all_p * all_q / after[answer])
        for answer in answers
    )


@pytest.mark.parametrize("kind", ["bart", tiny.slow("llama")])
@pytest.mark.parametrize("beams", [9, 220])
def test_the_kl_over_beams_is_the_kl_over_enumerated_answers(
    kind: str, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """220 beams hold every sequence of three tokens, and so every answer; nine hold the best of them."""
    base = speller(kind)
    editor = replace(TINY, kl_over="beam", kl_beams=beams, scale=30.0, retain_per_edit=2)
    questions = ["a", "b b", "a b a"]
    edits = [TrainingEdit("x", Edit("x", "b", "a", "b b")), TrainingEdit("y", Edit("y", "a a", "a", "b"))]
    known = [RetainQuestion(prompt, prompt, "a") for prompt in questions]
    batch = Batch(edits, (), [known[2], known[0], known[1], known[1]], [0, 0, 1, 1])
    monkeypatch.setitem(training.TOKENS_TOGETHER, "cpu", 12)  # several passes, the shortest questions first
    hypernetwork = editor.hypernetwork(base)
    hypernetwork.load_state_dict(random_state(editor, base))
    before = training.what_the_base_says(editor, base, known)
    smaller: set[bool] = set()
    with torch.no_grad():
        _, found = losses(editor, hypernetwork, base, before, batch)
        updates = updates_of(editor, hypernetwork.state_dict(), base, [item.edit for item in edits])
        each = []
        for owner, question in zip(batch.retain_edit, batch.retain, strict=True):
            answers = EVERY_ANSWER
            if beams == 9:
                said = base.hypotheses([question.prompt], beams)[0]
                answers = tuple(dict.fromkeys(text for text in said if text in EVERY_ANSWER))
                assert len(answers) > 1
                smaller.add(len(answers) < len(EVERY_ANSWER))
            edited = really_edited(base, updates[owner])
            each.append(
                kl_by_hand(enumerated(base, question.prompt), enumerated(edited, question.prompt), answers)
            )
    assert max(each) > 1e-3
    assert (True in smaller) == (beams == 9)
    near = tolerance(torch.float64, **through(base, passes=4), size=20)  # nats
    assert found.item() == pytest.approx(sum(each) / len(each), abs=near)


def test_hypotheses_are_searched_once_and_fed_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    base = learner("bart", torch.float64)
    questions = [(known.prompt, known.prediction) for known in tiny.training_set(base, "bart").known]
    forwards, backwards = BaseHypotheses(base, questions, 3), BaseHypotheses(base, questions, 3)
    first = [forwards.of(question) for question in questions]
    monkeypatch.setattr(base, "hypotheses", lambda *_: pytest.fail("searched again"))
    again = [forwards.of(question) for question in questions]
    assert all(one is other for one, other in zip(first, again, strict=True))
    monkeypatch.undo()
    other = [backwards.of(question) for question in reversed(questions)][::-1]
    for one, two in zip(first, other, strict=True):
        assert one.answers == two.answers
        assert torch.equal(one.log_p, two.log_p)
        assert one.log_p.exp().sum().item() == pytest.approx(1, abs=tolerance(torch.float64, size=100))


def test_a_hypothesis_that_cannot_be_fed_back_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = learner("bart")
    told = {"one": ["Oslo", "", "Oslo", "Rome"], "two": ["", "Oslo " * 20]}
    monkeypatch.setattr(base, "hypotheses", lambda prompts, _: [told[prompt] for prompt in prompts])
    before = BaseHypotheses(base, [("one", "Lima"), ("two", "Bern")], 4)
    assert before.of(("one", "Lima")).answers == ("Oslo", "Rome")
    # The answer alone: whatever an edit does, its share of what is left is 1.
    assert before.of(("two", "Bern")).answers == ("Bern",)
    assert before.of(("two", "Bern")).log_p.tolist() == [0.0]


def test_no_update_diverges_over_no_hypothesis() -> None:
    base = learner("bart")
    editor = replace(TINY, kl_over="beam", kl_beams=3)
    batch = five_edits(editor, base, "bart")
    still = replace(editor, scale=1e-30)
    said = training.what_the_base_says(still, base, batch.retain)
    _, constraint = losses(still, still.hypernetwork(base), base, said, batch)
    assert abs(constraint.item()) < 1e-6


def test_beams_over_labels_are_refused(tmp_path: Path) -> None:
    base = learner("bert")
    editor = replace(TINY, kl_over="beam")
    with pytest.raises(BadSetting, match="kl_over: found beam with a classifier, wanted answer"):
        editor.prepare(base, tiny.training_set(base, "bert"), Workspace(tmp_path, lambda *_: None))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kl_over": "beam", "constraint": "l2"}, "kl_over: found beam with the constraint l2"),
        ({"kl_over": "beam", "kl_beams": 1}, "kl_beams: found 1, wanted 2 or more"),
    ],
)
def test_beams_that_would_constrain_nothing_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_the_hypernetworks_words_are_a_copy() -> None:
    base = tiny.model("bert")
    hypernetwork = TINY.hypernetwork(base)
    before = fingerprint(base.network)
    with torch.no_grad():
        hypernetwork.encoder.embedding.weight.add_(1.0)
    assert fingerprint(base.network) == before


@pytest.mark.parametrize("missing", ["train", "dev", "known", "unseen", "dev_known", "other facts"])
def test_nothing_to_learn_from_is_said_in_one_line(missing: str, tmp_path: Path) -> None:
    base = learner("bert")
    data = tiny.training_set(base, "bert")
    one = TrainingEdit("only", data.train[0].edit)
    only = [RetainQuestion("only", "Bo", "SUPPORTS")]
    alone = TrainingSet(train=[one], known=only, unseen=only, dev=[one], dev_known=only)
    lacking = alone if missing == "other facts" else replace(data, **{missing: []})
    with pytest.raises(BadSetting, match=r"knowledge_editor: found .* to learn from, wanted"):
        TINY.prepare(base, lacking, Workspace(tmp_path, lambda *_: None))
