"""Runs editors: makes edits, asks questions, writes rows and scores them. A run can be continued."""

import logging
import statistics as numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from kebench.edits.editor import AbstractEditor, State, check_class, editor_path, load_editor
from kebench.edits.editor_files import Width
from kebench.edits.time_limit import check_time_limit
from kebench.errors import BadFile, BadSetting, BrokenEditor, Busy, KebenchError
from kebench.files.json import write_json
from kebench.leaderboard.printed import percent
from kebench.leaderboard.spreadsheet import failures_by_reason
from kebench.models.identity import identity
from kebench.models.left_behind import checksum
from kebench.models.load import Pair, check_suits, in_float32, model_of
from kebench.models.model import AbstractModel
from kebench.running.environment import execution, peak_memory_bytes, reset_peak_memory, versions
from kebench.running.folder import (
    FAILURES,
    append_lines,
    is_older,
    keep_failures,
    key_of,
    make_folder,
    open_editor,
    open_rows,
    open_run,
    recover,
    rows_on_file,
    settle,
)
from kebench.running.plan import Plan
from kebench.running.preparation import (
    RunInputs,
    check_base,
    device_or_default,
    find_model,
    find_pack,
    make_inputs,
    model_width,
    pack_name,
    prepare_editor,
)
from kebench.running.progress import Progress
from kebench.running.settings import RunSettings
from kebench.running.shard import rows_of, shards_of
from kebench.running.streams import CHECKPOINT, Position
from kebench.scoring.metrics import BaseAnswers, retain
from kebench.scoring.protocols import protocol as find_protocol
from kebench.scoring.record import FORMAT, Cost, RunRecord, editor_folder
from kebench.scoring.regimes import FINAL, IMMEDIATE
from kebench.scoring.rows import ROWS, RowsTally, Trial, to_line
from kebench.scoring.statistics import NO_ESTIMATE, Measure
from kebench.scoring.stopping import half_width
from kebench.task import load_task

logger = logging.getLogger(__name__)


def run(
    settings: RunSettings,
    *,
    editors: Mapping[str, AbstractEditor] | None = None,
    model: AbstractModel | Pair | None = None,
    progress: Progress | None = None,
) -> tuple[Path, list[RunRecord]]:
    """Runs every editor, and returns the run's folder and a record for each.

    Args:
        settings: the settings of the run.
        editors: name → editor, to run instead of those in `settings`.
        model: a model to edit instead of the one in `settings`; or a network with its tokenizer.
        progress: shows the progress.

    Raises:
        KebenchError: a setting, a file or an editor is wrong. If an editor is stopped, the next ones run all
            the same. After an interruption, the same call continues the run.
    """
    outcome = run_all(settings, editors=editors, model=model, progress=progress)
    if outcome.stopped:
        raise outcome.error()
    return outcome.folder, outcome.records


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        folder: the folder of the run.
        records: the records of the editors that were completed.
        stopped: name of an editor → why it was stopped.
    """

    folder: Path
    records: list[RunRecord]
    stopped: Mapping[str, KebenchError]

    def error(self) -> KebenchError:
        """Returns one error for all editors that were stopped."""
        if len(self.stopped) == 1:
            return next(iter(self.stopped.values()))
        told = "; ".join(f"{name}: {error}" for name, error in self.stopped.items())
        return BrokenEditor(f"{len(self.stopped)} editors were stopped: {told}")

    def all_failed(self) -> str:
        """Returns one line about the editors whose edits all failed; empty if there are none."""
        lost = [record for record in self.records if record.scores.n_failures == record.scores.edits]
        told = "; ".join(
            f"{record.editor} ({failures_by_reason(record)}; see"
            f" {editor_folder(self.folder, record.editor) / FAILURES})"
            for record in lost
        )
        return f"every edit failed: {told}" if told else ""


def run_all(
    settings: RunSettings,
    *,
    editors: Mapping[str, AbstractEditor] | None = None,
    model: AbstractModel | Pair | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Runs every editor, also after one that was stopped. The arguments are those of `run`.

    Raises:
        KebenchError: a setting is wrong, or with `fail_fast` an edit failed.
    """
    progress = progress or Progress()
    try:
        return _run(settings, editors, model, progress)
    finally:
        progress.close()


def _run(
    settings: RunSettings,
    editors: Mapping[str, AbstractEditor] | None,
    model: AbstractModel | Pair | None,
    progress: Progress,
) -> Outcome:
    settings.check()
    if settings.edit_timeout is not None:
        check_time_limit()
    chosen = dict(editors) if editors is not None else load_editors(settings, model=model)
    plan = Plan.of(inputs_of(settings, progress, model=model), settings)
    default = Path("runs") / f"{plan.setting.task}-{plan.setting.key}"
    folder = Path(settings.output) if settings.output else default
    for name, editor in chosen.items():
        _check_serves(name, editor, plan)
    records: list[RunRecord] = []
    stopped: dict[str, KebenchError] = {}
    with writing(folder, plan):
        for name, editor in chosen.items():
            plan.inputs.model.reuse.forget()  # so that an editor finds the model as the first one does
            try:
                records.append(run_editor(name, editor, plan, folder, progress))
            except KebenchError as error:
                if plan.fail_fast or len(chosen) == 1:
                    raise
                progress.close()
                logger.warning("editor %s was stopped: %s", name, error)
                stopped[name] = error
                if name != list(chosen)[-1]:
                    plan = _with_a_sound_base(plan, settings, model, progress, error)
    return Outcome(folder, records, stopped)


def _with_a_sound_base(
    plan: Plan,
    settings: RunSettings,
    model: AbstractModel | Pair | None,
    progress: Progress,
    error: KebenchError,
) -> Plan:
    """Returns the plan for the next editor. If the last one changed the base model, it is loaded again.

    Raises:
        BrokenEditor: the model was given by the caller, and cannot be loaded again.
    """
    inputs = plan.inputs
    if identity(inputs.model) == inputs.identity:
        return plan
    if model is not None:
        raise BrokenEditor(
            f"{error}; the editors after it were not run: a model that was given cannot be loaded again"
        )
    device = device_or_default(settings.device, settings.dtype)
    sound = find_model(
        inputs.task, settings.model, inputs.pack, progress, device,
        dtype=settings.dtype, batch_size=settings.batch_size,
    )  # fmt: skip
    if inputs.protocol.stopping == "answer":
        sound = sound.judged(inputs.protocol)
    return replace(plan, inputs=replace(inputs, model=sound))


@contextmanager
def writing(folder: Path, plan: Plan) -> Iterator[None]:
    """Makes or opens the run's folder. In the block, no other process writes to it.

    Raises:
        BadSetting: it cannot be made, or holds another run.
        Busy: another process is writing it.
    """
    make_folder(folder, "--output")
    try:
        with FileLock(folder / ".lock", timeout=0):
            open_run(folder, plan)
            yield
    except Timeout:
        raise Busy(f"{folder}: another process is writing this run") from None


def width_for(settings: RunSettings, model: AbstractModel | Pair | None = None) -> Width:
    """Returns a function that tells the hidden size of a loaded model, or of the one that settings name."""
    task = load_task(settings.task)
    return partial(model_width, task, settings.model, pack_name(task, settings.pack), model)


def load_editors(
    settings: RunSettings, *, model: AbstractModel | Pair | None = None
) -> dict[str, AbstractEditor]:
    """Returns name in tables → editor, with the settings that were tuned for the task and pack.

    Args:
        settings: the settings of the run.
        model: a model to edit instead of the one in `settings`.
    """
    task = load_task(settings.task)
    pack = pack_name(task, settings.pack)
    width = width_for(settings, model)
    chosen: dict[str, AbstractEditor] = {}
    for given in settings.editors:
        name, editor = load_editor(
            given, task=task.name, pack=pack, model_width=width, changes=settings.settings
        )
        if any(editor_folder(Path(), name) == editor_folder(Path(), other) for other in chosen):
            raise BadSetting(f"editors: found '{name}' twice, wanted different names")
        chosen[name] = editor
    return chosen


def inputs_of(
    settings: RunSettings, progress: Progress, *, model: AbstractModel | Pair | None = None
) -> RunInputs:
    """Loads, or makes and caches, the task, the pack, the model and the base answers that settings name."""
    task = load_task(settings.task)
    protocol = find_protocol(settings.protocol, labels=task.family == "classifier")
    pack = find_pack(task, settings.pack)
    to_learn_on: Callable[[], AbstractModel]
    if isinstance(model, AbstractModel):
        check_suits(model, task)
        model.network.eval()
        to_learn_on = partial(in_float32, model)
    else:
        if model is None:
            device = device_or_default(settings.device, settings.dtype)
            find = partial(find_model, task, settings.model, pack, progress, device)
        else:
            device_or_default(str(model[0].device), settings.dtype)
            find = partial(model_of, *model, task)
        to_learn_on = partial(find, batch_size=settings.batch_size)
        model = find(dtype=settings.dtype, batch_size=settings.batch_size)
    return make_inputs(
        task, pack, model, protocol, settings.targets, settings.seed, progress,
        in_float32=to_learn_on if model.dtype in ("tf32", "bfloat16") else None, split=settings.split,
    )  # fmt: skip


# One editor ------------------------------------------------------------------------------------------


def run_editor(name: str, editor: AbstractEditor, plan: Plan, folder: Path, progress: Progress) -> RunRecord:
    """Makes and asks all edits that are needed and not on file, scores all rows, and returns the record.

    Raises:
        BadSetting: the editor is not made for the regime or for the model's family.
        BrokenEditor: it broke a rule.
    """
    inputs, model = plan.inputs, plan.inputs.model
    _check_serves(name, editor, plan)
    prepared = prepare_editor(name, editor, inputs, progress)
    progress.stage(f"edit {name}")
    reset_peak_memory(model.device)
    place = editor_folder(folder, name)
    place.mkdir(exist_ok=True)
    settings = open_editor(place / "editor.json", editor)
    try:
        tally, all_on_file = _write_rows(name, editor, prepared.state, plan, place, progress)
        check_base(name, inputs)
    except BrokenEditor as error:  # the rows on file stay: the base was sound when they were written
        if error.details:
            told = {"id": None, "failure": str(error), "traceback": error.details}
            append_lines(place / FAILURES, [told])
        if (place / ROWS).is_file() and not (place / ROWS).stat().st_size:
            (place / ROWS).unlink()
        raise

    times = tally.scores()
    scores = times.pop(FINAL)
    record = RunRecord(
        format=FORMAT,
        setting=plan.setting,
        editor=name,
        editor_path=editor_path(editor),
        editor_settings=settings,
        is_control=editor.is_control,
        citation=editor.citation,
        scores=scores,
        base=plan.base_facts(),
        cost=_cost(tally, prepared.seconds, model),
        versions=versions(),
        hardware=execution(model, plan.prompts()),
        times=times,
    ).sealed()
    if all_on_file:  # made by an earlier process, of which the record there tells more
        return settle(place, record)
    write_json(scores.to_json(), place / "scores.json")
    record.write(place / "record.json")
    return record


def _write_rows(
    name: str, editor: AbstractEditor, state: State, plan: Plan, place: Path, progress: Progress
) -> tuple[RowsTally, bool]:
    """Makes the rows that are not on file, shard by shard.

    Returns:
        The scores of all rows; and True if all rows were on file before.
    """
    device, single = str(plan.inputs.model.device), plan.regime.name == "single"
    key, older = key_of(plan, editor), is_older(place.parent)
    if single:
        position = recover(place / ROWS, len(plan.cases))
    else:
        position = Position.read(place / CHECKPOINT, device, key, older=older)
    n_batches = len(plan.cases) // plan.regime.batch
    enough = _Enough(plan)
    tally = RowsTally(plan.base, plan.setting)
    ids: set[str] = set()
    facts: tuple[str, ...] = ()
    if position.rows:
        for trial in rows_on_file(place / ROWS, plan, editor, position, older=older):
            tally.add(trial)
            enough.add([trial])
            ids.add(trial.answers.id)
            facts = trial.answers.also_edited
    keep_failures(place, ids)
    nothing_made, weights, told = True, checksum(plan.inputs.model), set[str]()
    with open_rows(place / ROWS, keep=position.rows) as add:
        for shard in shards_of(plan, editor):
            if shard.end // plan.regime.batch <= position.batches:
                continue
            if enough.reached():
                break
            progress(position.batches, n_batches, enough.words())
            rows = rows_of(shard, editor, state, plan, position, check=nothing_made)
            for position, trials in rows:
                if nothing_made:  # told before anything is on file, not hours later
                    check_base(name, plan.inputs)
                    nothing_made = False
                elif checksum(plan.inputs.model) != weights:
                    raise BrokenEditor(
                        f"editor {name} changed the base model's weights ({trials[0].answers.id} to"
                        f" {trials[-1].answers.id}); an edit must be a value"
                    )
                _tell_failures(name, trials, plan, place, told)
                in_force = [facts, *(trial.answers.also_edited for trial in trials)]
                add(to_line(trial, key, before) for trial, before in zip(trials, in_force, strict=False))
                facts = in_force[-1]
                if not single:
                    position.write(place / CHECKPOINT, key)
                for trial in trials:
                    tally.add(trial)
                enough.add(trials)
                progress(position.batches, n_batches, enough.words())
    progress(position.batches, position.batches, enough.words())
    return tally, nothing_made


def _tell_failures(name: str, trials: Sequence[Trial], plan: Plan, place: Path, told: set[str]) -> None:
    """Writes why edits failed, and logs a warning about the first failure for each reason.

    Raises:
        KebenchError: an edit failed, and the first one that does ends the run.
    """
    failed = [trial for trial in trials if trial.details]
    append_lines(
        place / FAILURES,
        [{"id": t.answers.id, "failure": t.answers.failure, "traceback": t.details} for t in failed],
    )
    for answers in (trial.answers for trial in trials if trial.answers.failure is not None):
        reason = str(answers.failure)
        known = next((t.details.strip().splitlines()[-1] for t in failed if t.answers is answers), "")
        said = f"editor {name}: edit {answers.id} failed: {reason}{f' ({known})' if known else ''}"
        if plan.fail_fast:
            raise KebenchError(f"{said}; the traceback is in {place / FAILURES}" if known else said)
        if reason not in told:
            told.add(reason)
            logger.warning(
                "%s; all failures are in %s" if known else "%s",
                *([said, place / FAILURES][: 2 if known else 1]),
            )


def _check_serves(name: str, editor: AbstractEditor, plan: Plan) -> None:
    """Refuses an editor that is not made for what the plan wants."""
    try:
        check_class(type(editor), f"editor {name}")
    except BadFile as error:
        raise BadSetting(str(error)) from None
    regime, family = plan.regime.name, plan.inputs.task.family
    if regime not in editor.regimes:
        raise BadSetting(f"editor {name}: found the regime {regime}, wanted {' or '.join(editor.regimes)}")
    if family not in editor.families:
        raise BadSetting(
            f"editor {name}: found a {family} model, wanted one of the family {' or '.join(editor.families)}"
        )


class _Enough:
    """Whether the edits so far tell what was wanted: by the rows on file alone, so that resuming agrees."""

    def __init__(self, plan: Plan) -> None:
        self._stopping = plan.setting.stopping
        self._protocol = plan.inputs.protocol
        self._base = BaseAnswers(plan.base)
        self._retained: list[Measure] = []
        self._known = NO_ESTIMATE

    def add(self, trials: Sequence[Trial]) -> None:
        """Adds the next edits."""
        if self._stopping is not None:
            self._retained += (retain(trial.answers, self._base, self._protocol) for trial in trials)
            self._known = self._stopping.estimate(self._retained)

    def reached(self) -> bool:
        """True once the requested precision is reached; always False when the number of edits is fixed."""
        return self._stopping is not None and self._stopping.reached(self._known)

    def words(self) -> str:
        """Returns a few words for the progress."""
        return f"retain ± {percent(half_width(self._known))}" if self._retained else ""


def _cost(tally: RowsTally, prepare_seconds: float, model: AbstractModel) -> Cost:
    # Of a sequence, an edit is made in the row of its own batch; the other rows ask about it again.
    edit = tally.edit_seconds.get(IMMEDIATE) or tally.edit_seconds[FINAL]
    answer = tally.answer_seconds

    def percentile(column: Sequence[float], percent: int) -> float:
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
