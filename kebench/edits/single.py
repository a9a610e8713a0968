"""Enforces the regime `single`: every edit starts from the base model and does not depend on other edits.

Editors make edits in groups, because that is faster. No two edits of a group may share a change. The first
group of a process is checked more closely: three of its edits are made again, each alone.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from kebench.edits.edit import Edit
from kebench.edits.editor import AbstractEditor, editor_path
from kebench.edits.versions import Routed, Versions
from kebench.errors import BrokenEditor, DependentEdits
from kebench.models.changes import Changes, Dense, dense_delta

FAR = 0.25
"""How far an edit's updates alone and in a group may be apart, as a share of the distance of two edits."""
OTHERWISE = 0.1
"""The largest share of an edit's own questions that may have other answers if it is made in a group."""
OWN_QUESTIONS = 30
"""The largest number of an edit's own questions that are asked."""


def refuse_shared(editor: AbstractEditor, edits: Sequence[Edit], edited: Versions) -> None:
    """Refuses updates of different edits that are one object or share tensors. Failed edits have no updates.

    Raises:
        BrokenEditor: two edits share the change of a matrix.
    """
    owners: dict[tuple[object, ...], Edit] = {}
    whole = [index for index in range(len(edits)) if index not in edited.failures]
    for edit, update in ((edits[index], edited.updates[index]) for index in whole):
        for name, change in update.items():
            tensors = (change.delta,) if isinstance(change, Dense) else (change.B, change.A)
            if any(tensor.numel() == 0 for tensor in tensors):
                continue
            place = (name, *(tensor.data_ptr() for tensor in tensors))
            owner = owners.setdefault(place, edit)
            if _request(owner) != _request(edit):
                raise BrokenEditor(
                    f"{editor_path(editor)}: returned the same change of {name} for the edits {owner.id} and"
                    f" {edit.id}, wanted different ones"
                )


def sample_of(edits: Sequence[Edit]) -> list[int]:
    """Returns the places of the edits that are made again, each alone: the first, the middle and the last."""
    return sorted({0, len(edits) // 2, len(edits) - 1}) if len(edits) > 1 else []


def refuse_joint(
    editor: AbstractEditor,
    edits: Sequence[Edit],
    edited: Versions,
    alone: Mapping[int, Versions],
    questions: Mapping[int, Sequence[str]],
    *,
    beams: int,
) -> None:
    """Refuses an editor whose edits differ between a group and each edit alone.

    For an editor of weights, updates are compared. Rounding changes them too, those of fine-tuning by several
    per cent. So the two updates of an edit may be apart by a quarter (`FAR`) of the distance to another
    edit's update, or, relative to their norm, by the square root of the number type's precision.
    For a memory editor, answers are compared. At least half of the answers to the other prompts of the group
    must be the same, and nine in ten of the answers to the edit's own questions (`OTHERWISE`). One edit of
    three may differ: rounding may decide whether it takes one step more.

    Args:
        editor: the editor.
        edits: the group, as the editor got it.
        edited: the versions that the editor made of the group.
        alone: place in the group → the version of that edit alone, for some of the edits.
        questions: place in the group → the edit's own questions, x among them.
        beams: as in `Versions.answer`.

    Raises:
        DependentEdits: more than a third of the edits that were made again differ.
    """
    whole = {
        index: made for index, made in alone.items() if index not in edited.failures and not made.failures
    }
    others = [
        index
        for index in whole
        if _other_update(index, edits, edited, whole)
        or _other_answers(index, edits, edited, whole[index], questions[index], beams)
    ]
    if len(others) > len(whole) // 3:
        named = ", ".join(edits[index].id for index in others)
        raise DependentEdits(
            f"{editor_path(editor)}: found different edits in a group of {len(edits)} and alone ({named}),"
            " wanted each to start from the base model and not to depend on the others, nor on rounding (as"
            " it does at a very large learning rate)"
        )


def _other_update(index: int, edits: Sequence[Edit], edited: Versions, alone: Mapping[int, Versions]) -> bool:
    """Returns True if an edit has another update in the group; False for an editor without updates."""
    if isinstance(edited.versions[index], Routed):
        return False
    updates = {place: made.updates[0] for place, made in alone.items()}
    network, mine, grouped = edited.model.network, updates[index], edited.updates[index]
    size = max(_apart(network, mine, {}), _apart(network, grouped, {}))
    different = [
        _apart(network, mine, update)
        for place, update in updates.items()
        if _request(edits[place]) != _request(edits[index])
    ]
    allowed = max(FAR * max(different, default=size), torch.finfo(network.dtype).eps ** 0.5 * size)
    return bool(_apart(network, mine, grouped) > allowed)


def _other_answers(
    index: int,
    edits: Sequence[Edit],
    edited: Versions,
    alone: Versions,
    questions: Sequence[str],
    beams: int,
) -> bool:
    """Returns True if an edited model has other answers in the group; False for an editor of weights."""
    if not isinstance(edited.versions[index], Routed):
        return False
    target = edits[index].target

    def otherwise(prompts: Sequence[str]) -> int:
        """Returns how many of these prompts have another answer."""
        guesses = [target] * len(prompts)
        in_group = edited.answer(prompts, [index] * len(prompts), guesses, beams=beams)
        by_itself = alone.answer(prompts, [0] * len(prompts), guesses, beams=beams)
        return sum(one != other for one, other in zip(in_group, by_itself, strict=True))

    foreign = [edit.prompt for edit in edits if _request(edit) != _request(edits[index])]
    own = questions[:OWN_QUESTIONS]
    return otherwise(foreign) * 2 > len(foreign) or otherwise(own) > OTHERWISE * len(own)


def _request(edit: Edit) -> tuple[str, str]:
    """Returns what must be the same in two edits if they may share a change."""
    return edit.prompt, edit.target


def _apart(network: nn.Module, one: Changes, other: Changes) -> float:
    """Returns ‖Δ₁ − Δ₂‖ over all matrices, in the Frobenius norm."""
    squares = 0.0
    for name in {**one, **other}:
        parameter = network.get_parameter(name)
        deltas = [
            dense_delta(network, name, update[name]) if name in update else torch.zeros_like(parameter)
            for update in (one, other)
        ]
        squares += float((deltas[0].float() - deltas[1].float()).square().sum())
    return math.sqrt(squares)
