"""The regime `single`, enforced: an edit starts from the base model, and knows nothing of the others.

Editors make edits in groups, because that is faster. What each group returns is looked at for one change that
serves several edits. The first group that a process makes is looked at more closely: three of its edits are
made again, each alone.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from kebench.edits.edit import Edit
from kebench.edits.editor import AbstractEditor, editor_path
from kebench.edits.versions import Routed, Versions
from kebench.errors import BrokenEditor
from kebench.models.changes import Changes, Dense, dense_delta

FAR = 0.25
"""An edit's update made alone and made in a group may be apart by this much of what two edits' are."""
OTHERWISE = 0.1
"""The share of an edit's own questions that it may answer otherwise when it is made in a group."""
OWN_QUESTIONS = 30
"""At most so many of them are asked."""


def refuse_shared(editor: AbstractEditor, edits: Sequence[Edit], edited: Versions) -> None:
    """Refuses updates of different edits that are one object, or whose tensors are; failed edits have none.

    Raises:
        BrokenEditor: two edits share a change of some matrix.
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
                    f"{editor_path(editor)}: returned one change of {name} for the edits {owner.id} and"
                    f" {edit.id}, wanted one of its own for each"
                )


def sample_of(edits: Sequence[Edit]) -> list[int]:
    """Which edits of a group are made again, each alone: the first, the middle and the last."""
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
    """Refuses an editor whose edits are others when they are made alone: they are not single ones.

    Updates of weights are compared as such. Rounding moves them too, those of fine-tuning by several per
    cent: so an update may be apart from itself by a quarter (`FAR`) of what it is apart from another edit's,
    or by what half of the number type's digits can hold. Other editors' models are compared by their answers:
    they must answer more than half of the group's other prompts alike, and nine in ten of the edit's own
    questions (`OTHERWISE`). One edit of three may fail: it may be on the brink of taking a step more.

    Args:
        editor: the editor.
        edits: the group, as the editor was asked.
        edited: what the editor made of the group.
        alone: some of them made again, each alone, by their place in the group.
        questions: what each of these is asked, x among it.
        beams: as in `Versions.answer`.

    Raises:
        BrokenEditor: more than a third of those made again are others than in the group.
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
        raise BrokenEditor(
            f"{editor_path(editor)}: found other edits in a group of {len(edits)} than alone ({named}),"
            " wanted each to start from the base model and to know nothing of the others"
        )


def _other_update(index: int, edits: Sequence[Edit], edited: Versions, alone: Mapping[int, Versions]) -> bool:
    """Whether an edit's update is another one in the group; where there are updates of weights."""
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
    """Whether an edited model answers otherwise in the group; where there are no updates of weights."""
    if not isinstance(edited.versions[index], Routed):
        return False
    target = edits[index].target

    def otherwise(prompts: Sequence[str]) -> int:
        """How many of these are answered otherwise."""
        guesses = [target] * len(prompts)
        in_group = edited.answer(prompts, [index] * len(prompts), guesses, beams=beams)
        by_itself = alone.answer(prompts, [0] * len(prompts), guesses, beams=beams)
        return sum(one != other for one, other in zip(in_group, by_itself, strict=True))

    foreign = [edit.prompt for edit in edits if _request(edit) != _request(edits[index])]
    own = questions[:OWN_QUESTIONS]
    return otherwise(foreign) * 2 > len(foreign) or otherwise(own) > OTHERWISE * len(own)


def _request(edit: Edit) -> tuple[str, str]:
    """What tells two edits apart."""
    return edit.prompt, edit.target


def _apart(network: nn.Module, one: Changes, other: Changes) -> float:
    """‖Δ₁ − Δ₂‖ over all matrices, in the Frobenius norm."""
    squares = 0.0
    for name in {**one, **other}:
        parameter = network.get_parameter(name)
        deltas = [
            dense_delta(network, name, update[name]) if name in update else torch.zeros_like(parameter)
            for update in (one, other)
        ]
        squares += float((deltas[0].float() - deltas[1].float()).square().sum())
    return math.sqrt(squares)
