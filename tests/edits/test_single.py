"""Edits that are not each by itself are refused, and never recorded as single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import doubles
import pytest
import tiny
import torch
from alone import updates_of
from kebench.baselines.fine_tuning import FineTuning
from worlds import World

from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import AbstractEditor, AbstractMemoryEditor, AbstractWeightEditor, Carried, State
from kebench.edits.single import refuse_shared, sample_of
from kebench.edits.versions import Route, Routed, Says, Versions
from kebench.errors import BrokenEditor
from kebench.models.changes import Changes, Dense
from kebench.models.model import AbstractModel
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.running.shard import EDITS_AT_ONCE
from kebench.scoring.record import RunRecord
from kebench.scoring.rows import read_base

TUNED = FineTuning(layers="first", learning_rate=1e-2, max_steps=3)


def ran(world: World, output: Path, editor: AbstractEditor, **changes: Any) -> RunRecord:
    settings = world.settings(output, "mine", **changes)
    return run(settings, editors={"mine": editor}, progress=Silent())[1][0]


def mean(updates: Sequence[Changes]) -> dict[str, Dense]:
    """The mean of dense updates."""
    names = {name for update in updates for name in update}
    found = {}
    for name in names:
        deltas = [update[name] for update in updates if name in update]
        found[name] = Dense(sum(delta.delta for delta in deltas if isinstance(delta, Dense)) / len(updates))
    return found


@dataclass(frozen=True)
class Joint(AbstractWeightEditor):
    """One update for all edits of a group; `how` it is handed out."""

    citation: ClassVar[str] = ""
    how: str

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        edits = [batch[0] for batch in batches]
        own = updates_of(TUNED, state, start, edits)
        joint = mean(own)
        if self.how == "object":
            return [joint] * len(edits), carried
        if self.how == "tensors":
            return [dict(joint) for _ in edits], carried
        if self.how == "views":
            return [{name: Dense(change.delta[:]) for name, change in joint.items()} for _ in edits], carried
        if self.how == "copies":
            return [
                {name: Dense(change.delta.clone()) for name, change in joint.items()} for _ in edits
            ], carried
        if self.how == "in part":  # half of the joint one, half of its own
            return [mean([joint, update]) for update in own], carried
        assert self.how == "one after the other"
        return [mean([*own[: index + 1]]) for index in range(len(edits))], carried


SHARED = r"Joint: returned the same change of .*weight for the edits r\d+ and r\d+, wanted different ones"
OTHERS = r": found different edits in a group of 8 and alone \(r\d+, r\d+(, r\d+)?\), wanted each to"
HOW = {
    "object": SHARED,
    "tensors": SHARED,
    "views": SHARED,
    "copies": OTHERS,
    "in part": OTHERS,
    "one after the other": OTHERS,
}


@pytest.mark.parametrize("how", HOW)
def test_a_joint_update_is_refused(how: str, classifier: World, tmp_path: Path) -> None:
    with pytest.raises(BrokenEditor, match=HOW[how]):
        ran(classifier, tmp_path, Joint(how))
    assert not (tmp_path / "mine" / "edits.jsonl").exists()
    assert not (tmp_path / "mine" / "record.json").exists()


def test_a_run_that_goes_on_is_looked_at_again(
    classifier: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kebench.running.shard.edit_and_ask", unchecked)
    ran(classifier, tmp_path, Joint("copies"))
    file = tmp_path / "mine" / "edits.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) > EDITS_AT_ONCE
    file.write_text("".join(lines[:EDITS_AT_ONCE]))
    monkeypatch.undo()
    monkeypatch.setenv("KEBENCH_HOME", str(classifier.home))
    with pytest.raises(BrokenEditor, match="found different edits in a group of 7 and alone"):
        ran(classifier, tmp_path, Joint("copies"))


def unchecked(*arguments: Any, check: bool) -> Any:
    from kebench.running.trial import edit_and_ask

    return edit_and_ask(*arguments)


@dataclass(frozen=True)
class Memory(AbstractMemoryEditor):
    """Answers from a table: each edit's own, or one that a whole group shares."""

    citation: ClassVar[str] = ""
    shared: bool

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        own = [doubles.table(batch) for batch in batches]
        everything = {prompt: target for each in own for prompt, target in each.items()}
        return [Carried(data=everything if self.shared else each) for each in own]

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        return doubles.looked_up(memory, prompts)


def test_a_memory_that_a_group_shares_is_refused(classifier: World, tmp_path: Path) -> None:
    record = ran(classifier, tmp_path / "own", Memory(shared=False))
    assert record.scores.success_rate.value == 1
    with pytest.raises(BrokenEditor, match=f"test_single:Memory{OTHERS}"):
        ran(classifier, tmp_path / "shared", Memory(shared=True))


@pytest.mark.parametrize("world", ["classifier", "seq2seq"])
def test_tuned_edits_are_single_ones(world: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    record = ran(request.getfixturevalue(world), tmp_path, replace(TUNED, layers="all"))
    assert record.scores.failures == {}
    assert record.setting.regime == "single"


def test_one_request_may_have_one_update_and_an_empty_one_serves_all() -> None:
    base = tiny.model("bert")
    change = {"bert.encoder.layer.0.output.dense.weight": Dense(torch.ones(16, 24))}
    first = Edit("a", "x", "REFUTES", "SUPPORTS")
    again, other = replace(first, id="b"), replace(first, id="c", prompt="y")
    nothing: Changes = {}
    refuse_shared(TUNED, [first, again], Versions(base, [change, change]))
    refuse_shared(TUNED, [first, other], Versions(base, [nothing, nothing]))
    with pytest.raises(BrokenEditor, match="for the edits a and c"):
        refuse_shared(TUNED, [first, again, other], Versions(base, [change, nothing, change]))


def test_which_edits_are_made_again() -> None:
    edit = Edit("a", "x", "y", "z")
    assert [sample_of([edit] * size) for size in (1, 2, 3, 8)] == [[], [0, 1], [0, 1, 2], [0, 4, 7]]


# Whose an answer is ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Echoing(AbstractMemoryEditor):
    """Says which edited model was asked what."""

    citation: ClassVar[str] = ""

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        return [Carried(data=edit.id) for (edit,) in batches]

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        return [Says(f"{memory.data}: {prompt}") for prompt in prompts]


def fail_while_asked(monkeypatch: pytest.MonkeyPatch, id_: str) -> None:
    """Lets the version that remembers this edit fail while it is asked."""
    plain = Versions.answer

    def answer(self: Versions, *arguments: Any, **options: Any) -> list[str]:
        for place, version in enumerate(self.versions):
            if isinstance(version, Routed) and version.route(["x"]) == [Says(f"{id_}: x")]:
                self.failures[place] = "late"
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Versions, "answer", answer)


@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_belongs_to_its_edit_and_question(
    fails: bool, seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    ids = [json.loads(line)["id"] for line in _lines(seq2seq, tmp_path / "first", Echoing())]
    failing = ids[2] if fails else ""
    fail_while_asked(monkeypatch, failing)
    lines = _lines(seq2seq, tmp_path / "second", Echoing())
    prompts = {row.id: row.prompt for row in read_base(tmp_path / "second")}
    for row in map(json.loads, lines):
        failed = row["id"] == failing
        assert row["failure"] == ("late" if failed else None)
        expected = [row["prompt"], *(p["text"] for p in row["paraphrases"]), *map(prompts.get, row["sample"])]
        found = [row["answer"], *(p["answer"] for p in row["paraphrases"]), *row["sample"].values()]
        assert found == [None if failed else f"{row['id']}: {text}" for text in expected]
        assert len(found) > 3


def _lines(world: World, output: Path, editor: AbstractEditor) -> list[str]:
    ran(world, output, editor, retain="exact")
    return (output / "mine" / "edits.jsonl").read_text().splitlines()
