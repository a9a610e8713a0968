"""Runs streams of edits: a model is edited again and again, and asked at the times of the regime.

After every batch, a checkpoint is written: the update of the base model's weights so far, and what the editor
carries. An interrupted stream continues from there, with the same rows.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from kebench.edits.calls import Caller
from kebench.edits.editor import AbstractEditor, Carried, State
from kebench.edits.updates import Update
from kebench.edits.versions import Routed, Version, Versions, in_force
from kebench.errors import BadFile
from kebench.files.tensors import load_tensors, save_tensors
from kebench.models.changes import Dense, LowRank
from kebench.models.numerics import numerics
from kebench.running.cases import Case
from kebench.running.plan import Plan
from kebench.running.trial import OUT_OF_REACH, ask, details_of, failed, reason_of, requests
from kebench.scoring.answers import EditAnswers
from kebench.scoring.regimes import FINAL, IMMEDIATE, after
from kebench.scoring.rows import REMEDY, Trial

logger = logging.getLogger(__name__)

CHECKPOINT = "stream.safetensors"
"""The file in an editor's folder with the checkpoint of its streams."""
ASKED_AT_ONCE = 8
"""The number of edits whose questions a version is asked together."""


@dataclass(frozen=True)
class Position:
    """How far the streams of one editor are.

    Attributes:
        batches: the number of batches that are made, over all streams.
        rows: the number of rows on file.
        update: the update of the base model's weights in the present stream; empty at its beginning.
        carried: what the editor carries in this stream; None at its beginning.
        failures: id of an edit of this stream → why it failed.
    """

    batches: int = 0
    rows: int = 0
    update: Update = field(default_factory=Update)
    carried: Carried | None = None
    failures: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path, made_of: str) -> None:
        """Writes the checkpoint atomically. `made_of` is the key of the run's rows."""
        tensors: dict[str, Tensor] = {}
        for name, change in self.update.items():
            tensors |= {f"update/{name}/{part}": tensor for part, tensor in vars(change).items()}
        carried = self.carried or Carried()
        tensors |= {f"carried/{name}": tensor for name, tensor in carried.tensors.items()}
        facts = {
            "batches": self.batches,
            "rows": self.rows,
            "begun": self.carried is not None,
            "data": carried.data,
            "failures": self.failures,
        }
        save_tensors(tensors, path, {"position": json.dumps(facts, sort_keys=True)}, made_of=made_of)

    @staticmethod
    def read(path: Path, device: str, made_of: str, *, older: bool = False) -> "Position":
        """Reads the checkpoint. Without a file, it returns the beginning.

        Args:
            path: the file.
            device: the device for its tensors.
            made_of: the key of the run's rows.
            older: True if the run is older than checksums, so that the file may have none.

        Raises:
            BadFile: it is not what `write` wrote for this run and editor.
        """
        if not path.is_file():
            return Position()
        try:
            tensors, texts = load_tensors(path, made_of, older=older)
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
            facts = json.loads(texts["position"])
            parts: dict[str, dict[str, Tensor]] = {}
            for key in [key for key in tensors if key.startswith("update/")]:
                _, name, part = key.split("/")
                parts.setdefault(name, {})[part] = tensors[key]
            update = Update({n: Dense(**p) if "delta" in p else LowRank(**p) for n, p in parts.items()})
            own = {
                key.removeprefix("carried/"): tensor
                for key, tensor in tensors.items()
                if key.startswith("carried/")
            }
            carried = Carried(own, facts["data"]) if facts["begun"] else None
            return Position(facts["batches"], facts["rows"], update, carried, facts["failures"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadFile(path, f"not the checkpoint of this run's streams ({error}); {REMEDY}") from None


@dataclass(frozen=True)
class Step:
    """One batch of one stream, and what was made before it.

    Attributes:
        earlier: the cases of the stream's earlier batches, in their order.
        batch: the cases that are edited now.
        is_last: True for the last batch of the stream.
    """

    earlier: tuple[Case, ...]
    batch: tuple[Case, ...]
    is_last: bool

    @property
    def so_far(self) -> tuple[Case, ...]:
        """All cases that the stream has edited after this batch."""
        return (*self.earlier, *self.batch)


def steps_of(plan: Plan, stream: Sequence[Case], made: int = 0) -> Iterator[Step]:
    """Yields the batches of a stream in order, without the first `made` ones."""
    size = plan.regime.batch
    for place in range(made * size, len(stream), size):
        yield Step(
            earlier=tuple(stream[:place]),
            batch=tuple(stream[place : place + size]),
            is_last=place + size >= len(stream),
        )


def run_stream(
    editor: AbstractEditor, state: State, plan: Plan, first: int, stream: Sequence[Case], position: Position
) -> Iterator[tuple[Position, list[Trial]]]:
    """Makes the batches of a stream that are not made yet, and yields the position and the rows after each.

    A batch fails if the editor raises an error or returns weights that are not finite. Its edits count as
    wrong whenever they are asked about, and the stream continues from the version before it.

    Args:
        editor: the editor.
        state: its state.
        plan: the plan, which has the questions and their times.
        first: the number of batches in the streams before this one.
        stream: the edits.
        position: how far the streams are.
    """
    base = plan.inputs.model
    made = position.batches - first
    if made == 0:
        carried = Caller(editor, base, plan.setting.edit_timeout).begin(state)
        position = replace(position, update=Update(), carried=carried, failures={})
    for step in steps_of(plan, stream, made):
        with numerics(base.device, tf32=base.tf32):
            started = time.perf_counter()
            position, version, details = _made(editor, state, plan, step, position)
            seconds = (time.perf_counter() - started) / len(step.batch)
            trials = list(_asked(plan, step, position, version, seconds))
        told = {case.edit.id: details for case in step.batch}
        trials = [replace(trial, details=trial.details or told.pop(trial.answers.id, "")) for trial in trials]
        position = replace(position, batches=position.batches + 1, rows=position.rows + len(trials))
        yield position, trials


def _made(
    editor: AbstractEditor, state: State, plan: Plan, step: Step, position: Position
) -> tuple[Position, Version, str]:
    """Makes a batch. Returns the position after it, the version of the base model, and a text.

    The text has the details of a batch that failed, for the file of failures.
    """
    base = plan.inputs.model
    carried = position.carried
    assert carried is not None
    start = in_force(base, position.update)
    caller = Caller(editor, base, plan.setting.edit_timeout)
    why, details = None, ""
    try:
        (version,), (carried,) = caller.edit(state, start, [requests(editor, step.batch)], [carried])
        why = Versions(start, [version]).failures.get(0)
    except OUT_OF_REACH as error:
        version, why, details = {}, reason_of(error), details_of(error)
    if why is not None:
        failures = position.failures | dict.fromkeys((case.edit.id for case in step.batch), why)
        before = caller.remembering(state, start, carried) or position.update
        return replace(position, failures=failures), before, details
    if isinstance(version, Routed):
        return replace(position, carried=carried), version, ""
    update = position.update.plus(version, base.network)
    return replace(position, carried=carried, update=update), update, ""


def _asked(
    plan: Plan, step: Step, position: Position, version: Version, edit_seconds: float
) -> Iterator[Trial]:
    """Yields the rows of one batch: those of its own edits, and of all edits so far at the regime's times."""
    base = plan.inputs.model
    if isinstance(version, Routed):
        versions = Versions(base, [version])
    else:
        versions = Versions(in_force(base, version), [{}])
    facts = tuple(dict.fromkeys(case.fact for case in step.so_far if case.edit.id not in position.failures))
    for moment, cases in asked_after(plan, step).items():
        for place in range(0, len(cases), ASKED_AT_ONCE):
            group = cases[place : place + ASKED_AT_ONCE]
            started = time.perf_counter()
            rows = _rows(plan, versions, group, position)
            seconds = (time.perf_counter() - started) / len(group)
            made_now = moment == IMMEDIATE or plan.regime.name == "batch"
            for answers, details in rows:
                is_alone = all(fact == answers.fact for fact in facts)
                yield Trial(
                    replace(answers, also_edited=() if is_alone else facts),
                    edit_seconds if made_now else 0.0,
                    seconds,
                    moment,
                    details,
                )


def asked_after(plan: Plan, step: Step) -> dict[str, Sequence[Case]]:
    """Returns time → the cases that are asked about after one batch, in the order of their rows."""
    asked: dict[str, Sequence[Case]] = {}
    if plan.regime.name == "sequential":
        asked[IMMEDIATE] = step.batch
        if len(step.so_far) in plan.regime.ask_after:
            asked[after(len(step.so_far))] = _standing(step.so_far)
    if step.is_last:
        asked[FINAL] = _standing(step.so_far)
    return asked


def _rows(
    plan: Plan, versions: Versions, cases: Sequence[Case], position: Position
) -> list[tuple[EditAnswers, str]]:
    """Returns the answers of one version to the questions of some edits; a failed edit has none.

    Each comes with the details of an edit that failed while it was asked about, for the file of failures.
    """
    whole = [case for case in cases if case.edit.id not in position.failures]
    found: dict[str, tuple[EditAnswers, str]] = {}
    try:
        answered = ask(versions, whole, plan, [0] * len(whole))
        found = {case.edit.id: (answers, "") for case, answers in zip(whole, answered, strict=True)}
    except OUT_OF_REACH as error:
        if len(whole) == 1:
            found = {whole[0].edit.id: (failed(whole[0], plan, reason_of(error)), details_of(error))}
    if len(found) < len(whole):  # after the handler, which would keep the tensors of the failed attempt
        for case in whole:
            found[case.edit.id] = _rows(plan, versions, [case], position)[0]
    return [
        found.get(case.edit.id) or (failed(case, plan, position.failures[case.edit.id]), "") for case in cases
    ]


def _standing(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases whose fact is not edited again later: the last edit of a fact counts."""
    last = {case.fact: case for case in cases}
    return [case for case in cases if last[case.fact] is case]
