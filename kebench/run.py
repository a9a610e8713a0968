"""The loop over edits: edit, ask, write down; resumed where it was cut off; scored at the end."""

import hashlib
import json
import statistics as numbers
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from kebench.answers import BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.base_answers import AnsweredRecord
from kebench.cases import Case
from kebench.edited import AbstractEdited
from kebench.editor import AbstractEditor, State, editor_path, load_editor, settings_of
from kebench.environment import hardware, peak_memory_bytes, versions
from kebench.errors import BadFile, BadSetting, BrokenEditor, Busy
from kebench.models import AbstractModel
from kebench.preparation import Ground, device_or_default, find_model, find_pack, make_ground, prepare_editor
from kebench.progress import Progress
from kebench.protocols import protocol as find_protocol
from kebench.record import FORMAT, Cost, RunRecord, Setting, editor_folder, write_json
from kebench.run_settings import RunSettings as RunSettings
from kebench.scorer import score
from kebench.statistics import draw_sample, strata
from kebench.task import Task, load_task
from kebench.updates import fingerprint

EDITS_AT_ONCE = 8
"""Edits made and asked together. Resuming starts at a whole group, so that every group is always the same."""
OUT_OF_REACH = (torch.OutOfMemoryError, MemoryError, FloatingPointError, torch.linalg.LinAlgError)
"""What may go wrong with one edit without being anybody's mistake; it counts as a failed edit."""


def run(
    settings: RunSettings,
    *,
    editors: Mapping[str, AbstractEditor] | None = None,
    model: AbstractModel | None = None,
    progress: Progress | None = None,
) -> tuple[Path, list[RunRecord]]:
    """Runs every editor, and returns the run's folder and a record for each.

    Args:
        settings: what to do.
        editors: instances to run instead of those `settings` names.
        model: a model to edit instead of the one `settings` names.
        progress: where to tell how far it is.

    Raises:
        KebenchError: a setting, a file or an editor is wrong; an interrupted run may simply be run again.
    """
    progress = progress or Progress()
    try:
        return _run(settings, editors, model, progress)
    finally:
        progress.close()


def _run(
    settings: RunSettings,
    editors: Mapping[str, AbstractEditor] | None,
    model: AbstractModel | None,
    progress: Progress,
) -> tuple[Path, list[RunRecord]]:
    settings.check()
    chosen = dict(editors) if editors is not None else _load_editors(settings.editors)
    plan = Plan.of(ground_of(settings, progress, model=model), settings)
    default = Path("runs") / f"{plan.setting.task}-{plan.setting.key}"
    folder = Path(settings.output) if settings.output else default
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"--output: {folder} cannot be made ({type(error).__name__})") from None
    try:
        with FileLock(folder / ".lock", timeout=0):
            _open(folder, plan)
            records = [_run_editor(name, editor, plan, folder, progress) for name, editor in chosen.items()]
    except Timeout:
        raise Busy(f"{folder}: another process is writing this run") from None
    return folder, records


def _load_editors(names: Sequence[str]) -> dict[str, AbstractEditor]:
    """The editors by what tables call them, which must differ."""
    chosen: dict[str, AbstractEditor] = {}
    for given in names:
        name, editor = load_editor(given)
        if any(editor_folder(Path(), name) == editor_folder(Path(), other) for other in chosen):
            raise BadSetting(f"editors: found '{name}' twice, wanted different names")
        chosen[name] = editor
    return chosen


def ground_of(settings: RunSettings, progress: Progress, *, model: AbstractModel | None = None) -> Ground:
    """The task, pack, model and base answers that settings mean; made where missing."""
    task = load_task(settings.task)
    protocol = find_protocol(settings.protocol, labels=task.family == "classifier")
    pack = find_pack(task, settings.pack)
    model = model or find_model(task, settings.model, pack, progress, device_or_default(settings.device))
    return make_ground(task, pack, model, protocol, settings.targets, settings.seed, progress)


@dataclass(frozen=True)
class Plan:
    """What is the same for every editor of a run.

    Attributes:
        ground: task, pack, model and base answers.
        setting: what the numbers may be compared with.
        cases: the edits.
        base: the test set with the base answers, as the scorer takes it.
        retain_size: test questions an edit.
    """

    ground: Ground
    setting: Setting
    cases: tuple[Case, ...]
    base: tuple[BaseAnswer, ...]
    retain_size: int

    @staticmethod
    def of(ground: Ground, settings: RunSettings) -> "Plan":
        """The plan that settings mean."""
        task: Task = ground.task
        limit = task.edits if settings.limit is None else settings.limit
        cases = ground.cases.cases[: limit or None]
        size = task.retain_size if settings.retain is None else settings.retain
        exact = size == "exact" or size >= len(ground.test)
        setting = Setting(
            task=task.name,
            task_version=task.version,
            pack=ground.pack.name,
            pack_sha256=ground.pack.sha256,
            model=ground.model.name,
            model_fingerprint=ground.fingerprint,
            protocol=asdict(ground.protocol),
            targets=ground.targets,
            regime="single",
            retain="exact" if exact else f"sample of {size}",
            seed=ground.seed,
            edits=len(cases),
            edits_sha256=_digest((case.edit.id, case.edit.target) for case in cases),
        )
        places = strata([record.margin for record in ground.test])
        base = tuple(
            BaseAnswer(r.id, r.fact, r.prompt, r.gold, r.prediction, stratum)
            for r, stratum in zip(ground.test, places, strict=True)
        )
        return Plan(ground, setting, cases, base, len(base) if exact else int(size))

    def sample(self, case: Case) -> list[BaseAnswer]:
        """The test questions one edit is asked: the same for every editor."""
        places = tuple(row.stratum for row in self.base)
        drawn = draw_sample(places, self.retain_size, seed=self.setting.seed, edit_id=case.edit.id)
        return [self.base[index] for index in drawn]

    def base_facts(self) -> dict[str, Any]:
        """What a reader should know of the base model's answers."""
        test: Sequence[AnsweredRecord] = self.ground.test
        cases = self.ground.cases
        return {
            "test_questions": len(test),
            "test_accuracy": sum(record.correct for record in test) / len(test),
            "editable": len(cases.cases),
            "set_aside": dict(cases.set_aside),
            "paraphrases": cases.paraphrases,
            "paraphrases_set_aside": cases.disagreeing,
        }


def _digest(values: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def _open(folder: Path, plan: Plan) -> None:
    """Starts the run's folder, or makes sure that the one there is this run's."""
    file = folder / "run.json"
    setting = asdict(plan.setting)
    if file.is_file():
        try:
            there = dict(json.loads(file.read_text(encoding="utf-8"))["setting"])
        except (ValueError, KeyError, TypeError):
            raise BadFile(
                file, "not a run's settings; remove the folder or choose another --output"
            ) from None
        different = [name for name in setting if setting[name] != there.get(name)]
        if different:
            raise BadSetting(
                f"{folder}: holds a run with another {', '.join(different)}; choose another --output"
            )
        return
    ground = plan.ground
    write_json([asdict(row) for row in plan.base], folder / "base.json")
    write_json(
        {
            "setting": setting,
            "base": plan.base_facts(),
            "pack_licence": ground.pack.lock.licence,
            "edits_at_once": EDITS_AT_ONCE,
            "versions": versions(),
            "hardware": hardware(ground.model.device),
        },
        file,
    )


# One editor ------------------------------------------------------------------------------------------


def _run_editor(name: str, editor: AbstractEditor, plan: Plan, folder: Path, progress: Progress) -> RunRecord:
    """Makes and asks every edit that is not on file yet, then scores all of them."""
    ground, model = plan.ground, plan.ground.model
    prepared = prepare_editor(name, editor, ground, progress)
    progress.stage(f"edit {name}")
    place = editor_folder(folder, name)
    place.mkdir(exist_ok=True)
    _same_editor(place / "editor.json", editor)
    rows = place / "edits.jsonl"
    done = _recover(rows, len(plan.cases))
    try:
        with rows.open("a", encoding="utf-8") as file:
            for start in range(done, len(plan.cases), EDITS_AT_ONCE):
                progress(start, len(plan.cases))
                group = plan.cases[start : start + EDITS_AT_ONCE]
                found = _edit_and_ask(editor, prepared.state, plan, group)
                if start == done:  # told before anything is on file, not hours later
                    _check_base(name, ground)
                file.writelines(
                    json.dumps({**asdict(answers), **cost}, ensure_ascii=True) + "\n"
                    for answers, cost in found
                )
                file.flush()
        progress(len(plan.cases), len(plan.cases))
        _check_base(name, ground)
    except BrokenEditor:
        rows.unlink()  # or the next run would take them for answers of the base model's edits
        raise

    all_answers, costs = _read_rows(rows)
    scores = score(all_answers, plan.base, ground.protocol, seed=ground.seed)
    write_json(scores.to_json(), place / "scores.json")
    record = RunRecord(
        format=FORMAT,
        setting=plan.setting,
        editor=name,
        editor_path=editor_path(editor),
        editor_settings=settings_of(editor),
        is_control=editor.is_control,
        citation=editor.citation,
        scores=scores,
        base=plan.base_facts(),
        cost=_cost(costs, prepared.seconds, model),
        versions=versions(),
        hardware=hardware(model.device),
    )
    record.write(place / "record.json")
    return record


def _check_base(name: str, ground: Ground) -> None:
    """Refuses an editor that wrote to the base model."""
    if fingerprint(ground.model.network) != ground.fingerprint:
        raise BrokenEditor(f"editor {name} changed the base model's weights; an edit must be a value")


def _same_editor(file: Path, editor: AbstractEditor) -> None:
    """Refuses to go on with another editor's rows."""
    found = {"editor": editor_path(editor), "settings": settings_of(editor)}
    try:
        as_read = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadSetting(f"{found['editor']}: its settings cannot be recorded ({error})") from None
    if not file.is_file():
        write_json(found, file)
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise BadFile(
            file, "not an editor's settings; remove the folder or choose another --output"
        ) from None
    if there != as_read:
        raise BadSetting(f"{file.parent}: holds rows of other settings; remove it or choose another --output")


def _recover(rows: Path, total: int) -> int:
    """How many edits are on file, after cutting off what an interrupted write left of a group."""
    if not rows.is_file():
        return 0
    lines = rows.read_bytes().splitlines(keepends=True)
    whole = len(lines) if not lines or lines[-1].endswith(b"\n") else len(lines) - 1
    kept = whole if whole == total else whole - whole % EDITS_AT_ONCE
    with rows.open("r+b") as file:
        file.truncate(sum(map(len, lines[:kept])))
    return kept


def _edit_and_ask(
    editor: AbstractEditor, state: State, plan: Plan, cases: Sequence[Case]
) -> list[tuple[EditAnswers, dict[str, float]]]:
    """Edits one group and asks each edited model all it is asked; where the group fails, one by one."""
    started = time.perf_counter()
    try:
        # Only a control may look at what it will be asked.
        edits = [
            replace(case.edit, paraphrases=case.paraphrases) if editor.is_control else case.edit
            for case in cases
        ]
        edited = editor.edit(state, plan.ground.model, edits)
        made = time.perf_counter()
        found = _ask(edited, cases, plan)
        cost = {
            "edit_seconds": (made - started) / len(cases),
            "answer_seconds": (time.perf_counter() - made) / len(cases),
        }
        return [(answers, cost) for answers in found]
    except OUT_OF_REACH as error:
        if len(cases) == 1:
            cost = {"edit_seconds": time.perf_counter() - started, "answer_seconds": 0.0}
            return [(_failed(cases[0], plan, type(error).__name__.lstrip("_")), cost)]
    # Outside the handler, which would keep what the failed attempt held alive.
    return [row for case in cases for row in _edit_and_ask(editor, state, plan, [case])]


def _ask(edited: AbstractEdited, cases: Sequence[Case], plan: Plan) -> list[EditAnswers]:
    """x, its paraphrases and the case's sample, of every edited model of a group, in one go."""
    samples = [plan.sample(case) for case in cases]
    questions = [
        (question, index, guess)
        for index, (case, sample) in enumerate(zip(cases, samples, strict=True))
        if index not in edited.failures
        for question, guess in (
            (case.edit.prompt, case.edit.target),
            *((text, case.edit.target) for text in case.paraphrases),
            *((row.prompt, row.answer) for row in sample),
        )
    ]
    said = iter(
        edited.answer(
            [question for question, _, _ in questions],
            [index for _, index, _ in questions],
            [guess for _, _, guess in questions],
            beams=plan.ground.protocol.beams,
        )
    )
    whole = [index for index in range(len(cases)) if index not in edited.failures]
    prefers = edited.prefers(
        [cases[index].edit.prompt for index in whole], whole, [cases[index].edit.target for index in whole]
    )
    forced = dict(zip(whole, prefers, strict=True)) if prefers is not None else {}
    found = []
    for index, (case, sample) in enumerate(zip(cases, samples, strict=True)):
        if index in edited.failures:
            found.append(_failed(case, plan, edited.failures[index]))
            continue
        found.append(
            EditAnswers(
                id=case.edit.id,
                fact=case.fact,
                prompt=case.edit.prompt,
                prediction=case.edit.prediction,
                target=case.edit.target,
                answer=next(said),
                forced=forced.get(index),
                paraphrases=tuple(ParaphraseAnswer(text, next(said)) for text in case.paraphrases),
                sample={row.id: next(said) for row in sample},
            )
        )
    return found


def _failed(case: Case, plan: Plan, reason: str) -> EditAnswers:
    """A failed edit: asked the same, with no answer to anything."""
    return EditAnswers(
        id=case.edit.id,
        fact=case.fact,
        prompt=case.edit.prompt,
        prediction=case.edit.prediction,
        target=case.edit.target,
        answer=None,
        paraphrases=tuple(ParaphraseAnswer(text, None) for text in case.paraphrases),
        sample={row.id: None for row in plan.sample(case)},
        failure=reason,
    )


# What is on file -------------------------------------------------------------------------------------


def read_edits(rows: Path) -> list[EditAnswers]:
    """The answers of one editor's finished run.

    Raises:
        BadFile: a line is not what a run writes.
    """
    return _read_rows(rows)[0]


def read_base(folder: Path) -> list[BaseAnswer]:
    """The test set of a run's folder, as the base model answers it.

    Raises:
        BadFile: the file is not what a run writes.
    """
    file = folder / "base.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [BaseAnswer(**{**row, "gold": tuple(row["gold"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        raise BadFile(file, "not a run's base answers") from None


def _read_rows(rows: Path) -> tuple[list[EditAnswers], list[tuple[float, float]]]:
    answers, costs = [], []
    for number, line in enumerate(rows.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            costs.append((fields.pop("edit_seconds"), fields.pop("answer_seconds")))
            asked = tuple(ParaphraseAnswer(**each) for each in fields.pop("paraphrases"))
            answers.append(EditAnswers(**fields, paraphrases=asked))
        except (ValueError, TypeError, KeyError):
            raise BadFile(
                rows, "not an edit's answers; remove the file to start over", place=number
            ) from None
    return answers, costs


def _cost(costs: Sequence[tuple[float, float]], prepare_seconds: float, model: AbstractModel) -> Cost:
    edit, answer = (sorted(column) for column in zip(*costs, strict=True))

    def percentile(column: list[float], percent: int) -> float:
        if len(column) == 1:
            return round(column[0], 4)
        return round(numbers.quantiles(column, n=100, method="inclusive")[percent - 1], 4)

    return Cost(
        edit_seconds_p50=percentile(edit, 50),
        edit_seconds_p95=percentile(edit, 95),
        answer_seconds_p50=percentile(answer, 50),
        answer_seconds_p95=percentile(answer, 95),
        prepare_seconds=prepare_seconds,
        peak_memory_bytes=peak_memory_bytes(model.device),
    )
