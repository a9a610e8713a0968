"""Defines an editor: a frozen dataclass of settings, which reads a frozen base model and returns values."""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from kebench.edits.edit import Batch, Edit
from kebench.edits.editor_files import EditorRow, Width, find_editor, width_unknown
from kebench.edits.versions import Route, Routed, Version
from kebench.errors import BadFile, BadSetting, BrokenEditor, KebenchError, shown
from kebench.files.outside import imported
from kebench.files.yaml import as_yaml, validated
from kebench.models.changes import Changes
from kebench.models.left_behind import watching
from kebench.models.model import AbstractModel
from kebench.scoring.regimes import RegimeName
from kebench.task import Family

State = Mapping[str, Tensor]
"""What `prepare` returns for `edit`: tensors by name, stored as safetensors. Empty if nothing is learnt."""


@dataclass(frozen=True)
class RetainQuestion:
    """A question with the base model's answer, which an edit of another fact must not change."""

    fact: str
    prompt: str
    prediction: str


@dataclass(frozen=True)
class TrainingEdit:
    """An edit to learn from, and the fact it is about."""

    fact: str
    edit: Edit


@dataclass(frozen=True)
class TrainingSet:
    """What an editor may learn from: the task's train and dev splits, with the base model's answers.

    A base model may know its training questions by heart. Then an edit hardly changes its answers to them,
    whatever it does to the answers to other questions. So one half of the dev split is for learning too.

    Attributes:
        train: the edits of the train split, to learn from.
        dev: the edits of the other half of the dev split, to choose a checkpoint with.
        known: the questions of the train split.
        unseen: the questions of the half of the dev split that is for learning; the base model was not
            trained on them.
        dev_known: the questions of the other half.
    """

    train: Sequence[TrainingEdit]
    dev: Sequence[TrainingEdit]
    known: Sequence[RetainQuestion]
    unseen: Sequence[RetainQuestion]
    dev_known: Sequence[RetainQuestion]


@dataclass(frozen=True)
class Workspace:
    """Where a long preparation keeps its checkpoints, and how it reports its progress.

    Attributes:
        folder: a folder for this preparation alone. Files in it are from an earlier, interrupted attempt.
        report: a function to call with the steps done, all steps, and a few words.
        made_of: a text that identifies this preparation. A checkpoint with another one is not used.
    """

    folder: Path
    report: Callable[[int, int, str], None]
    made_of: str = ""


@dataclass(frozen=True)
class Carried:
    """What a stream of edits carries from one batch to the next besides the weights.

    It is a value: an editor returns a new one and never changes the one that it gets. It is written to the
    checkpoint of a stream, so it holds only tensors and what JSON can hold.

    Attributes:
        tensors: name → tensor.
        data: dicts with string keys, lists, strings, numbers, booleans and None.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    data: Any = None


class AbstractEditor(ABC):
    """An editor: a frozen dataclass of settings. Subclass one of its two kinds.

    An `AbstractWeightEditor` returns changes of weights. An `AbstractMemoryEditor` changes no weights; it
    decides for each prompt how the model answers.
    """

    citation: ClassVar[str]
    """The method's paper; empty for a control."""
    is_control: ClassVar[bool] = False
    """True for a control. Its scores are known, it may see what it will be asked, and tables mark it."""
    families: ClassVar[tuple[Family, ...]] = get_args(Family)
    """The families of models that the editor can edit."""
    regimes: ClassVar[tuple[RegimeName, ...]] = get_args(RegimeName)
    """The regimes that the method is made for."""

    def begin(self, state: State, base: AbstractModel) -> Carried:
        """Returns what a stream carries before its first batch; by default nothing."""
        return Carried()

    @abstractmethod
    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """Returns a version of the model for each batch, and what its stream carries to the next batch.

        The model is never written to. `AbstractWeightEditor.update` explains the arguments.
        """


class AbstractWeightEditor(AbstractEditor):
    """An editor that changes weights, and returns the change."""

    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """See `AbstractEditor.edit`. Write `update`, and do not override this method."""
        found = self.update(state, start, batches, carried)
        try:
            updates, carried = found
            updates, carried = list(updates), list(carried)
        except (TypeError, ValueError):
            raise BrokenEditor(
                f"{editor_path(self)}: update returned {shown(found)}, wanted a pair: updates, carried values"
            ) from None
        if len(updates) != len(batches) or len(carried) != len(batches):
            raise BrokenEditor(
                f"{editor_path(self)}: returned {len(updates)} updates and {len(carried)} carried values,"
                f" wanted {len(batches)} of each, one for each batch"
            )
        return [*updates], carried

    @abstractmethod
    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[Sequence[Changes], Sequence[Carried]]:
        """Returns one update for each batch, however many edits the batch holds.

        Args:
            state: what `prepare` returned.
            start: the model that each of these batches starts from: the base model, or a version of it. The
                updates are added to its weights.
            batches: batches that do not depend on each other. An editor may work on them together, because
                that is faster, or one after the other. In the regime `single` each holds one edit.
            carried: for each batch, what its stream carries.

        Returns:
            The updates, and what the streams carry to the next batch, in the order of the batches. An editor
            that carries nothing returns `carried` as it is.
        """


class AbstractMemoryEditor(AbstractEditor):
    """An editor that changes no weights: it remembers edits, and uses its memory to route every prompt.

    The memory is what a stream carries, so it is a value too.
    """

    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """See `AbstractEditor.edit`. Write `remember` and `route`, and do not override this method."""
        found = self.remember(state, start, batches, carried)
        if not isinstance(found, Iterable):
            raise BrokenEditor(f"{editor_path(self)}: remember returned {shown(found)}, wanted memories")
        memories = list(found)
        if len(memories) != len(batches):
            raise BrokenEditor(
                f"{editor_path(self)}: returned {len(memories)} memories, wanted {len(batches)}, one a batch"
            )
        return [self.version(state, start, memory) for memory in memories], memories

    def version(self, state: State, start: AbstractModel, memory: Carried) -> Routed:
        """Returns the version that answers with the help of a memory."""
        return Routed(partial(self.route, state, start, memory))

    @abstractmethod
    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> Sequence[Carried]:
        """Returns the memory after each batch, which holds the earlier memory and the batch."""

    @abstractmethod
    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> Sequence[Route]:
        """Returns how each prompt is answered: see `Route`."""


class AbstractTrainedEditor(AbstractEditor):
    """An editor that learns before it edits. It also is a subclass of one of the two kinds above."""

    learns_from: ClassVar[Literal["edits", "questions"]] = "edits"
    """The part of a training set that the editor needs. `edits` is all of it. `questions` is the prompts with
    the base model's answers (`TrainingSet.known` and `unseen`), which take much less time to compute."""
    training_version: ClassVar[int] = 1
    """Raise this number when `prepare` learns something else from the same settings, apart from rounding.
    Then earlier states are not used."""

    @abstractmethod
    def prepared_by(self) -> "AbstractTrainedEditor":
        """Returns the editor whose `prepare` makes the state of this one.

        It is this editor with the settings that only `update` reads set to their defaults. So two editors
        that learn the same thing learn it once.
        """

    @abstractmethod
    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """Computes everything that does not depend on the next edit. The same inputs give the same state."""


# Editors by name ------------------------------------------------------------------------------------


def load_editor(
    name: str,
    *,
    task: str = "",
    pack: str = "",
    model_width: Width = width_unknown,
    changes: Mapping[str, Any] | None = None,
    changed_by: str = "-s",
) -> tuple[str, AbstractEditor]:
    """Returns the name that tables give to an editor, and the editor.

    Args:
        name: the editor, as `find_editor` takes it.
        task: the name of the task that it will run on.
        pack: the name of the pack that it will run on. The settings that the editor's file has under `tuned:`
            for `task/pack` replace the others.
        model_width: tells the hidden size of the model, on which the default recipe may depend.
        changes: settings that replace those of the file, also those under `tuned:`. Tables show the settings
            that become different after the editor's name: `knowledge_editor (margin=0.02)`.
        changed_by: where `changes` come from, for messages.

    Raises:
        NotFound: there is no such editor, recipe or variant.
        BadSetting: two variants set the same field, or a setting in `changes` is wrong.
        BadFile: the editor's file names a class that does not exist, or has a wrong setting in the recipe, in
            a variant, or anywhere under `tuned:`.
    """
    row = find_editor(name, model_width)
    kind = _class_of(row)
    as_it_is = validated(kind, dict(row.settings), row.place)
    tuned = {
        place: validated(kind, {**row.settings, **settings}, f"{_tuned_place(row)}: {place}")
        for place, settings in row.tuned.items()
    }
    editor = tuned.get(f"{task}/{pack}", as_it_is)
    if not changes:
        return row.name, editor
    settings = {**row.settings, **row.tuned.get(f"{task}/{pack}", {}), **changes}
    try:
        changed = validated(kind, settings, "")
    except BadFile as error:
        raise BadSetting(f"{changed_by} {str(error).removeprefix(': ')}") from None
    before, after = settings_of(editor), json.loads(json.dumps(settings_of(changed)))
    different = [name for name, value in settings_of(changed).items() if value != before[name]]
    words = [f"{name}={as_yaml(after[name])}" for name in different]
    shown = f"{row.name} ({', '.join(words)})" if words else row.name
    return shown, changed


def _class_of(row: EditorRow) -> type[AbstractEditor]:
    """Imports the class that a row names. If a file names it, the file's folder is searched too."""
    place = row.path or row.name
    try:
        with watching():  # a module may change the process when it is imported
            found = imported(row.editor, row.path)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadFile(place, f"editor: found '{row.editor}' ({error}), wanted module:Class") from None
    except KebenchError:
        raise
    except (Exception, SystemExit) as error:
        raise BadFile(
            place, f"editor: importing '{row.editor}' failed ({type(error).__name__}: {error})"
        ) from None
    if not (isinstance(found, type) and issubclass(found, AbstractEditor)):
        raise BadFile(place, f"editor: found '{row.editor}', wanted a subclass of AbstractEditor")
    if not is_dataclass(found) or inspect.isabstract(found):
        raise BadFile(place, f"editor: found '{row.editor}', wanted a dataclass that is not abstract")
    check_class(found, place)
    return found


def check_class(kind: type[AbstractEditor], place: Path | str) -> None:
    """Checks the class attributes of an editor.

    Args:
        kind: the class.
        place: the file or the name that an error message begins with.

    Raises:
        BadFile: the class has no citation, or names a family or a regime that does not exist.
    """
    if not isinstance(getattr(kind, "citation", None), str):
        raise BadFile(
            place, f"{kind.__name__}.citation: missing, wanted the method's paper, or '' for a control"
        )
    for name, known in (("families", get_args(Family)), ("regimes", get_args(RegimeName))):
        found = getattr(kind, name)
        if not isinstance(found, tuple) or not found or not set(found) <= set(known):
            raise BadFile(
                place, f"{kind.__name__}.{name}: found {shown(found)}, wanted a tuple of {', '.join(known)}"
            )


def _tuned_place(row: EditorRow) -> str:
    return f"{row.path}: {'tuned' if row.row is None else f'rows: {row.row}: tuned'}"


def editor_path(editor: AbstractEditor) -> str:
    """Returns `module:Class` of an editor."""
    return f"{type(editor).__module__}:{type(editor).__qualname__}"


def settings_of(editor: AbstractEditor) -> dict[str, Any]:
    """Returns the resolved settings: every field of the dataclass.

    Raises:
        BadSetting: the editor is not a dataclass.
    """
    try:
        return asdict(editor)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise BadSetting(
            f"{editor_path(editor)} is not a dataclass; its settings cannot be recorded"
        ) from None


def editor_key(editor: AbstractEditor) -> str:
    """Returns a hash of the class and its resolved settings."""
    text = json.dumps([editor_path(editor), settings_of(editor)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
