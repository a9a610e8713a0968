"""A control that changes nothing: retain 100, deterioration 0, success 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kebench.edits.edit import Edit
from kebench.edits.editor import AbstractWeightEditor, State
from kebench.models.changes import Update
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class Identity(AbstractWeightEditor):
    """Returns empty updates."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> list[Update]:
        """See `AbstractWeightEditor`."""
        return [{} for _ in edits]
