"""What an editor is: a frozen dataclass of settings that looks at a frozen base and returns values."""

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
from kebench.edits.editor_files import EditorRow, find_editor
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
"""What `prepare` leaves for `edit`: tensors by name, kept as safetensors. Empty where nothing is learnt."""


@dataclass(frozen=True)
class RetainQuestion:
    """A question the base model answers: what an edit of another fact must not change."""

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
    """What an editor may learn from: the task's train and dev splits, as the base model answers them.

    A base model may have its training questions by heart: what it says there hardly moves, whatever an edit
    does to questions it has not seen. So half of the dev split is for learning too.

    Attributes:
        train: edits to learn from: the train split's.
        known: the train split's questions.
        unseen: the questions of half of the dev split, on which the base model was not trained.
        dev: edits to choose between checkpoints with: those of the other half.
        dev_known: the questions of that half.
    """

    train: Sequence[TrainingEdit]
    dev: Sequence[TrainingEdit]
    known: Sequence[RetainQuestion]
    unseen: Sequence[RetainQuestion]
    dev_known: Sequence[RetainQuestion]


@dataclass(frozen=True)
class Workspace:
    """Where a long preparation keeps its checkpoints, and how it tells its progress.

    Attributes:
        folder: private to this preparation; what is found there is an earlier, interrupted attempt's.
        report: called with (steps done, steps in all, a few words).
        made_of: what tells this preparation from any other; a checkpoint with another one is not its own.
    """

    folder: Path
    report: Callable[[int, int, str], None]
    made_of: str = ""


@dataclass(frozen=True)
class Carried:
    """What a stream of edits carries from one batch to the next besides the weights.

    A value: an editor returns a new one and never changes the one it was given. It is written to the
    checkpoint of a stream, so it holds nothing but tensors and what JSON can hold.

    Attributes:
        tensors: by name.
        data: made of dicts with string keys, lists, strings, numbers, booleans and None.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    data: Any = None


class AbstractEditor(ABC):
    """An editor: a frozen dataclass of settings. Subclass one of the two kinds below.

    `AbstractWeightEditor` returns changes of weights; `AbstractMemoryEditor` leaves the weights alone and
    decides by the prompt how the model answers.
    """

    citation: ClassVar[str]
    """The paper the method is from; empty for a control."""
    is_control: ClassVar[bool] = False
    """A control has a known score. It may look at what it will be asked, and tables mark it."""
    families: ClassVar[tuple[Family, ...]] = get_args(Family)
    """The families of models that it can edit."""
    regimes: ClassVar[tuple[RegimeName, ...]] = get_args(RegimeName)
    """The regimes that the method is made for."""

    def begin(self, state: State, base: AbstractModel) -> Carried:
        """What a stream carries before its first batch; nothing, unless an editor says otherwise."""
        return Carried()

    @abstractmethod
    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """A version for each batch, and what its stream carries on. Never writes to the model.

        See `AbstractWeightEditor.update` for the arguments.
        """


class AbstractWeightEditor(AbstractEditor):
    """An editor that changes weights, and returns the change."""

    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """See `AbstractEditor.edit`. Not to be overridden: write `update`."""
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
                f" wanted {len(batches)} of each, one a batch"
            )
        return [*updates], carried

    @abstractmethod
    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[Sequence[Changes], Sequence[Carried]]:
        """What each batch changes: one update a batch, however many edits the batch holds.

        Args:
            state: what `prepare` made.
            start: the model that all of these batches start from, each by itself: the base model, or a later
                version of it. The updates are added to its weights.
            batches: independent of each other; an editor may work on them together, because that is faster,
                or one after the other. In the regime `single` each holds one edit.
            carried: of each batch, what its stream carries.

        Returns:
            The updates and what the streams carry on, in the order of the batches. An editor that carries
            nothing returns `carried` as it is.
        """


class AbstractMemoryEditor(AbstractEditor):
    """An editor that changes no weights: it remembers edits, and routes every prompt by what it remembers.

    The memory is what a stream carries, so it is a value too.
    """

    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """See `AbstractEditor.edit`. Not to be overridden: write `remember` and `route`."""
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
        """The version that answers by what a memory holds."""
        return Routed(partial(self.route, state, start, memory))

    @abstractmethod
    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> Sequence[Carried]:
        """The memory after each batch: what was remembered before it, and the batch."""

    @abstractmethod
    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> Sequence[Route]:
        """How each prompt is answered: see `Route`."""


class AbstractTrainedEditor(AbstractEditor):
    """An editor that learns first; one of weights is an `AbstractWeightEditor` too."""

    learns_from: ClassVar[Literal["edits", "questions"]] = "edits"
    """What of a training set it needs: `edits` and all that goes with them; or `questions` alone, the prompts
    with the base model's answers (`TrainingSet.known` and `unseen`), which take much less time to make."""
    training_version: ClassVar[int] = 1
    """Raised when `prepare` learns something else from the same settings, rounding aside: earlier states are
    not used."""

    @abstractmethod
    def prepared_by(self) -> "AbstractTrainedEditor":
        """The editor whose `prepare` makes this one's state.

        Itself, with the settings that only `update` reads set to their defaults, so that two editors
        that learn the same thing learn it once.
        """

    @abstractmethod
    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """Everything that does not depend on the next edit. The same inputs give the same state."""


# Editors by name ------------------------------------------------------------------------------------


def load_editor(
    name: str,
    *,
    task: str = "",
    pack: str = "",
    changes: Mapping[str, Any] | None = None,
    changed_by: str = "-s",
) -> tuple[str, AbstractEditor]:
    """An editor and what tables call it.

    Args:
        name: which editor: `find_editor` says what it may be.
        task: the name of the task that it will run on.
        pack: the name of the pack that it will run on. What the editor's file says under `tuned:` for
            `task/pack` replaces its settings there.
        changes: settings that replace those of the file, `tuned:` included. Tables name those that are
            really different behind the editor's name: `knowledge_editor (margin=0.02)`.
        changed_by: where `changes` come from, for messages.

    Raises:
        NotFound: there is no such editor, recipe or variant.
        BadSetting: two variants set the same field, or a setting in `changes` is wrong.
        BadFile: its file names no such class, or a setting is wrong: in a recipe or a variant, or anywhere in
            `tuned:`.
    """
    row = find_editor(name)
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
    """The class that a row names, imported; one named by a file is looked for beside the file too."""
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
    """Checks what a class says of the editor.

    Args:
        kind: the class.
        place: the file or the name that an error message begins with.

    Raises:
        BadFile: it has no citation, or names a family or a regime that there is not.
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
    """`module:Class` of an editor."""
    return f"{type(editor).__module__}:{type(editor).__qualname__}"


def settings_of(editor: AbstractEditor) -> dict[str, Any]:
    """The resolved settings, every field of the dataclass.

    Raises:
        BadSetting: the editor is no dataclass.
    """
    try:
        return asdict(editor)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise BadSetting(f"{editor_path(editor)} is no dataclass: its settings cannot be recorded") from None


def editor_key(editor: AbstractEditor) -> str:
    """A hash of the class and its resolved settings."""
    text = json.dumps([editor_path(editor), settings_of(editor)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
