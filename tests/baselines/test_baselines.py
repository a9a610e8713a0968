"""Laws that hold for every editor in `baselines/`, and that a broken editor is seen to break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import doubles
import pytest
import tiny
import torch
from alone import updates_of, versions_of
from dense_reference import dense_delta
from kebench.baselines.constrained_fine_tuning import ConstrainedFineTuning
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.knowledge_editor import KnowledgeEditor
from kebench.baselines.lora import LoRA
from kebench.baselines.memit import MEMIT
from kebench.baselines.random_update import RandomUpdate
from kebench.baselines.rome import ROME
from tolerance import tolerance

from kebench.edits.edit import Edit
from kebench.edits.editor import (
    AbstractEditor,
    AbstractTrainedEditor,
    State,
    Workspace,
    editor_key,
    load_editor,
    settings_of,
)
from kebench.edits.editor_files import editor_rows, find_editor
from kebench.models.identity import fingerprint
from kebench.models.model import AbstractModel
from kebench.running.conformance import says_what_it_is, settings_are_recordable

NAMES = tuple(editor_rows())
EVERY_ROW = pytest.mark.parametrize("name", NAMES)


def choices(editor: AbstractEditor) -> set[tuple[str, ...]]:
    """What decides which code an editor runs: class, words, switches, and whether a number is 0 or 1."""

    def of(values: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from of(value, (*place, name))
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield (*place, name, str(value) if value in (0, 1) else "another")
            else:
                yield (*place, name, repr(value))

    kind = type(editor).__qualname__
    return {(kind,), *of(settings_of(editor), (kind,))}


def representatives(names: Sequence[str]) -> list[str]:
    """The fewest rows (greedily) that show every choice which any of the rows shows."""
    shown = {name: choices(load_editor(name)[1]) for name in names}
    missing, chosen = set[tuple[str, ...]]().union(*shown.values()), list[str]()
    while missing:
        best = max(names, key=lambda name: len(shown[name] & missing))
        chosen.append(best)
        missing -= shown[best]
    return sorted(chosen)


FEW = representatives(NAMES)
"""The laws are of classes: a row that only has other numbers than these is no other case."""
BREAKER = pytest.mark.xfail(strict=True, raises=AssertionError)


CAUSAL = {"bert": "gpt2", "bart": "llama", "gpt2": "llama"}
"""What stands in for a kind of model where an editor is for causal models only."""


def suiting(name: str, kind: str) -> str:
    families = load_editor(name)[1].families
    return kind if tiny.FAMILY[kind] in families else CAUSAL[kind]


def cases(first: str, second: str, *more: Any) -> list[Any]:
    """Each row with one kind of model, and one row of each class with another; the others of it are slow."""
    of_class = {type(load_editor(name)[1]): name for name in FEW}
    found = [pytest.param(name, suiting(name, first)) for name in FEW]
    for name in FEW:
        kind = suiting(name, second)
        if pytest.param(name, kind) not in found:
            found.append((pytest.param if name in of_class.values() else tiny.slow)(name, kind))
    return [*found, *more]


BERT_AND_BART = pytest.mark.parametrize(("name", "kind"), cases("bert", "bart"))

SMALL = {
    "steps": 2,
    "validate_every": 2,
    "edits_per_step": 3,
    "retain_per_edit": 2,
    "validate_edits": 3,
    "lstm_size": 4,
    "condition_size": 8,
    "head_size": 4,
}


def quick(editor: AbstractEditor) -> AbstractEditor:
    """The editor with settings that take no time."""
    if isinstance(editor, KnowledgeEditor):
        return replace(editor, **SMALL)  # type: ignore[arg-type]
    if isinstance(editor, RandomUpdate):
        return replace(editor, reference=replace(editor.reference, **SMALL))  # type: ignore[arg-type]
    if isinstance(editor, ROME):
        return replace(editor, layers=(1,), steps=4)
    if isinstance(editor, MEMIT):  # AlphaEdit too
        return replace(editor, layers=(0, 1), steps=4)
    if isinstance(editor, LoRA):
        pytest.importorskip("peft", reason="the editor lora needs peft, of the extra 'lora'")
        return replace(editor, max_steps=3)
    if isinstance(editor, FineTuning | ConstrainedFineTuning):
        return replace(editor, max_steps=3, learning_rate=1e-3)
    return editor


def editor_named(name: str) -> AbstractEditor:
    return doubles.Scribbler() if name == "Scribbler" else quick(load_editor(name)[1])


def new_base(kind: str) -> AbstractModel:
    return tiny.model(kind) if kind == "bert" else tiny.fitted(kind)


base_of = cache(new_base)
"""One that all tests share, since no editor may change it."""

_states: dict[tuple[str, str], State] = {}


def state_of(editor: AbstractEditor, kind: str, base: AbstractModel) -> State:
    if not isinstance(editor, AbstractTrainedEditor):
        return {}
    if isinstance(editor, KnowledgeEditor) and editor.kl_over == "beam" and base.family == "classifier":
        pytest.skip("the editor refuses a classifier, whose KL is over all labels already")
    learner = editor.prepared_by()
    key = (editor_key(learner), kind)
    if key not in _states:
        workspace = Workspace(Path(mkdtemp()), lambda *_: None)
        _states[key] = learner.prepare(base, tiny.training_set(base, kind), workspace)
    return _states[key]


def asked(kind: str) -> list[str]:
    """What three edits are asked in turn: each its own x, then another of the first record's prompts."""
    return [*(edit.prompt for edit in requests(kind)), *tiny.prompts(kind, 3)]


def answers_of(editor: AbstractEditor, kind: str, base: AbstractModel) -> list[str]:
    """What three edits, made together, say to six prompts in turn."""
    edited = versions_of(editor, state_of(editor, kind, base), base, requests(kind))
    return edited.answer(asked(kind), [0, 1, 2] * 2, [""] * 6)


@cache
def first_answers(name: str, kind: str) -> list[str]:
    return answers_of(editor_named(name), kind, base_of(kind))


@cache
def requests(kind: str) -> Sequence[Edit]:
    return tiny.edits(base_of(kind), kind, 3)


@pytest.mark.parametrize(("name", "kind"), cases("bert", "gpt2"))
def test_the_base_model_is_bit_identical_afterwards(name: str, kind: str) -> None:
    base = new_base(kind)
    before = fingerprint(base.network)
    answers = base.answer(tiny.prompts(kind, 3))
    answers_of(editor_named(name), kind, base)
    assert fingerprint(base.network) == before
    assert base.answer(tiny.prompts(kind, 3)) == answers
    assert not any(parameter.requires_grad for parameter in base.network.parameters())
    assert not [module for module in base.network.modules() if module._forward_hooks]


@BERT_AND_BART
def test_the_same_seed_gives_the_same_answers(name: str, kind: str) -> None:
    first = first_answers(name, kind)
    torch.manual_seed(99)  # an editor that draws from the global generator would notice
    torch.rand(7)
    assert answers_of(editor_named(name), kind, base_of(kind)) == first


@BERT_AND_BART
def test_one_edit_at_a_time_or_all_at_once(name: str, kind: str) -> None:
    """Batching edits is the harness's business: it changes nothing an editor does."""
    base, editor = base_of(kind), editor_named(name)
    state = state_of(editor, kind, base)
    for index, edit in enumerate(requests(kind)):
        alone = versions_of(editor, state, base, [edit])
        assert alone.answer(asked(kind)[index::3], [0, 0], ["", ""]) == first_answers(name, kind)[index::3]


def test_every_class_and_every_choice_of_a_file_is_tried() -> None:
    editors = {name: load_editor(name)[1] for name in NAMES}
    tried = set[tuple[str, ...]]().union(*(choices(editors[name]) for name in FEW))
    assert all(choices(editor) <= tried for editor in editors.values())
    assert {type(editors[name]) for name in FEW} == set(map(type, editors.values()))
    few = [editors[name] for name in FEW]
    assert {each.loop > 1 for each in few if isinstance(each, KnowledgeEditor)} == {True, False}


@EVERY_ROW
def test_settings_survive_being_written_down(name: str) -> None:
    row = find_editor(name)
    _, editor = load_editor(name)
    settings_are_recordable(editor)
    assert set(row.settings) <= {field.name for field in fields(editor)}  # type: ignore[arg-type]
    assert editor_key(type(editor)()) == editor_key(editor) or row.settings, row.place


@EVERY_ROW
def test_every_editor_says_what_it_is_and_where_it_is_from(name: str) -> None:
    row = find_editor(name)
    _, editor = load_editor(name)
    assert row.description.strip()
    assert len(row.description) < 80
    says_what_it_is(editor)
    assert row.path is not None
    assert row.path.read_text(encoding="utf-8").startswith("# ")
    assert row.description.startswith("control:") == editor.is_control


def test_descriptions_tell_the_editors_apart() -> None:
    descriptions = [find_editor(name).description for name in NAMES]
    assert len(set(descriptions)) == len(descriptions)
    keys = [editor_key(load_editor(name)[1]) for name in NAMES]
    assert len(set(keys)) == len(keys)


# --- the random update


@pytest.mark.parametrize("recipe", ["quick", "tuned"])
def test_the_random_updates_reference_is_knowledge_editors_recipe(recipe: str) -> None:
    _, control = load_editor(f"random_update@{recipe}")
    _, reference = load_editor(f"knowledge_editor@{recipe}")
    assert isinstance(control, RandomUpdate)
    assert isinstance(reference, KnowledgeEditor)
    assert control.reference == reference
    assert editor_key(control.prepared_by()) == editor_key(reference.prepared_by())


@pytest.mark.parametrize("kind", ["bert", tiny.slow("bart"), "gpt2"])
def test_random_updates_are_as_large_as_knowledge_editors_and_otherwise_unlike(kind: str) -> None:
    base = base_of(kind)
    control = editor_named("random_update")
    assert isinstance(control, RandomUpdate)
    state = state_of(control, kind, base)
    learnt = updates_of(control.reference, state, base, requests(kind))
    random = updates_of(control, state, base, requests(kind))
    for one, other in zip(learnt, random, strict=True):
        assert set(one) == set(other)
        for name in one:
            a, b = dense_delta(base, name, one[name]).double(), dense_delta(base, name, other[name]).double()
            near = tolerance(torch.float32, layers=2, terms=a.numel())  # the entries, and their squares' sum
            assert b.norm().item() == pytest.approx(a.norm().item(), rel=near)
            assert abs((a * b).sum() / (a.norm() * b.norm())) < 0.9
    # Its seed, and the edit's id, decide.
    again = updates_of(control, state, base, requests(kind))
    moved = updates_of(replace(control, seed=1), state, base, requests(kind))
    for name in random[0]:
        first = dense_delta(base, name, random[0][name])
        assert torch.equal(first, dense_delta(base, name, again[0][name]))
        assert not torch.allclose(first, dense_delta(base, name, moved[0][name]), atol=1e-9)


# --- the controls and the doubles


@pytest.mark.parametrize("editor", [doubles.NoEdit(), load_editor("identity")[1]], ids=["NoEdit", "identity"])
def test_no_edit_answers_as_the_base(editor: AbstractEditor) -> None:
    base = base_of("bart")
    edited = versions_of(editor, {}, base, requests("bart"))
    prompts = tiny.prompts("bart", 9)
    assert edited.answer(prompts, [0, 1, 2] * 3, [""] * 9) == base.answer(prompts)
    assert edited.failures == {}


@pytest.mark.parametrize("editor", [doubles.Oracle(), load_editor("oracle")[1]], ids=["Oracle", "oracle"])
def test_the_oracle_says_the_target_where_it_should_and_nowhere_else(editor: AbstractEditor) -> None:
    base = base_of("bart")
    edits = [replace(edit, target=f"city {index}") for index, edit in enumerate(requests("bart"))]
    edits[0] = replace(edits[0], paraphrases=("in which city was Ada Bell born?",))
    edited = versions_of(editor, {}, base, edits)
    prompts = [edits[0].prompt, *edits[0].paraphrases, edits[1].prompt, edits[1].prompt]
    free = base.answer([edits[1].prompt])[0]
    assert edited.answer(prompts, [0, 0, 0, 1], [""] * 4) == ["city 0", "city 0", free, "city 1"]
    assert edited.prefers(prompts, [0] * 4, ["x"] * 4) == [None, None, False, False]  # looked up: unknown


def test_the_vandal_says_one_word() -> None:
    edited = versions_of(doubles.Vandal(), {}, base_of("bart"), requests("bart"))
    assert edited.answer(["a", "b"], [0, 1], ["", ""], beams=5) == [doubles.NONSENSE] * 2


def test_failing_edits_are_itemised() -> None:
    edited = versions_of(doubles.Failing(), {}, base_of("bart"), requests("bart"))
    assert edited.failures == {1: "weights not finite"}
