"""Batches and sequences of edits: who is asked what when, and that a stream goes on where it was cut off."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from kebench.baselines.constrained_fine_tuning import ConstrainedFineTuning
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.oracle import Oracle
from second_scorer import rows_of
from worlds import World

from kebench import (
    AbstractEditor,
    AbstractMemoryEditor,
    AbstractModel,
    AbstractWeightEditor,
    Batch,
    Carried,
    Edit,
    LowRank,
    Route,
    State,
    UnderUpdate,
    Update,
    edit_gradients,
    editable,
)
from kebench.edits.versions import Versions, in_force
from kebench.errors import BadFile, BadSetting
from kebench.models.identity import fingerprint
from kebench.running.cases import Case
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.running.streams import CHECKPOINT, _standing
from kebench.scoring.answers import EditAnswers
from kebench.scoring.record import RunRecord
from kebench.scoring.regimes import Regime
from kebench.scoring.rows import Trial, read_trials, to_line

QUICK = FineTuning(layers="first", learning_rate=1e-2, max_steps=3)
IN_SEQUENCE: dict[str, Any] = {"regime": "sequential", "edits": 6, "batch": 2, "ask_after": (2, 3)}
IN_BATCHES: dict[str, Any] = {"regime": "batch", "batch": 3}


# Two editors as their authors might write them -------------------------------------------------------


@dataclass(frozen=True)
class LeastSquares(AbstractWeightEditor):
    """One joint update a batch, in closed form: Δ = −rate · Dᵀ X (Xᵀ X + λ I)⁻¹ over all its tokens."""

    citation: ClassVar[str] = ""
    rate: float = 1.0
    ridge: float = 1.0

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Update], Sequence[Carried]]:
        return [self.joint(start, batch) for batch in batches], carried

    def joint(self, model: AbstractModel, batch: Batch) -> dict[str, LowRank]:
        _, gradients = edit_gradients(model, batch, editable(model.network, "last")[-1:])
        found = {}
        for name, g in gradients.items():
            x, d = g.X.flatten(0, 1), g.D.flatten(0, 1)  # (tokens, d_in), (tokens, d_out)
            keys = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(x.shape[1]), x.T).T
            found[name] = LowRank(B=-self.rate * d.T, A=keys)
        return found


@dataclass(frozen=True)
class Codebook(AbstractMemoryEditor):
    """A memory in the manner of GRACE: a key a prompt, a radius, and what holds within it.

    The key is the mean of the prompt's embeddings; what holds is a gradient step on the edit.
    """

    citation: ClassVar[str] = ""
    radius: float = 1e-3
    rate: float = 30.0

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        return [self.with_batch(base, batch, memory) for batch, memory in zip(batches, memories, strict=True)]

    def with_batch(self, base: AbstractModel, batch: Batch, memory: Carried) -> Carried:
        tensors, n = dict(memory.tensors), memory.data or 0
        for edit in batch:
            tensors[f"{n} key"] = key_of(base, edit.prompt)
            _, gradients = edit_gradients(base, [edit], editable(base.network, "last"))
            for name, g in gradients.items():
                tensors[f"{n} B {name}"], tensors[f"{n} A {name}"] = -self.rate * g.D[0].T, g.X[0]
            n += 1
        return Carried(tensors, n)

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        keys = torch.stack([memory.tensors[f"{place} key"] for place in range(memory.data)])
        held = [UnderUpdate(self.value(memory, place)) for place in range(memory.data)]
        routes: list[Route] = []
        for prompt in prompts:
            distances = (keys - key_of(base, prompt)).norm(dim=1)
            routes.append(held[int(distances.argmin())] if distances.min() < self.radius else None)
        return routes

    def value(self, memory: Carried, place: int) -> dict[str, LowRank]:
        start = f"{place} B "
        names = [key.removeprefix(start) for key in memory.tensors if key.startswith(start)]
        return {n: LowRank(memory.tensors[f"{place} B {n}"], memory.tensors[f"{place} A {n}"]) for n in names}


def key_of(base: AbstractModel, prompt: str) -> torch.Tensor:
    """The mean of the embeddings of a prompt's tokens."""
    ids = torch.tensor(base.prompt_ids([prompt])[0])
    with torch.no_grad():
        return base.network.get_input_embeddings()(ids).mean(0)


EDITORS: dict[str, AbstractEditor] = {
    "tuned": QUICK,
    "constrained": ConstrainedFineTuning(layers="first", learning_rate=1e-2, radius=0.02, max_steps=3),
    "joint": LeastSquares(),
    "codebook": Codebook(),
    "oracle": Oracle(),
}


QUICKLY = (("tuned", "classifier"), ("joint", "seq2seq"), ("codebook", "classifier"))
"""What is tried in every test run; the rest is among the slow tests."""


def ran(world: World, output: Path, editor: AbstractEditor, **changes: Any) -> RunRecord:
    settings = world.settings(output, "mine", retain=4, **changes)
    return run(settings, editors={"mine": editor}, progress=Silent())[1][0]


def answers_on_file(output: Path) -> list[dict[str, Any]]:
    """The rows without what the clock says, and the checksum of it."""
    lines = (output / "mine" / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in row.items() if not k.endswith(("seconds", "sha256"))} for row in rows_of(lines)]


# Regimes ---------------------------------------------------------------------------------------------


def test_streams_are_whole_and_in_order() -> None:
    regime = Regime.of("sequential", edits=6, batch=2, ask_after=[1, 4, 6])
    assert regime.streams(range(14)) == [
        [range(0, 2), range(2, 4), range(4, 6)],
        [range(6, 8), range(8, 10), range(10, 12)],
    ]
    assert regime.ask_after == (2, 4)  # 1 is within the first batch; 6 is the end, which is always asked
    assert str(regime) == "sequential(6, batch=2)"
    assert Regime.of("batch", batch=3).streams(range(7)) == [[range(0, 3)], [range(3, 6)]]
    assert Regime.of("single").streams(range(2)) == [[range(0, 1)], [range(1, 2)]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "single", "batch": 2}, "found single with edits, batch or ask-after"),
        ({"name": "batch"}, "wanted --batch"),
        ({"name": "batch", "batch": 2, "edits": 4}, "wanted --batch"),
        ({"name": "sequential", "batch": 2}, "found None edits in batches of 2"),
        ({"name": "sequential", "edits": 5, "batch": 2}, "found 5 edits in batches of 2"),
        ({"name": "sequential", "edits": 4, "ask_after": [5]}, "wanted numbers from 1 to 4"),
        ({"name": "parallel"}, "found 'parallel', wanted single, batch, sequential"),
    ],
)
def test_a_regime_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Regime.of(**settings)


def test_of_several_edits_of_a_fact_the_last_holds() -> None:
    cases = [Case(Edit(id_, id_, "y", "a"), fact, ()) for id_, fact in (("1", "f"), ("2", "g"), ("3", "f"))]
    assert [case.edit.id for case in _standing(cases)] == ["2", "3"]


# A version is a model --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])
def test_a_version_answers_and_has_gradients_as_a_model_does(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    edits, names = tiny.edits(base, kind, 3), editable(base.network)
    carried = [Carried()] * 3
    updates, _ = replace(QUICK, layers="all").update({}, base, [(edit,) for edit in edits], carried)
    before = fingerprint(base.network)
    prompts = tiny.prompts(kind, 6)
    for place, update in enumerate(updates):
        version = in_force(base, update)
        assert version.answer(prompts) == Versions(base, updates).answer(prompts, [place] * 6, [""] * 6)
        # Twice the half is the whole, for the gradients too.
        half = {name: type(change)(change.delta / 2) for name, change in update.items()}
        losses, whole = edit_gradients(version, edits, names)
        again, twice = edit_gradients(in_force(in_force(base, half), half), edits, names)
        torch.testing.assert_close(losses, again)
        for name in names:
            torch.testing.assert_close(whole[name].D, twice[name].D)
    assert fingerprint(base.network) == before


# Runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "world"),
    [
        pytest.param(name, world, marks=[] if (name, world) in QUICKLY else pytest.mark.slow)
        for name in EDITORS
        for world in ("classifier", "seq2seq")
    ],
)
def test_every_kind_of_editor_runs_in_all_regimes(
    name: str, world: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here = request.getfixturevalue(world)
    single = ran(here, tmp_path / "single", EDITORS[name], limit=6)
    batch = ran(here, tmp_path / "batch", EDITORS[name], limit=6, **IN_BATCHES)
    sequence = ran(here, tmp_path / "sequence", EDITORS[name], **IN_SEQUENCE)
    assert [r.setting.regime for r in (single, batch, sequence)] == [
        "single",
        "batch(3)",
        "sequential(6, batch=2)",
    ]
    assert (batch.times, single.times) == ({}, {})
    assert list(sequence.times) == ["immediate", "after 2", "after 4"]
    assert [sequence.times[time].edits for time in sequence.times] == [6, 2, 4]
    assert sequence.setting.ask_after == (2, 4)
    for record in (single, batch, sequence):
        assert record.scores.edits == 6
        assert not record.scores.failures
        if name in ("oracle", "codebook"):  # what is remembered does not wear off
            assert record.scores.success_rate.value == single.scores.success_rate.value
            assert record.scores.retain_accuracy.value == 1
    assert RunRecord.read(tmp_path / "sequence" / "mine" / "record.json") == sequence


def test_a_stream_of_one_edit_is_a_single_edit(seq2seq: World, tmp_path: Path) -> None:
    ran(seq2seq, tmp_path / "single", QUICK, limit=2)
    ran(seq2seq, tmp_path / "batch", QUICK, limit=2, regime="batch", batch=1)
    assert answers_on_file(tmp_path / "batch") == answers_on_file(tmp_path / "single")


def test_a_batch_holds_all_its_edits_and_other_edited_facts_are_not_to_be_retained(
    seq2seq: World, tmp_path: Path
) -> None:
    record = ran(seq2seq, tmp_path, Oracle(), limit=6, **IN_BATCHES)
    rows = answers_on_file(tmp_path)
    targets = {row["id"]: row["target"] for row in rows}
    for batch in (rows[:3], rows[3:]):
        facts = {row["fact"] for row in batch}
        for row in batch:
            assert set(row["also_edited"]) == facts
            for other in batch:  # where the sample holds it, it is answered with its target
                assert row["sample"].get(other["id"], targets[other["id"]]) == targets[other["id"]]
    assert record.scores.retain_accuracy.value == 1


def test_each_row_tells_only_the_facts_that_are_new_and_is_read_with_all(
    seq2seq: World, tmp_path: Path
) -> None:
    ran(seq2seq, tmp_path, Oracle(), **{**IN_SEQUENCE, "limit": 12})
    lines = (tmp_path / "mine" / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    told = [fact for row in rows for fact in row.get("also_edited", ())]
    trials = [trial.answers for trial in read_trials(tmp_path / "mine" / "edits.jsonl")]
    places = [place for place, row in enumerate(rows) if row.get("time") is None]
    for place in (places[5], places[-1]):  # the last rows of the two streams
        facts = trials[place].also_edited
        assert trials[place].fact in facts
        assert len(facts) == len({trials[i].fact for i in range(place - 5, place + 1)}) > 1
    assert len(told) <= len({trial.fact for trial in trials}) + 2  # and not once in every row


def test_rows_that_name_all_facts_are_read_as_they_were(tmp_path: Path) -> None:
    one = EditAnswers("a", "A", "x?", "y", "z", "z", also_edited=("B", "C"))
    other = replace(one, id="b", fact="B", also_edited=("A", "C", "D"))
    file = tmp_path / "edits.jsonl"
    lines = [json.dumps({**each.to_json(), "edit_seconds": 1, "answer_seconds": 1}) for each in (one, other)]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert [trial.answers for trial in read_trials(file)] == [one, other]


@given(st.lists(st.lists(st.sampled_from("ABCD"), max_size=4, unique=True), max_size=6))
def test_whatever_is_in_force_is_read_back(in_force: list[list[str]]) -> None:
    answers = [
        EditAnswers(str(place), "A", "x?", "y", "z", "z", also_edited=tuple(facts))
        for place, facts in enumerate(in_force)
    ]
    trials = [Trial(each, 1.0, 1.0) for each in answers]
    before: list[tuple[str, ...]] = [(), *(each.also_edited for each in answers)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "edits.jsonl"
        lines = [to_line(trial, "key", facts) for trial, facts in zip(trials, before, strict=False)]
        file.write_text("".join(lines), encoding="utf-8")
        assert list(read_trials(file, "key")) == trials


def test_a_sequence_is_asked_at_its_times(seq2seq: World, tmp_path: Path) -> None:
    ran(seq2seq, tmp_path, QUICK, **IN_SEQUENCE)
    trials = read_trials(tmp_path / "mine" / "edits.jsonl")
    assert [(time, len(list(group))) for time, group in groupby(trials, key=lambda trial: trial.time)] == [
        ("immediate", 2),
        ("after 2", 2),
        ("immediate", 2),
        ("after 4", 4),
        ("immediate", 2),
        ("final", 6),
    ]


@pytest.mark.parametrize(
    ("name", "batches", "world"),
    [("tuned", 2, "classifier"), ("codebook", 1, "classifier"), tiny.slow("codebook", 1, "seq2seq"),
     tiny.slow("tuned", 2, "seq2seq"),
     tiny.slow("tuned", 1, "seq2seq")],
)  # fmt: skip
def test_a_stream_cut_off_goes_on_to_the_same_bytes(
    name: str, batches: int, world: str, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = request.getfixturevalue(world)
    whole = ran(here, tmp_path / "whole", EDITORS[name], **IN_SEQUENCE)
    kind = type(EDITORS[name])
    plain: Callable[..., Any] = kind.edit
    made = []

    def cut_off(self: AbstractEditor, *arguments: Any) -> Any:
        made.append(1)
        if len(made) > batches:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(kind, "edit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ran(here, tmp_path / "cut", EDITORS[name], **IN_SEQUENCE)
    monkeypatch.setattr(kind, "edit", plain)
    with (tmp_path / "cut" / "mine" / "edits.jsonl").open("a") as file:
        file.write('{"a row that was being written')
    resumed = ran(here, tmp_path / "cut", EDITORS[name], **IN_SEQUENCE)
    assert resumed.scores.to_json() == whole.scores.to_json()
    assert answers_on_file(tmp_path / "cut") == answers_on_file(tmp_path / "whole")


def test_a_checkpoint_that_is_none_is_named(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, QUICK, **IN_SEQUENCE)
    (tmp_path / "mine" / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(BadFile, match="not the checkpoint of this run's streams"):
        ran(classifier, tmp_path, QUICK, **IN_SEQUENCE)


@dataclass(frozen=True)
class FailingOnce(AbstractWeightEditor):
    """Its second batch is not a number."""

    citation: ClassVar[str] = ""

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Update], list[Carried]]:
        (before,) = carried
        (update,), _ = QUICK.update(state, start, batches, carried)
        made = (before.data or 0) + 1
        if made == 2:
            update = {name: type(change)(change.delta * float("nan")) for name, change in update.items()}
        return [update], [Carried(data=made)]


def test_a_batch_that_fails_leaves_the_stream_as_it_was(seq2seq: World, tmp_path: Path) -> None:
    record = ran(seq2seq, tmp_path, FailingOnce(), **IN_SEQUENCE)
    rows = answers_on_file(tmp_path)
    assert record.scores.failures == {"weights not finite": 4}  # what is carried is as before, too
    final = [row for row in rows if "time" not in row]
    assert [row["failure"] is None for row in final] == [True, True, False, False, False, False]
    assert all(row["answer"] is not None for row in final[:2])


@dataclass(frozen=True)
class OneByOne(FineTuning):
    """Made for single edits of classifiers."""

    regimes: ClassVar[tuple[str, ...]] = ("single",)  # type: ignore[assignment]
    families: ClassVar[tuple[str, ...]] = ("classifier",)  # type: ignore[assignment]


def test_what_an_editor_is_not_made_for_is_refused(
    classifier: World, make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSetting, match="editor mine: found the regime batch, wanted single"):
        ran(classifier, tmp_path / "a", OneByOne(), **IN_BATCHES)
    world = make_world("bart")
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    with pytest.raises(BadSetting, match="editor mine: found a seq2seq model, wanted one"):
        ran(world, tmp_path / "b", OneByOne())


def test_a_precision_is_for_single_edits(seq2seq: World, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="precision: found the regime batch"):
        ran(seq2seq, tmp_path, QUICK, precision=5.0, **IN_BATCHES)
    with pytest.raises(BadSetting, match="found 12 edits, wanted 50 or more"):
        ran(seq2seq, tmp_path, QUICK, regime="batch", batch=50)
