"""The whole path in a temporary folder: task, pack and saved model to scores and record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import doubles
import pytest
import torch
import worlds
from alone import updates_of
from filelock import FileLock
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.identity import Identity
from worlds import World

from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import (
    AbstractEditor,
    AbstractMemoryEditor,
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    load_editor,
)
from kebench.edits.versions import Route, Version, Versions
from kebench.errors import BadFile, BadSetting, BrokenEditor, Busy, KebenchError
from kebench.files.json import write_json
from kebench.leaderboard import contradictions
from kebench.models.changes import Changes
from kebench.models.layers import linear_maps
from kebench.models.load import load_model
from kebench.models.model import AbstractModel
from kebench.packs.pack import Origin, write_pack
from kebench.running import base_answers
from kebench.running import run as run_module
from kebench.running.preparation import state_folder, training_set
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.running.shard import EDITS_AT_ONCE
from kebench.scoring import equality, metrics
from kebench.scoring.protocols import SCORING
from kebench.scoring.record import RunRecord
from kebench.scoring.rows import read_base, read_edits
from kebench.scoring.scorer import STOPPED_INTERVAL
from kebench.task import load_task

Kebench = Callable[..., tuple[int, str, str]]


def ran(
    world: World, output: Path, *names: str, editors: dict[str, AbstractEditor] | None = None, **changes: Any
) -> list[RunRecord]:
    return run(world.settings(output, *names, **changes), editors=editors, progress=Silent())[1]


def rows(output: Path, editor: str) -> list[dict[str, Any]]:
    text = (output / editor / "edits.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# Known scores ----------------------------------------------------------------------------------------


def test_the_toy_world_can_tell_editors_apart(seq2seq: World, tmp_path: Path) -> None:
    (record,) = ran(seq2seq, tmp_path, "identity")
    assert record.setting.edits > EDITS_AT_ONCE
    assert record.base["paraphrases_set_aside"] == record.base["paraphrases"] / 2
    assert 0 < record.scores.accuracy_before.value < 1
    assert all(row["paraphrases"] for row in rows(tmp_path, "identity"))


@pytest.mark.parametrize("kind", ["bart", "bert"])
def test_identity_changes_nothing(
    kind: str, make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(kind)
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    for record in ran(world, tmp_path, "identity", "doubles:NoEdit"):
        scores = record.scores
        assert scores.retain_accuracy.value == 1
        assert scores.accuracy_after.value == scores.accuracy_before.value
        assert scores.performance_deterioration.value == 0
        assert scores.success_rate.value == 0
        assert scores.equivalence_target.value == 0
        assert scores.equivalence_own.value == 1  # P^x holds what the base model answers as it answers x
        assert scores.failures == {}


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("bart", "strict"),
        ("bert", "strict"),
        ("bert", "decao2021"),
        pytest.param("bart", "decao2021", marks=pytest.mark.slow),
    ],
)
def test_oracle_is_perfect(
    kind: str,
    protocol: str,
    make_world: Callable[..., World],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world(kind)
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    for record in ran(world, tmp_path, "oracle", "doubles:Oracle", protocol=protocol, limit=6):
        scores = record.scores
        for estimate in (scores.success_rate, scores.equivalence_target, scores.equivalence_own):
            assert (estimate.value, estimate.edits) == (1, record.setting.edits)
        assert scores.retain_accuracy.value == 1
        assert record.is_control


def test_vandal_ruins_everything(seq2seq: World, tmp_path: Path) -> None:
    # On a sample, deterioration is 1 on average only: the accuracy before is known and not the sample's.
    (record,) = ran(seq2seq, tmp_path, "doubles:Vandal", retain="exact")
    assert record.scores.success_rate.value == 0
    assert record.scores.equivalence_target.value == 0
    assert record.scores.equivalence_own.value == 1  # it agrees with its own nonsense
    assert record.scores.retain_accuracy.value == 0
    assert record.scores.performance_deterioration.value == pytest.approx(1)
    assert record.scores.accuracy_after.value == pytest.approx(0)


def test_a_scorer_that_compares_nothing_would_be_seen(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equality, "same", lambda *_: True)
    (record,) = ran(seq2seq, tmp_path, "doubles:Vandal")
    assert record.scores.retain_accuracy.value != 0


def test_fine_tuning_learns(classifier: World, tmp_path: Path) -> None:
    tuned = FineTuning(layers="all", learning_rate=1e-2, max_steps=20)
    (record,) = ran(classifier, tmp_path, editors={"tuned": tuned})
    assert record.scores.success_rate.value == record.scores.success_rate_teacher_forced.value == 1
    assert record.scores.retain_accuracy.value < 1
    assert record.editor_settings == {"layers": "all", "learning_rate": 1e-2, "max_steps": 20}
    assert record.editor_path == "kebench.baselines.fine_tuning.editor:FineTuning"


def test_knowledge_editor_is_trained_once_and_used(seq2seq: World, tmp_path: Path) -> None:
    file = tmp_path / "tiny_ke.yaml"
    file.write_text(
        "editor: kebench.baselines.knowledge_editor:KnowledgeEditor\n"
        "settings: {steps: 3, edits_per_step: 2, retain_per_edit: 2, lstm_size: 4, condition_size: 8,\n"
        "  head_size: 4, validate_every: 2, validate_edits: 2, scale: 10}\n"
    )
    (first,) = ran(seq2seq, tmp_path / "first", str(file), limit=3)
    (second,) = ran(seq2seq, tmp_path / "second", str(file), limit=3)
    assert first.editor == "tiny_ke"
    assert first.scores == second.scores
    assert first.cost.prepare_seconds == second.cost.prepare_seconds  # read, not learnt again
    (_, editor) = load_editor(str(file))
    assert isinstance(editor, AbstractTrainedEditor)
    inputs = run_module.inputs_of(seq2seq.settings(tmp_path, "tiny_ke"), Silent())
    assert (state_folder(editor, inputs) / "state.safetensors").is_file()


def test_settings_are_chosen_where_no_editor_learns_and_no_table_looks(
    seq2seq: World, tmp_path: Path
) -> None:
    inputs = run_module.inputs_of(seq2seq.settings(tmp_path, "x", split="dev"), Silent())
    asked = {record.fact for record in inputs.test}
    learnt = training_set(inputs, Silent())
    assert asked >= {known.fact for known in learnt.dev_known} != set()
    assert not asked & {known.fact for pool in (learnt.known, learnt.unseen) for known in pool}
    assert not asked & {record.fact for record in seq2seq.pack.records("test")}

    (on_dev,) = ran(seq2seq, tmp_path / "dev", "identity", split="dev")
    (on_test,) = ran(seq2seq, tmp_path / "test", "identity")
    assert on_dev.setting.to_json()["split"] == "dev"
    assert "split" not in on_test.setting.to_json()  # so that older records keep their key
    assert on_dev.setting.key != on_test.setting.key
    assert RunRecord.read(tmp_path / "dev" / "identity" / "record.json") == on_dev
    with pytest.raises(BadSetting, match="split: found 'train', wanted test or dev"):
        ran(seq2seq, tmp_path / "train", "identity", split="train")


# Protocols, targets, samples -------------------------------------------------------------------------


def test_decao2021_decodes_with_five_beams(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[int] = set()
    plain = Versions.answer

    def spied(self: Versions, *arguments: Any, beams: int = 1) -> list[str]:
        asked.add(beams)
        return plain(self, *arguments, beams=beams)

    monkeypatch.setattr(Versions, "answer", spied)
    (record,) = ran(seq2seq, tmp_path, "identity", protocol="decao2021")
    assert asked == {5}
    assert record.base["test_questions"] == record.base["editable"] < worlds.TEST  # O^x: what could be edited
    assert record.scores.retain_accuracy.value == 1
    assert record.scores.equivalence_accuracy == record.scores.equivalence_own


def test_gold_targets_correct_what_is_wrong(seq2seq: World, tmp_path: Path) -> None:
    (record,) = ran(seq2seq, tmp_path, "oracle", targets="gold")
    gold = {r.id: r.answers for r in seq2seq.pack.records("test")}
    assert record.base["set_aside"] == {"already right": 9}
    assert record.setting.edits == 9
    assert all(row["target"] == gold[row["id"]][0] != row["prediction"] for row in rows(tmp_path, "oracle"))


def test_a_pack_without_paraphrases(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world("bert", paraphrases=False)
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    (record,) = ran(world, tmp_path, "identity")
    assert record.setting.edits == worlds.TEST
    assert record.scores.edits_with_paraphrases == 0
    assert record.scores.equivalence_accuracy.value != record.scores.equivalence_accuracy.value  # NaN
    assert RunRecord.read(tmp_path / "identity" / "record.json").scores.equivalence_accuracy.edits == 0


def test_every_editor_is_asked_the_same_sample(classifier: World, tmp_path: Path) -> None:
    tuned = FineTuning(layers="first", max_steps=2)
    ran(classifier, tmp_path / "together", editors={"identity": Identity(), "tuned": tuned})
    ran(classifier, tmp_path / "alone", "oracle", limit=3)
    samples = {
        name: {row["id"]: list(row["sample"]) for row in rows(tmp_path / folder, name)}
        for folder, name in (("together", "identity"), ("together", "tuned"), ("alone", "oracle"))
    }
    assert samples["identity"] == samples["tuned"]
    assert samples["oracle"].items() <= samples["identity"].items()
    assert {len(sample) for sample in samples["identity"].values()} == {8}
    assert len({tuple(sample) for sample in samples["identity"].values()}) > 1


def test_the_seeds_of_edits_and_of_samples_are_two(classifier: World, tmp_path: Path) -> None:
    def drawn(folder: str, **seeds: int) -> dict[str, list[str]]:
        ran(classifier, tmp_path / folder, "identity", **seeds)
        return {row["id"]: list(row["sample"]) for row in rows(tmp_path / folder, "identity")}

    plain, other_edits, other_samples = drawn("0"), drawn("1", seed=1), drawn("2", retain_seed=1)
    assert list(other_edits) != list(plain)  # in another order
    assert other_edits == plain
    assert list(other_samples) == list(plain)
    assert other_samples != plain


def test_retain_exact_asks_everything(classifier: World, tmp_path: Path) -> None:
    (record,) = ran(classifier, tmp_path, "identity", retain="exact", limit=2)
    assert record.setting.retain == "exact"
    assert {len(row["sample"]) for row in rows(tmp_path, "identity")} == {worlds.TEST}
    assert record.scores.retain_accuracy.total == 2 * (worlds.TEST - 1)  # all but x itself
    assert record.scores.accuracy_after.total == 2 * worlds.TEST


@pytest.mark.parametrize(("protocol", "left_out"), [("strict", 2), ("decao2021", 1)])
def test_questions_about_the_edited_fact_are_left_out(
    protocol: str, left_out: int, classifier: World, tmp_path: Path
) -> None:
    pack = classifier.pack
    test = [replace(record, fact=record.fact.split()[0]) for record in pack.records("test")]
    facts = [record.fact for record in test]
    write_pack(
        tmp_path / "pack", {**pack.splits, "test": test}, name="shared", licence="CC0",
        origin=(Origin("toy", "toy", 24),), split=pack.lock.split, seed=0,
    )  # fmt: skip
    places = {"pack": str(tmp_path / "pack"), "model": str(classifier.model)}
    ran(classifier, tmp_path / "run", "identity", retain="exact", protocol=protocol, **places)
    base = read_base(tmp_path / "run")
    edits = read_edits(tmp_path / "run" / "identity" / "edits.jsonl")
    rules = run_module.find_protocol(protocol, labels=True)
    for edit in edits:
        measured = metrics.retain(edit, metrics.BaseAnswers(base), rules)
        out = facts.count(edit.fact) if left_out > 1 else 1
        assert measured.total == len(base) - out
    assert max(facts.count(edit.fact) for edit in edits) > 1


# Who sees what ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy(AbstractWeightEditor):
    citation: ClassVar[str] = ""
    seen: ClassVar[list[Edit]] = []

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        edits = [batch[0] for batch in batches]
        if len(edits) > 1:  # some are made again, each alone
            self.seen.extend(edits)
        return [{} for _ in edits], carried


@dataclass(frozen=True)
class Informer(Spy):
    is_control: ClassVar[bool] = True
    seen: ClassVar[list[Edit]] = []


def test_only_a_control_is_shown_paraphrases(seq2seq: World, tmp_path: Path) -> None:
    Spy.seen.clear()
    Informer.seen.clear()
    ran(seq2seq, tmp_path, editors={"spy": Spy(), "informer": Informer()})
    assert all(edit.paraphrases == () for edit in Spy.seen)
    assert all(edit.paraphrases for edit in Informer.seen)
    assert [edit.id for edit in Spy.seen] == [edit.id for edit in Informer.seen]


@pytest.mark.parametrize("again", [False, True])
def test_an_editor_that_writes_to_the_base_is_refused(again: bool, seq2seq: World, tmp_path: Path) -> None:
    for _ in range(2 if again else 1):  # the second time too: what it wrote the first time is not on file
        with pytest.raises(BrokenEditor, match=r"Scribbler .*: it changed the base model's weights: "):
            ran(seq2seq, tmp_path, editors={"scribbler": doubles.Scribbler()})
        assert not (tmp_path / "scribbler" / "edits.jsonl").exists()
        assert not (tmp_path / "scribbler" / "scores.json").exists()


@dataclass(frozen=True)
class LateScribbler(AbstractWeightEditor):
    """Writes to the base model in the second group; secretly: so that PyTorch does not count the write."""

    citation: ClassVar[str] = ""
    secretly: bool = False

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        edits = [batch[0] for batch in batches]
        if 1 < len(edits) < EDITS_AT_ONCE and self.secretly:
            next(start.network.parameters()).data[0, 0] += 1e-3
        elif 1 < len(edits) < EDITS_AT_ONCE:
            updates_of(doubles.Scribbler(), state, start, edits)
        return [{} for _ in edits], carried


def test_writing_to_the_base_late_is_seen_and_the_rows_before_it_stay(seq2seq: World, tmp_path: Path) -> None:
    ran(seq2seq, tmp_path / "good", editors={"late": doubles.NoEdit()})
    for editor in (LateScribbler(), LateScribbler(secretly=True)):
        with pytest.raises(BrokenEditor, match="changed the base model's weights"):
            ran(seq2seq, tmp_path / repr(editor), editors={"late": editor})
        kept, good = rows(tmp_path / repr(editor), "late"), rows(tmp_path / "good", "late")
        assert [row["sample"] for row in kept] == [row["sample"] for row in good[:EDITS_AT_ONCE]]
        assert not (tmp_path / repr(editor) / "late" / "record.json").exists()


def test_without_the_checksums_it_would_not_be_seen(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "check_base", lambda *_: None)
    monkeypatch.setattr(run_module, "checksum", lambda *_: "")
    ran(seq2seq, tmp_path, editors={"late": LateScribbler(secretly=True)})


# Failed edits ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raising(AbstractMemoryEditor):
    """Runs out of something over one edit; while it is made, or while it is asked."""

    citation: ClassVar[str] = ""
    errors: ClassVar[dict[str, type[BaseException]]] = {
        "MemoryError": MemoryError,
        "OutOfMemoryError": torch.OutOfMemoryError,
        "LinAlgError": torch.linalg.LinAlgError,
    }

    error: str
    on: str
    asked: bool = False

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        if not self.asked and any(edit.id == self.on for (edit,) in batches):
            raise self.errors[self.error]("no more")
        return [Carried(data=edit.id) for (edit,) in batches]

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        if self.asked and memory.data == self.on:
            raise self.errors[self.error]("no more")
        return [None for _ in prompts]


@pytest.mark.parametrize(
    ("error", "asked"), [(error, place % 2 == 0) for place, error in enumerate(Raising.errors)]
)
def test_one_failed_edit_counts_everywhere_and_spoils_no_other(
    error: str, asked: bool, seq2seq: World, tmp_path: Path
) -> None:
    (plain,) = ran(seq2seq, tmp_path / "plain", editors={"same": Identity()}, retain="exact", limit=6)
    whole = rows(tmp_path / "plain", "same")
    victim = whole[3]["id"]
    editor = Raising(error, victim, asked)
    (record,) = ran(seq2seq, tmp_path / "failing", editors={"same": editor}, retain="exact", limit=6)

    scores, n = record.scores, record.setting.edits
    assert scores.failures == {error: 1}
    assert scores.edits == n
    assert (scores.success_rate.total, scores.success_rate_teacher_forced.total) == (n, n)
    assert scores.equivalence_own.edits == plain.scores.equivalence_own.edits == n
    assert scores.equivalence_own.value == pytest.approx((n - 1) / n)
    assert scores.retain_accuracy.total == plain.scores.retain_accuracy.total
    assert scores.retain_accuracy.value == pytest.approx((n - 1) / n)
    assert scores.accuracy_before == plain.scores.accuracy_before
    assert scores.accuracy_after.total == plain.scores.accuracy_after.total
    for row, other in zip(rows(tmp_path / "failing", "same"), whole, strict=True):
        if row["id"] == victim:
            assert row["answer"] is None
            assert set(row["sample"].values()) == {None}
        else:
            assert row["answer"] == other["answer"]
            assert row["sample"] == other["sample"]


def test_weights_that_are_not_numbers_are_a_failed_edit(seq2seq: World, tmp_path: Path) -> None:
    (record,) = ran(seq2seq, tmp_path, editors={"failing": doubles.Failing()}, retain="exact")
    n = record.setting.edits
    assert record.scores.failures == {"weights not finite": n // 2}
    assert record.scores.retain_accuracy.value == pytest.approx((n - n // 2) / n)
    assert record.scores.success_rate.total == n
    assert [row["failure"] is not None for row in rows(tmp_path, "failing")] == [
        bool(place % EDITS_AT_ONCE % 2) for place in range(n)
    ]


def test_every_edit_may_fail(seq2seq: World, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Hopeless(AbstractEditor):
        citation: ClassVar[str] = ""

        def edit(
            self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
        ) -> tuple[list[Version], list[Carried]]:
            raise MemoryError

    (record,) = ran(seq2seq, tmp_path, editors={"hopeless": Hopeless()})
    assert record.scores.n_failures == record.setting.edits
    assert record.scores.retain_accuracy.value == record.scores.success_rate.value == 0
    assert RunRecord.read(tmp_path / "hopeless" / "record.json") == record


def test_a_bug_in_an_editor_is_a_failed_edit_with_its_traceback(seq2seq: World, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Buggy(AbstractEditor):
        citation: ClassVar[str] = ""

        def edit(
            self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
        ) -> tuple[list[Version], list[Carried]]:
            raise IndexError("a bug")

    (record,) = ran(seq2seq, tmp_path, editors={"buggy": Buggy()})
    assert record.scores.failures == {"IndexError": record.scores.edits}
    failures = (tmp_path / "buggy" / "failures.jsonl").read_text().splitlines()
    assert len(failures) == record.scores.edits
    assert "IndexError: a bug" in json.loads(failures[0])["traceback"]


@pytest.mark.slow
def test_batches_change_no_score_and_a_record_says_what_did_not_fit(seq2seq: World, tmp_path: Path) -> None:
    tuned = {"tuned": FineTuning(layers="first", learning_rate=1e-2, max_steps=3)}
    plain, in_threes = (
        ran(seq2seq, tmp_path / str(size), editors=tuned, batch_size=size)[0] for size in ("auto", 3)
    )
    assert in_threes.scores == plain.scores
    assert in_threes.setting == plain.setting
    assert plain.hardware["batches_backed_off"] == 0
    model = load_model(str(seq2seq.model), load_task(str(seq2seq.task)))
    first = next(iter(linear_maps(model.network).values()))

    def check(_: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("no more")

    first.register_forward_pre_hook(check)
    settings = seq2seq.settings(tmp_path / "short", "tuned")
    (short,) = run(settings, editors=tuned, model=model, progress=Silent())[1]
    assert short.scores == plain.scores
    assert short.scores.failures == {}
    assert short.hardware["batches_backed_off"] > 0
    assert RunRecord.read(tmp_path / "short" / "tuned" / "record.json") == short


# What is computed in ---------------------------------------------------------------------------------

SMALL = """
editor: kebench.baselines.knowledge_editor:KnowledgeEditor
settings: {steps: 2, edits_per_step: 2, retain_per_edit: 2, lstm_size: 4, condition_size: 8, head_size: 4,
  validate_every: 1, validate_edits: 2, scale: 11}
"""


@pytest.mark.slow
def test_another_dtype_is_another_setting_and_shares_what_was_learnt_alone(
    seq2seq: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(tmp_path / "home"))
    shutil.copytree(seq2seq.home / "packs", tmp_path / "home" / "packs")
    shutil.copytree(seq2seq.home / "models", tmp_path / "home" / "models")
    (tmp_path / "small.yaml").write_text(SMALL)
    names = (str(tmp_path / "small.yaml"), "fine_tuning_first")
    records = {
        dtype: ran(seq2seq, tmp_path / dtype, *names, dtype=dtype, limit=4)
        for dtype in ("bfloat16", "float32")
    }
    for half, full in zip(records["bfloat16"], records["float32"], strict=True):
        assert (half.hardware["dtype"], full.hardware["dtype"]) == ("bfloat16", "float32")
        assert (half.setting.model, full.setting.model) == ("tiny (bfloat16)", "tiny")
        assert half.setting.model_fingerprint != full.setting.model_fingerprint
        assert half.scores.failures == {}
        assert RunRecord.read(tmp_path / "bfloat16" / half.editor / "record.json") == half
    # Learnt once, in float32, by whichever run came first.
    (state,) = (tmp_path / "home" / "states").iterdir()
    inputs = run_module.inputs_of(seq2seq.settings(tmp_path, "x"), Silent())
    assert state == state_folder(load_editor(names[0])[1], inputs)  # type: ignore[arg-type]
    with pytest.raises(BadSetting, match="holds a run with another model, model_fingerprint"):
        ran(seq2seq, tmp_path / "float32", "identity", dtype="bfloat16", limit=4)


def test_runs_of_another_dtype_share_no_base_answers(
    classifier: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = base_answers._answer_all

    def watched(model: AbstractModel, *arguments: Any) -> Any:
        asked.append(model.dtype)
        return plain(model, *arguments)

    monkeypatch.setattr(base_answers, "_answer_all", watched)
    monkeypatch.setattr(base_answers, "home", lambda: tmp_path / "home")
    for place, (dtype, size) in enumerate(
        (("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", 2), ("float32", 2))
    ):
        ran(classifier, tmp_path / str(place), "identity", limit=1, dtype=dtype, batch_size=size)
    assert asked == ["float32", "bfloat16"]


# Interruptions ---------------------------------------------------------------------------------------

SLOW = """
import os, time
from dataclasses import dataclass
from kebench.baselines.fine_tuning import FineTuning
from kebench.edits.editor import AbstractWeightEditor

@dataclass(frozen=True)
class Slow(AbstractWeightEditor):
    citation = ""
    rate: float = 0.01

    def update(self, state, start, batches, carried):
        time.sleep(float(os.environ.get("NAP", "0")) * (len(batches) > 1))
        tuned = FineTuning(layers="first", learning_rate=self.rate, max_steps=3)
        return tuned.update(state, start, batches, carried)
"""


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(
    seq2seq: World, tmp_path: Path, kebench: Kebench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "slow_editor.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    words = ["run", "--editor", "slow_editor:Slow", "--task", str(seq2seq.task), "--output"]
    assert kebench(*words, tmp_path / "whole")[0] == 0
    cut = tmp_path / "cut"
    on_file = cut / "Slow" / "edits.jsonl"

    process = subprocess.Popen(
        [sys.executable, "-m", "kebench", *words, str(cut)],
        # Long naps: the kill falls into the second group of edits.
        env={**seq2seq.environment(tmp_path / "plugins"), "NAP": "2"},
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not (on_file.is_file() and on_file.stat().st_size) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    status, out, err = kebench(*words, cut)  # meanwhile, another process
    assert (status, out) == (2, "")
    assert one_line(err) == f"kebench: {cut}: another process is writing this run"
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(on_file.read_text().splitlines()) == EDITS_AT_ONCE
    assert not (cut / "Slow" / "scores.json").exists()

    whole_rows = (tmp_path / "whole" / "Slow" / "edits.jsonl").read_text().splitlines()
    with on_file.open("a") as file:  # a torn write: one line of the next group and half of another
        file.write(whole_rows[EDITS_AT_ONCE] + "\n" + whole_rows[EDITS_AT_ONCE + 1][:40])
    status, out, err = kebench(*words, cut)
    assert status == 0, err
    for name in ("scores.json", "editor.json"):
        assert (cut / "Slow" / name).read_bytes() == (tmp_path / "whole" / "Slow" / name).read_bytes()
    assert len(on_file.read_text().splitlines()) == len(whole_rows)
    before = on_file.read_bytes()
    assert kebench(*words, cut)[0] == 0  # finished: nothing is edited again
    assert on_file.read_bytes() == before


def one_line(err: str) -> str:
    """The last line; those before are progress, pack and model, or say that a plug-in is code."""
    *progress, last = err.splitlines()
    assert "Traceback" not in err
    known = ("loading ", "toy: pack ")
    assert all((":" in line and "/" in line) or line.startswith(known) for line in progress)
    return last


@pytest.mark.parametrize("size", [0, 1, 40, -1, -40])
def test_cut_anywhere_the_rows_come_back(size: int, classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, "identity")
    file, scores = tmp_path / "identity" / "edits.jsonl", tmp_path / "identity" / "scores.json"
    asked, scored = rows(tmp_path, "identity"), scores.read_bytes()
    content = file.read_bytes()
    file.write_bytes(content[:size])
    scores.unlink()
    ran(classifier, tmp_path, "identity")
    assert scores.read_bytes() == scored
    costs = ("edit_seconds", "answer_seconds", "sha256")
    again = rows(tmp_path, "identity")
    for row in (*asked, *again):
        for cost in costs:
            del row[cost]
    assert again == asked


@pytest.mark.parametrize(("left", "made_again"), [(3, 12), (8, 4), (9, 4), (12, 0)])
def test_whole_groups_are_made_again(left: int, made_again: int, seq2seq: World, tmp_path: Path) -> None:
    # What one edit's numbers are may depend, in the last bit, on what shares its batch.
    ran(seq2seq, tmp_path, editors={"spy": Spy()})
    file = tmp_path / "spy" / "edits.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 12
    file.write_text("".join(lines[:left]))
    Spy.seen.clear()
    ran(seq2seq, tmp_path, editors={"spy": Spy()})
    assert [edit.id for edit in Spy.seen] == [json.loads(line)["id"] for line in lines[12 - made_again :]]


def test_two_processes_cannot_write_one_run(classifier: World, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(Busy, match="another process is writing this run"):
        ran(classifier, tmp_path, "identity")
    ran(classifier, tmp_path, "identity")


# As many edits as a precision takes -----------------------------------------------------------------


@pytest.fixture
def claims(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of 18 edits."""
    world = make_world("bert", paraphrases=False)
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    return world


def test_edits_go_on_until_the_precision_is_reached(claims: World, tmp_path: Path, kebench: Kebench) -> None:
    # Where every edit keeps everything, the interval is ± 22 points after 8 edits and ± 13 after 16.
    words = ("run", "--editor", "identity", "--task", claims.task, "--output", tmp_path, "--precision", "15")
    status, out, err = kebench(*words)
    assert status == 0, err
    assert "edits until retain is known to ± 15 points, 18 at most" in " ".join(out.split())
    assert "· 16 edits, " in out
    assert "not reached" not in out
    record = RunRecord.read(tmp_path / "identity" / "record.json")
    scores, setting = record.scores, record.setting
    assert (setting.edits, setting.precision, scores.edits) == (18, 15, 16)
    assert scores.interval == STOPPED_INTERVAL
    assert scores.retain_accuracy.value == scores.retain_accuracy.high == 1
    assert 0.70 < scores.retain_accuracy.low < 0.75
    assert scores.retain_accuracy_gold.high < 1  # the bootstrap's
    assert contradictions(record) == []


def test_a_precision_that_is_not_reached_is_told(claims: World, tmp_path: Path, kebench: Kebench) -> None:
    words = ("run", "--editor", "identity", "--task", claims.task, "--output", tmp_path, "--precision", "1")
    status, out, err = kebench(*words)
    assert status == 0, err
    assert "Precision not reached after all 18 edits: identity (± 11.67)." in out
    (record,) = ran(claims, tmp_path / "limited", "identity", precision=15, limit=10)
    assert (record.setting.edits, record.scores.edits) == (10, 10)
    assert contradictions(record) == []


@pytest.mark.parametrize("left", [0, 3, 8, 11, 16])
def test_cut_anywhere_a_run_stops_where_it_would_have(left: int, claims: World, tmp_path: Path) -> None:
    spy = {"spy": Spy()}
    (whole,) = ran(claims, tmp_path, editors=spy, precision=15)
    file, scores = tmp_path / "spy" / "edits.jsonl", tmp_path / "spy" / "scores.json"
    scored, lines = scores.read_bytes(), file.read_text().splitlines(keepends=True)
    assert len(lines) == 16
    file.write_text("".join(lines[:left]))
    scores.unlink()
    Spy.seen.clear()
    (again,) = ran(claims, tmp_path, editors=spy, precision=15)
    assert len(Spy.seen) == 16 - left // EDITS_AT_ONCE * EDITS_AT_ONCE
    if left < 16:  # else the record on file is the one: nothing was made anew
        assert scores.read_bytes() == scored
    assert again.scores == whole.scores
    assert len(file.read_text().splitlines()) == 16


def test_the_same_edits_are_made_in_the_same_order(claims: World, tmp_path: Path) -> None:
    ran(claims, tmp_path / "fixed", "identity", limit=16)
    ran(claims, tmp_path / "precise", "identity", precision=15)
    first, second = (rows(tmp_path / name, "identity") for name in ("fixed", "precise"))
    assert [(row["id"], row["sample"]) for row in first] == [(row["id"], row["sample"]) for row in second]


# One folder, one setting -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed, edits_sha256"),
        ({"protocol": "decao2021"}, "protocol, test_sha256"),
        ({"limit": 2}, "edits, edits_sha256"),
        ({"retain": 5}, "retain"),
        ({"precision": 10}, "precision"),
    ],
)
def test_another_setting_in_the_same_folder_is_refused(
    change: dict[str, Any], named: str, classifier: World, tmp_path: Path
) -> None:
    ran(classifier, tmp_path, "identity")
    with pytest.raises(BadSetting, match=rf"holds a run with another {named}; choose another --output"):
        ran(classifier, tmp_path, "identity", **change)


def test_a_run_scored_by_older_rules_is_scored_anew(
    classifier: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers, seconds and versions stay; a folder of other samples is no such run."""
    (new,) = ran(classifier, tmp_path, "identity")
    scores = new.scores.to_json()
    del scores["performance_deterioration_elsewhere"], scores["protocol"]["scoring"]
    (file, record) = (tmp_path / name for name in ("run.json", "identity/record.json"))
    old = {**json.loads(record.read_text()), "format": 2, "scores": scores, "versions": {"kebench": "older"}}
    run_file = json.loads(file.read_text())
    del old["sha256"], run_file["sha256"]
    for setting in (run_file["setting"], old["setting"]):
        del setting["protocol"]["scoring"], setting["retain_seed"]
    write_json(run_file, file)
    write_json(old, record)
    write_json(scores, tmp_path / "identity" / "scores.json")
    answers = (tmp_path / "identity" / "edits.jsonl").read_bytes()
    with pytest.raises(BadSetting, match="another protocol, retain_seed"):
        ran(classifier, tmp_path, "identity", retain_seed=1)

    (again,) = ran(classifier, tmp_path, "identity")

    assert again.scores == new.scores
    assert again == replace(new, versions={"kebench": "older"})
    assert again.to_json() == RunRecord.read(record).to_json()
    assert json.loads((tmp_path / "identity" / "scores.json").read_text()) == new.scores.to_json()
    assert (tmp_path / "identity" / "edits.jsonl").read_bytes() == answers
    assert json.loads(file.read_text())["setting"]["protocol"]["scoring"] == SCORING
    assert ran(classifier, tmp_path, "identity") == [again]


def test_an_editor_of_the_same_name_with_other_settings_is_refused(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, editors={"tuned": FineTuning(layers="first", max_steps=1)})
    with pytest.raises(BadSetting, match="holds rows of other settings"):
        ran(classifier, tmp_path, editors={"tuned": FineTuning(layers="first", max_steps=2)})


def test_two_editors_of_one_name_are_refused(classifier: World, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="found 'identity' twice, wanted different names"):
        ran(classifier, tmp_path, "identity", "oracle", "identity")


def test_another_editor_joins_a_run(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, "identity")
    ran(classifier, tmp_path, "oracle")
    assert {path.parent.name for path in tmp_path.glob("*/record.json")} == {"identity", "oracle"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"setting": 1}', "{"])
def test_a_folder_whose_run_file_is_broken(content: str, classifier: World, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadFile, match=r"run.json: not a run's settings"):
        ran(classifier, tmp_path, "identity")


def test_a_broken_row_is_named(classifier: World, tmp_path: Path) -> None:
    ran(classifier, tmp_path, "identity")
    file = tmp_path / "identity" / "edits.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], "nonsense\n", *lines[3:]]))
    with pytest.raises(BadFile, match=r"edits.jsonl:3: not an edit's answers"):
        ran(classifier, tmp_path, "identity")
    (tmp_path / "identity" / "editor.json").write_text("{")
    with pytest.raises(BadFile, match=r"editor.json: not an editor's settings"):
        ran(classifier, tmp_path, "identity")


def test_settings_that_cannot_be_recorded(classifier: World, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="its settings cannot be recorded"):
        ran(classifier, tmp_path, editors={"odd": _Odd()})
    with pytest.raises(BadSetting, match="is not a dataclass"):
        ran(classifier, tmp_path, editors={"plain": doubles.Plain()})


@dataclass(frozen=True)
class _Odd(doubles.NoEdit):
    rate: float = float("nan")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": -1}, "limit: found -1, wanted 0"),
        ({"retain": 0}, "retain: found 0"),
        ({"retain": 2}, "retain: found 2, wanted 4 or more"),
        ({"device": "cdua"}, "--device: found 'cdua'"),
        ({"device": "cuda:77"}, "--device: found 'cuda:77'"),
        ({"device": "hpu"}, "--device: found 'hpu', wanted one of this machine: cpu"),
        ({"device": "cpu", "dtype": "tf32"}, "--dtype: found tf32 with the device cpu, wanted cuda"),
        ({"dtype": "float16"}, "dtype: found 'float16', wanted float32, tf32 or bfloat16"),
        ({"batch_size": 0}, "batch-size: found 0, wanted 1 or more, or 'auto'"),
        ({"batch_size": "many"}, "batch-size: found many, wanted 1 or more, or 'auto'"),
        ({"targets": "golden"}, "targets: found 'golden'"),
        ({"protocol": "strikt"}, "no protocol named 'strikt'; did you mean 'strict'"),
    ],
)
def test_values_out_of_range(change: dict[str, Any], said: str, classifier: World, tmp_path: Path) -> None:
    with pytest.raises(KebenchError) as error:
        ran(classifier, tmp_path, "identity", **change)
    assert said in str(error.value)


def test_an_output_that_is_a_file(classifier: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="cannot be made"):
        ran(classifier, tmp_path / "file", "identity")


def test_labels_the_task_does_not_have(classifier: World, tmp_path: Path) -> None:
    pack = classifier.pack
    test = [replace(record, answers=("MAYBE",)) for record in pack.records("test")]
    write_pack(
        tmp_path / "pack", {**pack.splits, "test": test}, name="odd", licence="CC0",
        origin=(Origin("toy", "toy", 24),), split=pack.lock.split, seed=0,
    )  # fmt: skip
    with pytest.raises(BadSetting, match="test: r0: found the label 'MAYBE', wanted REFUTES or SUPPORTS"):
        ran(
            classifier, tmp_path / "run", "identity", pack=str(tmp_path / "pack"),
            model=str(classifier.model), targets="gold",
        )  # fmt: skip


# What is written -------------------------------------------------------------------------------------


def test_a_record_says_what_it_was_computed_on(classifier: World, tmp_path: Path) -> None:
    (record,) = ran(classifier, tmp_path, "identity", limit=3)
    assert RunRecord.read(tmp_path / "identity" / "record.json") == record
    assert record.setting.task == "toy"
    assert record.setting.pack_sha256 == classifier.pack.sha256
    assert record.setting.model == "tiny"
    assert record.setting.edits == record.scores.edits == 3
    assert record.base["test_questions"] == worlds.TEST
    assert record.base["editable"] + sum(record.base["set_aside"].values()) == worlds.TEST
    assert {"python", "torch", "transformers", "kebench"} <= record.versions.keys()
    assert record.hardware["device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert record.cost.edit_seconds_p50 <= record.cost.edit_seconds_p95
    settings = json.loads((tmp_path / "run.json").read_text())
    assert settings["setting"]["edits_sha256"] == record.setting.edits_sha256
    assert settings["edits_at_once"] == EDITS_AT_ONCE


def test_limit_0_means_all(classifier: World, tmp_path: Path) -> None:
    (record,) = ran(classifier, tmp_path, "identity", limit=0)
    assert record.setting.edits == record.base["editable"]
