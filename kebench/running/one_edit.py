"""Makes one edit by itself, or an edit of a run again, to inspect it and to export it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kebench.edits.calls import Caller, FailedEdit
from kebench.edits.edit import Edit
from kebench.edits.editor import AbstractEditor, load_editor
from kebench.edits.updates import Update
from kebench.edits.versions import Routed, Versions, in_force
from kebench.errors import BadFile, BadSetting, BrokenEditor, NotFound
from kebench.files.json import write_json
from kebench.models.identity import fingerprint, identity
from kebench.models.model import AbstractModel
from kebench.models.numerics import numerics
from kebench.running.cases import Cases
from kebench.running.folder import is_older
from kebench.running.preparation import (
    RunInputs,
    device_or_default,
    find_model,
    find_pack,
    model_width,
    prepare_editor,
)
from kebench.running.progress import Progress, Silent
from kebench.running.trial import OUT_OF_REACH
from kebench.scoring.protocols import Targets, protocol
from kebench.scoring.record import Setting, editor_folder
from kebench.scoring.rows import ROWS, read_trials, rows_key
from kebench.task import Task, load_task, task_names


@dataclass(frozen=True)
class Asked:
    """A question, with the answers of the model before the edit and after it."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Edited:
    """An edit that was made.

    Attributes:
        edit: the request.
        editor: the name of the editor.
        answers: the answers to the prompt, and then to the other questions.
        update: the update of the base model's weights; None if the editor changes no weights.
        base: the model before the edit.
        model: the model after the edit, with a network of its own; None if the editor changes no weights.
    """

    edit: Edit
    editor: str
    answers: tuple[Asked, ...]
    update: Update | None
    base: AbstractModel
    model: AbstractModel | None

    @property
    def network(self) -> PreTrainedModel:
        """The edited network, a transformers model like any other.

        Raises:
            BadSetting: the editor changes no weights.
        """
        if self.model is None:
            raise self._without_weights()
        network: PreTrainedModel = self.model.network
        return network

    def save(self, folder: str | Path) -> Path:
        """Writes the edited model as a transformers folder, with the update beside it.

        Raises:
            BadSetting: the editor changes no weights.
        """
        if self.model is None:
            raise self._without_weights()
        assert self.update is not None
        folder = Path(folder)
        self.model.save(folder)
        self.update.save(folder / "update.safetensors")
        write_json(
            {
                "editor": self.editor,
                "base": self.base.name,
                "prompt": self.edit.prompt,
                "target": self.edit.target,
            },
            folder / "edit.json",
        )
        return folder

    def _without_weights(self) -> BadSetting:
        return BadSetting(f"editor {self.editor} changes no weights, so there is no edited network")

    def to_lora(self, folder: str | Path, *, rank: int | None = None) -> dict[str, float]:
        """Writes the edit as a LoRA adapter for peft, and returns the residuals: see `Update.to_lora`.

        Raises:
            BadSetting: the editor changes no weights, or its update cannot be an adapter.
        """
        if self.update is None:
            raise BadSetting(f"editor {self.editor} changes no weights, so there is no adapter")
        place = str(self.base.network.config._name_or_path) or self.base.name
        return self.update.to_lora(folder, self.base.network, place, rank)


def edit(
    editor: str,
    *,
    prompt: str,
    target: str,
    task: str | None = None,
    model: str | None = None,
    pack: str | None = None,
    subject: str | None = None,
    also: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Edited:
    """Makes one edit of a model, and asks the model before and after it.

    Args:
        editor: the editor, as `kebench run` takes it. If it has to be trained first, it is trained now.
        prompt: the prompt x.
        target: the answer a that the model should give.
        task: the task, which says how the model is asked and what the editor is trained on. By default the
            task that has a model of that name.
        model: one of the task's models, a folder, or a Hub id; by default the pack's.
        pack: the pack that the editor is trained on; by default the task's.
        subject: what the prompt is about, a part of the prompt. Some editors need it.
        also: other prompts to ask before and after.
        settings: settings of the editor that replace those of its file.
        device: the device; by default `cuda` if there is one.
        progress: shows the progress.

    Raises:
        KebenchError: a name or a setting is wrong, or the editor could not make the edit.
    """
    progress = progress or Silent()
    found_task = load_task(task) if task is not None else _task_of(model)
    inputs = _inputs(found_task, model, pack, device, progress)
    name, made = load_editor(
        editor, task=found_task.name, pack=inputs.pack.name, changes=settings,
        model_width=partial(model_width, found_task, model, inputs.pack.name),
    )  # fmt: skip
    prediction = inputs.model.answer([prompt])[0]
    request = Edit("edit", prompt, prediction, target, subject)
    return _made(name, made, request, also, inputs, progress)


def edit_again(
    run: str | Path,
    id_: str,
    *,
    editor: str | None = None,
    task: str | None = None,
    model: str | None = None,
    also: Sequence[str] = (),
    device: str | None = None,
    progress: Progress | None = None,
) -> Edited:
    """Makes an edit of a run again.

    Args:
        run: the folder of a run in the regime `single`.
        id_: the edit's id.
        editor: the editor that made the edit. It is needed if the run has several editors.
        task: the path of the task's file, if the task is not one of kebench's.
        model: the base model, if its name in the run is not enough to find it.
        also: other prompts to ask before and after.
        device: the device; by default `cuda` if there is one.
        progress: shows the progress.

    Raises:
        NotFound: the run has no such editor, or no such edit.
        BadSetting: the run has another regime, or the model is not the one that was edited.
        BadFile: the folder does not hold a run.
    """
    run, progress = Path(run), progress or Silent()
    setting = _setting(run)
    if setting.regime != "single":
        raise BadSetting(f"{run}: found a run of the regime {setting.regime}, wanted single")
    names = sorted(place.parent.name for place in run.glob("*/record.json"))
    if editor is None and len(names) != 1:
        raise BadSetting(f"--editor: missing, wanted one of the editors of {run}: {', '.join(names)}")
    place = editor_folder(run, editor or names[0])
    if not (place / "record.json").is_file():
        raise NotFound("editor of the run", editor or "", names)
    kept = _editor_of(place)
    key = rows_key(setting, kept["editor"], kept["settings"])
    row, ids = None, []
    for trial in read_trials(place / ROWS, key, older=is_older(run)):
        ids.append(trial.answers.id)
        row = trial.answers if trial.answers.id == id_ else row
    if row is None:
        raise NotFound(f"edit of {place}", id_, ids)

    found = load_task(task or setting.task)
    inputs = _inputs(found, model or setting.model, setting.pack, device, progress, setting)
    if inputs.identity != setting.model_fingerprint:
        raise BadSetting(
            f"model {inputs.model.name}: is not the model of the run; give the model of the run with --model"
        )
    subjects = {record.id: record.subject for record in inputs.pack.records(setting.split)}
    request = Edit(row.id, row.prompt, row.prediction, row.target, subjects.get(row.id))
    _, made = load_editor(kept["editor"], changes=kept["settings"])
    return _made(place.name, made, request, also, inputs, progress)


def _made(
    name: str,
    editor: AbstractEditor,
    request: Edit,
    also: Sequence[str],
    inputs: RunInputs,
    progress: Progress,
) -> Edited:
    base = inputs.model
    if inputs.task.family not in editor.families:
        raise BadSetting(
            f"editor {name}: found a {inputs.task.family} model, wanted {' or '.join(editor.families)}"
        )
    if inputs.task.labels and request.target not in inputs.task.labels:
        raise NotFound("label", request.target, inputs.task.labels)
    state = prepare_editor(name, editor, inputs, progress).state
    prompts = [request.prompt, *also]
    with numerics(base.device, tf32=base.tf32):
        try:
            caller = Caller(editor, base)
            (version,), _ = caller.edit(state, base, [[request]], [caller.begin(state)])
            versions = Versions(base, [version])
            if versions.failures:
                raise BadSetting(f"editor {name}: could not make the edit ({versions.failures[0]})")
            before = base.answer(prompts)
            after = versions.answer(prompts, [0] * len(prompts), before)
        except FailedEdit as error:
            raise BadSetting(f"editor {name}: could not make the edit ({error})") from None
        except OUT_OF_REACH as error:
            if isinstance(error, BadSetting):
                raise
            raise BadSetting(f"editor {name}: could not make the edit ({type(error).__name__})") from None
    if fingerprint(base.network) != inputs.fingerprint:
        raise BrokenEditor(f"editor {name} changed the base model's weights, wanted it to return its changes")
    answers = tuple(Asked(*each) for each in zip(prompts, before, after, strict=True))
    if isinstance(version, Routed):
        return Edited(request, name, answers, None, base, None)
    update = Update.of(version)
    return Edited(request, name, answers, update, base, in_force(base, update))


def _inputs(
    task: Task,
    model: str | None,
    pack: str | None,
    device: str | None,
    progress: Progress,
    setting: Setting | None = None,
) -> RunInputs:
    """Returns what an editor is prepared with, without base answers."""
    found = find_pack(task, pack)
    loaded = find_model(task, model, found, progress, device_or_default(device))
    rules = protocol("strict" if setting is None else setting.protocol["name"], labels=bool(task.labels))
    if rules.stopping == "answer":
        loaded = loaded.judged(rules)
    targets: Targets = "gold" if setting is not None and setting.targets == "gold" else "alternative"
    weights = fingerprint(loaded.network)
    seed = 0 if setting is None else setting.seed
    nothing = Cases((), {}, 0, 0)
    return RunInputs(
        task, found, loaded, rules, targets, seed, identity(loaded, weights), weights, (), nothing
    )  # fmt: skip


def _task_of(model: str | None) -> Task:
    """Returns the only task that has a model of that name."""
    tasks = [load_task(name) for name in task_names()]
    having = [task for task in tasks if model in task.models]
    if len(having) != 1:
        raise BadSetting("--task: missing, wanted the task that says how the model is asked")
    return having[0]


def _editor_of(place: Path) -> dict[str, Any]:
    """Returns the path and the settings of the editor in a run's folder."""
    file = place / "editor.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {"editor": str(found["editor"]), "settings": dict(found["settings"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise BadFile(file, "not an editor's settings; remove it, and run the same command again") from None


def _setting(run: Path) -> Setting:
    file = run / "run.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))["setting"]
        return Setting(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        raise BadFile(file, "not a run's settings") from None
