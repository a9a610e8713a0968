"""A control that changes nothing: retain 100, deterioration 0, success 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractWeightEditor, Carried, State
from kebench.models.changes import Changes
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class Identity(AbstractWeightEditor):
    """Returns empty updates."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`."""
        return [{} for _ in batches], carried
