"""Makes every call into an editor's own code, which may be written by anybody.

Each call is watched (`kebench.models.left_behind`). Whatever it leaves behind is undone, and a message names
the editor. If it could have changed the numbers of another edit, the editor broke a rule (`BrokenEditor`),
because its method may rely on it: an editor that leaves a hook, and returns no version, would be scored as
one that does nothing. Anything else that is left behind is one warning. If the code raises an error, or
returns an update that does not fit the model, the edit has failed (`FailedEdit`).
"""

import copy
import hashlib
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kebench.edits.edit import Batch
from kebench.edits.editor import (
    AbstractEditor,
    AbstractMemoryEditor,
    AbstractTrainedEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
    editor_path,
)
from kebench.edits.time_limit import EditTimeout, time_limit
from kebench.edits.versions import Route, Routed, Says, UnderUpdate, Version, WithContext
from kebench.errors import BrokenEditor, KebenchError, shown
from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.layers import linear_maps, map_shape
from kebench.models.left_behind import watching
from kebench.models.model import AbstractModel

logger = logging.getLogger(__name__)

NOT_USABLE = "update not usable"
"""The reason of a failure whose update has a wrong name, shape or type."""


class FailedEdit(Exception):
    """An editor could not make an edit, or its edited model could not answer.

    Attributes:
        reason: a few words for tables, the same for all failures of one kind.
        details: the traceback, or what was wrong, for the file of failures.
        mistake: the `KebenchError` that the editor's code raised; None if it raised another error.
    """

    def __init__(
        self, reason: str, message: str, details: str = "", mistake: KebenchError | None = None
    ) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason = reason
        self.details = details or str(self)
        self.mistake = mistake


@dataclass(frozen=True)
class Caller:
    """Calls an editor's own code.

    Attributes:
        editor: the editor.
        base: the base model, which is watched.
        seconds: the time limit for one edit, or None. A call for n edits may take n times as long.
    """

    editor: AbstractEditor
    base: AbstractModel
    seconds: float | None = None

    def prepare(self, training: TrainingSet, workspace: Workspace) -> State:
        """Calls `AbstractTrainedEditor.prepare` and returns the state.

        Raises:
            BrokenEditor: the editor raised an error that is not a `KebenchError`, left something behind, or
                returned something else than tensors by name.
        """
        editor = self.editor
        assert isinstance(editor, AbstractTrainedEditor)
        try:
            with self._watched("prepare", [self.base], pass_on=KebenchError):
                state = editor.prepare(self.base, training, workspace)
        except FailedEdit as error:
            raise BrokenEditor(f"{editor_path(editor)}: prepare failed ({error})", error.details) from None
        if not isinstance(state, Mapping) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
        ):
            raise BrokenEditor(
                f"{editor_path(editor)}: prepare returned {shown(state)}, wanted tensors by name"
            )
        return state

    def begin(self, state: State) -> Carried:
        """Calls `AbstractEditor.begin` and returns what a stream carries before its first batch.

        Raises:
            BrokenEditor: the editor raised an error, left something behind, or returned something else.
        """
        try:
            with self._watched("begin", [self.base], limit=self.seconds):
                carried = self.editor.begin(dict(state), self.base)
        except FailedEdit as error:
            raise BrokenEditor(f"{editor_path(self.editor)}: begin failed ({error})", error.details) from None
        if not isinstance(carried, Carried):
            raise BrokenEditor(
                f"{editor_path(self.editor)}: begin returned {shown(carried)}, wanted a Carried"
            )
        return carried

    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        """Calls `AbstractEditor.edit`. The editor gets copies of the edits and of the carried values.

        Raises:
            FailedEdit: the editor raised an error, took too long, or returned an update that does not fit.
            BrokenEditor: the editor left something behind, wrote to what it was given, or returned something
                else than versions and carried values.
        """
        edits = [edit for batch in batches for edit in batch]
        given = [tuple(replace(edit) for edit in batch) for batch in batches]
        theirs = [replace(each, data=copy.deepcopy(each.data)) for each in carried]
        tensors = [*state.values(), *(tensor for each in carried for tensor in each.tensors.values())]
        written = [tensor._version for tensor in tensors if not tensor.is_inference()]
        about = _named(edits)
        limit = None if self.seconds is None else self.seconds * len(edits)
        with self._watched(about, self._reachable(start), limit=limit):
            found = self.editor.edit(dict(state), start, given, theirs)
            versions, carried = self._one_each(found, len(batches), about)
        if [edit for batch in given for edit in batch] != edits:
            raise self._broken(about, "it wrote to an Edit")
        if [tensor._version for tensor in tensors if not tensor.is_inference()] != written:
            raise self._broken(about, "it wrote to its state, or to what a stream carries")
        return [self._as_asked(version, start, about) for version in versions], carried

    def remembering(self, state: State, start: AbstractModel, memory: Carried) -> Version | None:
        """Returns the version that a memory editor makes from a memory; None for an editor of weights."""
        if not isinstance(self.editor, AbstractMemoryEditor):
            return None
        return self._as_asked(self.editor.version(state, start, memory), start, "earlier edits")

    def _one_each(self, found: Any, n: int, about: str) -> tuple[list[Version], list[Carried]]:
        """Returns the versions and the carried values, after checking that each batch has one of both."""
        try:
            versions, carried = found
            versions, carried = list(versions), list(carried)
        except (TypeError, ValueError):
            raise self._broken(
                about, f"it returned {shown(found)}, wanted versions and carried values"
            ) from None
        if len(versions) != n or len(carried) != n:
            raise self._broken(
                about,
                f"it returned {len(versions)} versions and {len(carried)} carried values, wanted {n} of each",
            )
        for each in carried:
            if not isinstance(each, Carried):
                raise self._broken(about, f"it carries {shown(each)}, wanted a Carried")
        return versions, carried

    def _as_asked(self, version: Version, start: AbstractModel, about: str) -> Version:
        """Returns the version, after checking that it fits the model. Calls of its `route` are watched."""
        if not isinstance(version, Routed):
            check_update(start, version)
            return _detached(version)
        plain = version.route

        def route(prompts: Sequence[str]) -> list[Route]:
            with self._watched(about, self._reachable(start), limit=self.seconds):
                found = plain(list(prompts))
                routes = list(found) if found is not None else found
            if routes is None or len(routes) != len(prompts):
                raise self._broken(about, f"route returned {shown(found)}, wanted {len(prompts)} routes")
            for each in routes:
                _check_route(start, each)
            return routes

        return Routed(route)

    def _reachable(self, start: AbstractModel) -> list[AbstractModel]:
        """Returns the models that a call can reach: the base model, and the model that it starts from."""
        return [self.base] if start.network is self.base.network else [self.base, start]

    @contextmanager
    def _watched(
        self,
        about: str,
        models: Sequence[AbstractModel],
        *,
        limit: float | None = None,
        pass_on: type[KebenchError] = BrokenEditor,
    ) -> Iterator[None]:
        """Watches a call into the editor's code, and turns the errors that it raises into `FailedEdit`.

        Args:
            about: the call, for messages: the ids of its edits, or the name of a method.
            models: the models that the call can reach.
            limit: the time limit in seconds, or None.
            pass_on: errors of this class are raised as they are.
        """
        path = editor_path(self.editor)
        failure: FailedEdit | None = None
        with watching(models, seed=_seed(self.editor, about)) as left:
            try:
                with time_limit(limit):
                    yield
            except (KeyboardInterrupt, pass_on):
                raise
            except EditTimeout as error:
                failure = FailedEdit("edit timeout", str(error), traceback.format_exc())
            except (Exception, SystemExit, GeneratorExit) as error:
                mistake = error if isinstance(error, KebenchError) else None
                failure = FailedEdit(name_of(error), message_of(error), traceback.format_exc(), mistake)
        if left.lasting:
            raise self._broken(about, f"it changed the base model's weights: {', '.join(left.lasting)}")
        if failure is not None:
            raise failure  # whatever the error left half done is undone, and breaks no rule
        if left.harmful:
            raise self._broken(about, f"it left behind {', '.join(left.harmful)}")
        if left.harmless:
            _warn_once(f"{path}: left behind {', '.join(left.harmless)} ({about}); kebench has undone it")

    def _broken(self, about: str, what: str) -> BrokenEditor:
        return BrokenEditor(f"{editor_path(self.editor)} ({about}): {what}")


def name_of(error: BaseException) -> str:
    """Returns the name of an error for tables: that of its class."""
    return type(error).__name__.lstrip("_")


def message_of(error: BaseException) -> str:
    """Returns the first line of an error's message; nothing if the message cannot be computed."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        return ""
    return lines[0] if lines else ""


def check_update(model: AbstractModel, update: object) -> None:
    """Checks that an update can be added to a model's weights.

    Raises:
        FailedEdit: the update is not a mapping of parameter names to `Dense` or `LowRank`; or a tensor has
            another shape than the parameter, has no floating-point numbers, or is on another device.
    """
    if not isinstance(update, Mapping):
        raise FailedEdit(NOT_USABLE, f"found {shown(update)}, wanted a mapping of names to Dense or LowRank")
    if not update:
        return
    maps = linear_maps(model.network)
    parameters = dict(model.network.named_parameters(remove_duplicate=False))
    for name, change in update.items():
        if name not in parameters:
            raise FailedEdit(NOT_USABLE, f"found a change of {shown(name)}, wanted the name of a parameter")
        if isinstance(change, Dense):
            _check_tensor(name, change.delta, tuple(parameters[name].shape), model.device)
        elif isinstance(change, LowRank):
            if name not in maps:
                raise FailedEdit(NOT_USABLE, f"found a LowRank change of {name}, which is not a linear map")
            d_out, d_in = map_shape(maps[name])
            rank = change.B.shape[-1] if isinstance(change.B, Tensor) and change.B.ndim else 0
            _check_tensor(f"{name}: B", change.B, (d_out, rank), model.device)
            _check_tensor(f"{name}: A", change.A, (rank, d_in), model.device)
        else:
            raise FailedEdit(NOT_USABLE, f"{name}: found {shown(change)}, wanted Dense or LowRank")


def _detached(update: Changes) -> Changes:
    """Returns the update without its autograd graph, which would keep memory."""
    if not any(tensor.requires_grad for change in update.values() for tensor in vars(change).values()):
        return update
    return {
        name: type(change)(**{part: tensor.detach() for part, tensor in vars(change).items()})
        for name, change in update.items()
    }


def _check_tensor(name: str, tensor: object, shape: tuple[int, ...], device: torch.device) -> None:
    if not isinstance(tensor, Tensor):
        raise FailedEdit(NOT_USABLE, f"{name}: found {shown(tensor)}, wanted a tensor")
    if tuple(tensor.shape) != shape:
        raise FailedEdit(NOT_USABLE, f"{name}: found the shape {tuple(tensor.shape)}, wanted {shape}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise FailedEdit(NOT_USABLE, f"{name}: found {tensor.dtype}, wanted dense floating-point numbers")
    if tensor.device != device:
        raise FailedEdit(NOT_USABLE, f"{name}: found it on {tensor.device}, wanted {device}")


def _check_route(model: AbstractModel, route: object) -> None:
    if route is None:
        return
    if isinstance(route, UnderUpdate):
        check_update(model, route.update)
    elif not (isinstance(route, Says | WithContext) and isinstance(route.text, str)):
        raise FailedEdit(
            "route not usable", f"found {shown(route)}, wanted None, Says, WithContext or UnderUpdate"
        )


def _named(edits: Batch) -> str:
    """Returns the ids of edits, for a message."""
    ids = [edit.id for edit in edits]
    return ", ".join(ids if len(ids) <= 8 else [*ids[:3], "...", ids[-1]])


def _seed(editor: AbstractEditor, about: str) -> int:
    """Returns the seed of the global random generators for a call: the same whenever the call is made."""
    digest = hashlib.sha256(f"{editor_path(editor)}:{about}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    """Logs a warning once in a process; two warnings are the same if they differ only in the edits."""
    key = message.partition(" (")[0]
    if key not in _warned:
        _warned.add(key)
        logger.warning("%s", message)
