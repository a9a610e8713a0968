"""Loads, or makes and caches, what a run needs: the pack, the base model, its answers, editors' states."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import AutoConfig

from kebench.edits.calls import Caller
from kebench.edits.editor import (
    AbstractEditor,
    AbstractTrainedEditor,
    RetainQuestion,
    State,
    TrainingEdit,
    TrainingSet,
    Workspace,
    editor_key,
    editor_path,
    settings_of,
)
from kebench.errors import BadSetting, BrokenEditor, KebenchError, NotFound, did_you_mean
from kebench.files.card import is_complete, remove_damaged_card, write_card
from kebench.files.checked import read_object, read_or_none, read_sealed, write_sealed
from kebench.files.home import home, pack_folder
from kebench.files.shipped import MODEL_CARD, STATE, STATE_CARD, shipped_folder, shipped_state
from kebench.files.tensors import save_tensors
from kebench.models.identity import fingerprint, identity
from kebench.models.load import Pair, load_config, load_model
from kebench.models.model import AbstractModel
from kebench.models.numerics import numerics
from kebench.models.packaged import PACKAGED, default_folder, made_folder
from kebench.models.settings import BatchSize, DType
from kebench.packs.build import build_pack
from kebench.packs.pack import LOCK, Pack, read_pack
from kebench.packs.record import Record
from kebench.running.base_answers import AnsweredRecord, answered, predicted, takes_stored
from kebench.running.cases import Case, Cases, make_cases
from kebench.running.progress import Progress
from kebench.running.settings import Split
from kebench.scoring.protocols import Protocol, Targets
from kebench.task import ModelRecipe, PackRecipe, Task


def find_pack(task: Task, name: str | None) -> Pack:
    """Returns the pack of that name or in that folder; by default the task's.

    A pack that is not built yet is built from files in `$KEBENCH_DATA`, or from the Hub.

    Raises:
        NotFound: there is no such pack.
        BadSetting: the pack is not built, and its sources are missing. The message has the command that
            builds it.
        BadFile: the pack does not agree with its lock.
    """
    name = name or task.default_pack
    if name not in task.packs:
        if not Path(name).exists():
            raise NotFound("pack", name, task.packs)
        return read_pack(Path(name))
    if (shipped := shipped_folder(task.packs[name].shipped, LOCK)) is not None:
        return read_pack(shipped)
    folder = pack_folder(task.name, name)
    if folder.is_dir():
        pack = read_pack(folder)
        if not _made_by(task.packs[name], pack):
            raise BadSetting(
                f"{folder}: was built by another recipe; build it again: kebench data build {task.name}"
                f" --pack {name} --from FOLDER"
            )
        return _told(task.packs[name], pack)
    data = os.environ.get("KEBENCH_DATA")
    if data is None and any(source.revision is None for source in task.packs[name].sources):
        files = ", ".join(source.path for source in task.packs[name].sources)
        raise BadSetting(
            f"pack {name} is not built yet: kebench data build {task.name} --pack {name} --from FOLDER"
            f" (a folder with {files}), or set KEBENCH_DATA to that folder"
        )
    return build_pack(task, name, Path(data or "."), folder)


def pack_name(task: Task, name: str | None) -> str:
    """Returns the name in tables of the pack of that name or in that folder; by default the task's.

    Raises:
        KebenchError: the name is a folder that holds no pack.
    """
    name = name or task.default_pack
    return name if name in task.packs else find_pack(task, name).name


def _made_by(recipe: PackRecipe, pack: Pack) -> bool:
    """Returns True if a pack has the sources that a recipe pins, read and split as the recipe says.

    A lock that is older than `answers_are` does not have that field. Answers then were taken for the truth.
    """
    held = {origin.sha256 or origin.revision: origin for origin in pack.lock.origin}
    for source in recipe.sources:
        if (pin := source.sha256 or source.revision) is None:
            continue
        origin = held.get(pin)
        if origin is None or origin.split != source.split:
            return False
        if (origin.answers_are or (source.answers_are and "truth")) != source.answers_are:
            return False
    return dict(pack.lock.split) == ({} if recipe.keeps_splits else dict(recipe.split))


def _told(recipe: PackRecipe, pack: Pack) -> Pack:
    """Returns the pack with the `answers_are` of its recipe, because an old lock does not have that field."""
    told = {source.sha256: source.answers_are for source in recipe.sources if source.answers_are}
    origin = tuple(
        replace(each, answers_are=told.get(each.sha256, each.answers_are)) for each in pack.lock.origin
    )
    return replace(pack, lock=replace(pack.lock, origin=origin))


def device_or_default(device: str | None, dtype: DType = "float32") -> str:
    """Returns the requested device; without one, `cuda` if there is one, otherwise `cpu`.

    Raises:
        BadSetting: this machine has no such device, or the device cannot compute in `dtype`.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    here = ["cpu", *(["cuda", *gpus] if gpus else []), *(["mps"] if torch.mps.is_available() else [])]
    device = device or ("cuda" if gpus else "cpu")
    if device not in here:
        raise BadSetting(f"--device: found '{device}', wanted one of this machine: {', '.join(here)}")
    if dtype == "tf32" and not device.startswith("cuda"):
        raise BadSetting(f"--dtype: found tf32 with the device {device}, wanted cuda: others do not have it")
    return device


def find_model(
    task: Task,
    name: str | None,
    pack: Pack,
    progress: Progress,
    device: str,
    *,
    dtype: DType = "float32",
    batch_size: BatchSize = "auto",
) -> AbstractModel:
    """Loads the task's model of that name, a packaged model, or a folder or Hub model.

    A model of the task that is not shipped with kebench is trained now, if it is not trained yet.

    Raises:
        KebenchError: the model cannot be loaded or trained, or does not suit the task.
    """
    load = partial(load_model, task=task, device=device, dtype=dtype, batch_size=batch_size)
    name = name or task.model_for(pack.name)
    if name not in task.models:
        try:
            return load(str(made_folder(name)) if name in PACKAGED else name)
        except NotFound as error:
            raise KebenchError(f"{error}{did_you_mean(name, [*task.models, *PACKAGED])}") from None
    if (shipped := shipped_folder(task.models[name].shipped, MODEL_CARD)) is not None:
        return load(str(shipped))
    folder = trained_model_folder(task, name, pack)
    train_model(task, name, pack, folder, progress, device)
    return load(str(folder))


def model_width(
    task: Task, name: str | None, pack: str, model: AbstractModel | Pair | None = None
) -> int | None:
    """Returns the hidden size of a model, as `find_model` finds it, without loading or training it.

    Args:
        task: the task.
        name: one of the task's models, a packaged model, a folder, or a Hub id; by default the pack's.
        pack: the name of the pack.
        model: a loaded model, which is taken instead.

    Returns:
        The hidden size; None if the model cannot be found (`find_model` says why), or tells none.
    """
    if model is not None:
        config = (model.network if isinstance(model, AbstractModel) else model[0]).config
    else:
        name = name or task.model_for(pack)
        recipe = task.models.get(name, ModelRecipe(start=name))
        if recipe.start is None:
            config = AutoConfig.for_model(**recipe.architecture)
        else:
            try:
                config = load_config(str(default_folder(name)) if name in PACKAGED else recipe.start)
            except KebenchError:
                return None
    width: int | None = getattr(config.get_text_config(), "hidden_size", None)  # whatever its name in files
    return width


def trained_model_folder(task: Task, name: str, pack: Pack) -> Path:
    """Returns the folder of a trained model. Its name depends on the recipe, the task and the pack."""
    from kebench.training.base import training_key

    key = training_key(task.models[name], task, pack.sha256)
    return home() / "models" / f"{name.replace('/', '--')}--{key[:8]}"


def train_model(task: Task, name: str, pack: Pack, folder: Path, progress: Progress, device: str) -> None:
    """Fine-tunes one of a task's models on a pack, unless `folder` holds the complete model.

    The card in `folder` has its accuracy. If a file is damaged, the model is trained again.
    """
    from kebench.training.base import train_base, training_key

    key = training_key(task.models[name], task, pack.sha256)
    if is_complete(folder, MODEL_CARD, made_of=key):
        return
    progress.stage(f"train {name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not remove_damaged_card(folder, MODEL_CARD, made_of=key):
            with numerics(torch.device(device)):
                train_base(
                    name, task.models[name], task, pack.splits, folder,
                    pack_sha256=pack.sha256, device=device, report=progress,
                )  # fmt: skip


@dataclass(frozen=True)
class RunInputs:
    """What all editors of a run share.

    Attributes:
        task, pack, model, protocol, targets, seed: what the settings name, loaded.
        identity: the identity of the base model (`kebench.models.identity`).
        fingerprint: the fingerprint of its weights before any edit.
        test: the records of the split, with the base model's answers, from which the protocol draws O^x. Of
            the split dev, only the half that no editor is trained with.
        cases: the edits of these records.
        in_float32: loads the model in float32, in which editors learn; None if `model` is in float32.
        split: the split whose records are edited.
    """

    task: Task
    pack: Pack
    model: AbstractModel
    protocol: Protocol
    targets: Targets
    seed: int
    identity: str
    fingerprint: str
    test: tuple[AnsweredRecord, ...]
    cases: Cases
    in_float32: Callable[[], AbstractModel] | None = None
    split: Split = "test"

    def to_learn_on(self) -> "RunInputs":
        """Returns the same inputs with the model in float32, so that all number types have the same states.

        The test set and its cases stay as they are, because no editor learns from them.
        """
        if self.in_float32 is None:
            return self
        model = self.in_float32()
        weights = fingerprint(model.network)
        return replace(
            self, model=model, identity=identity(model, weights), fingerprint=weights, in_float32=None
        )


def make_inputs(
    task: Task,
    pack: Pack,
    model: AbstractModel,
    protocol: Protocol,
    targets: Targets,
    seed: int,
    progress: Progress,
    *,
    in_float32: Callable[[], AbstractModel] | None = None,
    split: Split = "test",
) -> RunInputs:
    """Computes the base answers of the split that is edited, and returns the inputs of a run.

    Raises:
        BadSetting: no record of the split can be edited, or the pack has labels that the task does not have.
    """
    _check_labels(task, pack)
    weights = fingerprint(model.network)
    base = identity(model, weights)
    progress.stage(f"base answers ({split})")
    records = pack.records(split)
    if split == "dev":
        records = tuple(_without_held_out(r) for r in records if _to_choose_with(r) and not r.held_out)
    if protocol.stopping == "answer":
        model = model.judged(protocol)
    test = answered(model, base, records, protocol, progress, targets=targets)
    cases = make_cases(test, protocol, targets=targets, seed=seed, paraphrases=task.paraphrases)
    if protocol.retain_over == "editable":
        editable = {case.edit.id for case in cases.cases}
        test = tuple(record for record in test if record.id in editable)
    if not cases.cases:
        reasons = ", ".join(f"{count} {reason}" for reason, count in cases.set_aside.items())
        raise BadSetting(
            f"pack {pack.name}: no record of the {split} split can be edited ({reasons or 'it is empty'})"
        )
    return RunInputs(
        task, pack, model, protocol, targets, seed, base, weights, test, cases, in_float32,
        split,
    )  # fmt: skip


def _without_held_out(record: Record) -> Record:
    """Returns a record without held-out wordings: an editor's settings must not be chosen on them either."""
    return replace(record, paraphrases=tuple(p for p in record.paraphrases if not p.held_out))


def _check_labels(task: Task, pack: Pack) -> None:
    """Checks that the answers of a classifier's pack are labels of the task."""
    if task.family != "classifier":
        return
    for split, records in pack.splits.items():
        for record in records:
            for answer in record.answers:
                if answer not in task.labels:
                    wanted = " or ".join(task.labels)
                    raise BadSetting(
                        f"pack {pack.name}: {split}: {record.id}: found the label '{answer}', wanted {wanted}"
                        f" (task {task.name})"
                    )


def state_digest(editor: AbstractTrainedEditor, inputs: RunInputs) -> str:
    """Returns a hash of everything that the state of a trained editor depends on."""
    learner = editor.prepared_by()
    parts = [
        editor_key(learner), learner.training_version, inputs.identity, asdict(inputs.model.prompt_format),
        inputs.pack.sha256, inputs.task.version, inputs.protocol.beams, inputs.targets,
    ]  # fmt: skip
    if inputs.protocol.alternatives != "kebench":
        parts.append(inputs.protocol.alternatives)
    if inputs.task.paraphrases != "agreeing":
        parts.append(inputs.task.paraphrases)
    if any(takes_stored(record, inputs.protocol) for record in inputs.pack.records("train")):
        parts.append("stored")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def state_folder(editor: AbstractTrainedEditor, inputs: RunInputs) -> Path:
    """Returns the folder of a trained editor's state, either shipped with kebench or in the cache."""
    digest = state_digest(editor, inputs)
    return shipped_state(digest) or home() / "states" / digest


@dataclass(frozen=True)
class Prepared:
    """An editor's state, and how many seconds it took to learn it."""

    state: State
    seconds: float


def prepare_editor(name: str, editor: AbstractEditor, inputs: RunInputs, progress: Progress) -> Prepared:
    """Returns the editor's state: from the cache, or learnt now, from the last checkpoint if there is one."""
    if not isinstance(editor, AbstractTrainedEditor):
        return Prepared({}, 0.0)
    learning = inputs.to_learn_on()
    digest = state_digest(editor, learning)
    folder = shipped_state(digest)
    if folder is None:
        folder = home() / "states" / digest
        learn_state(name, editor, learning, folder, progress)
    card = read_object(folder / STATE_CARD)
    state = {key: tensor.to(inputs.model.device) for key, tensor in load_file(folder / STATE).items()}
    return Prepared(state, card["seconds"])


def check_base(name: str, inputs: RunInputs) -> None:
    """Checks that the base model's weights have the same bits as before.

    Raises:
        BrokenEditor: the editor changed them.
    """
    if fingerprint(inputs.model.network) != inputs.fingerprint:
        raise BrokenEditor(f"editor {name} changed the base model's weights, wanted it to return its changes")


def learn_state(
    name: str, editor: AbstractTrainedEditor, inputs: RunInputs, folder: Path, progress: Progress
) -> None:
    """Trains an editor, unless `folder` holds its complete state. If a file is damaged, it is trained again.

    The state is written to `folder`, with a card for people (README.md) and one for programs (JSON).
    """
    made_of = state_digest(editor, inputs)
    if is_complete(folder, STATE_CARD, made_of=made_of):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if remove_damaged_card(folder, STATE_CARD, made_of=made_of):
            return
        whole = editor.learns_from == "edits"
        training = training_set(inputs, progress) if whole else questions_alone(inputs, progress)
        progress.stage(f"prepare {name}")
        work = folder / "work"
        work.mkdir(exist_ok=True)
        elapsed = _stopwatch(work / "seconds", made_of)

        def report(done: int, steps: int, words: str) -> None:
            elapsed()
            progress(done, steps, words)

        learner = editor.prepared_by()
        with numerics(inputs.model.device):
            state = Caller(learner, inputs.model).prepare(training, Workspace(work, report, made_of))
            check_base(name, inputs)  # a state that was learnt on other weights is not saved
        save_tensors(state, folder / STATE)
        facts = {
            "name": name,
            "editor": editor_path(learner),
            "settings": settings_of(learner),
            "task": inputs.task.name,
            "pack": inputs.pack.name,
            "pack_sha256": inputs.pack.sha256,
            "model": inputs.model.name,
            "digest": made_of,
            "training_edits": len(training.train),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "torch_threads": torch.get_num_threads(),
            "device": str(inputs.model.device),
            "seconds": elapsed(),
        }
        if (work / "history.json").is_file():  # the history of the training is kept
            (work / "history.json").replace(folder / "history.json")
        about = f"Editor trained for the kebench task `{inputs.task.name}`."
        write_card(folder, STATE_CARD, about, facts, made_of=made_of)
        shutil.rmtree(work)


def _stopwatch(file: Path, made_of: str) -> Callable[[], float]:
    """Returns a function that counts the seconds of a preparation, interrupted attempts included.

    Each call writes the seconds to `file`, but at most once a second.
    """
    found = read_or_none(file, lambda: read_sealed(file, made_of)) or {}
    earlier = float(found.get("seconds", 0.0))
    started = written = time.monotonic()

    def elapsed() -> float:
        nonlocal written
        now = time.monotonic()
        seconds = round(earlier + now - started, 1)
        if now - written >= 1:
            write_sealed({"seconds": seconds}, file, made_of)
            written = now
        return seconds

    return elapsed


def training_set(inputs: RunInputs, progress: Progress) -> TrainingSet:
    """Returns the train and dev splits with the base model's answers."""
    split: dict[str, tuple[AnsweredRecord, ...]] = {}
    for name in ("train", "dev"):
        progress.stage(f"base answers ({name})")
        records = [record for record in inputs.pack.records(name) if not record.held_out]
        split[name] = answered(
            inputs.model, inputs.identity, records, inputs.protocol, progress, targets=inputs.targets
        )
    to_learn = [record for record in split["dev"] if not _to_choose_with(record)]
    to_choose = [record for record in split["dev"] if _to_choose_with(record)]
    return TrainingSet(
        train=_training_edits(split["train"], inputs),
        known=_known(split["train"]),
        unseen=_known(to_learn),
        dev=_training_edits(to_choose, inputs),
        dev_known=_known(to_choose),
    )


def questions_alone(inputs: RunInputs, progress: Progress) -> TrainingSet:
    """Returns a training set without edits: the questions of the train split and of half of the dev split."""
    found: dict[str, list[RetainQuestion]] = {}
    for name in ("train", "dev"):
        progress.stage(f"predictions ({name})")
        records = [record for record in inputs.pack.records(name) if not record.held_out]
        if name == "dev":
            records = [record for record in records if not _to_choose_with(record)]
        said = predicted(inputs.model, inputs.identity, records, inputs.protocol, progress)
        pairs = zip(records, said, strict=True)
        found[name] = [RetainQuestion(record.fact, record.prompt, y) for record, y in pairs if y.strip()]
    return TrainingSet(train=(), dev=(), known=found["train"], unseen=found["dev"], dev_known=())


def _to_choose_with(record: Record | AnsweredRecord) -> bool:
    """Returns True for the half of the dev split to choose with. Each fact is in one of the halves only."""
    return hashlib.sha256(record.fact.encode()).digest()[0] % 2 == 1


def _known(records: Sequence[AnsweredRecord]) -> list[RetainQuestion]:
    return [RetainQuestion(r.fact, r.prompt, r.prediction) for r in records if r.prediction.strip()]


def _training_edits(records: Sequence[AnsweredRecord], inputs: RunInputs) -> list[TrainingEdit]:
    made = make_cases(
        records, inputs.protocol, targets=inputs.targets, seed=0, paraphrases=inputs.task.paraphrases
    )
    return [
        TrainingEdit(case.fact, replace(case.edit, paraphrases=_wordings_to_learn(case)))
        for case in made.cases
    ]


def _wordings_to_learn(case: Case) -> tuple[str, ...]:
    return tuple(text for text in case.paraphrases if text not in case.held_out_wordings)
