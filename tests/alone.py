"""Edits made each by itself, as the regime `single` has them."""

from __future__ import annotations

from collections.abc import Sequence

from kebench.edits.edit import Edit
from kebench.edits.editor import AbstractEditor, AbstractWeightEditor, State
from kebench.edits.versions import Versions
from kebench.models.changes import Changes
from kebench.models.model import AbstractModel
from kebench.running.trial import versions_of_each


def updates_of(
    editor: AbstractWeightEditor, state: State, base: AbstractModel, edits: Sequence[Edit]
) -> list[Changes]:
    """One update an edit."""
    carried = [editor.begin(state, base)] * len(edits)
    return list(editor.update(state, base, [(edit,) for edit in edits], carried)[0])


def versions_of(editor: AbstractEditor, state: State, base: AbstractModel, edits: Sequence[Edit]) -> Versions:
    """One version an edit."""
    return versions_of_each(editor, state, base, edits)
