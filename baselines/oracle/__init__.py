"""A control that knows the answers: success, equivalence and retain 100."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractMemoryEditor, Carried, State
from kebench.edits.versions import Route, Says
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class Oracle(AbstractMemoryEditor):
    """Answers x and its paraphrases with the target. Only a control sees the paraphrases."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        """See `AbstractMemoryEditor.remember`. The memory is a table: prompt → target."""
        return [
            Carried(data={**(memory.data or {}), **_table(batch)})
            for batch, memory in zip(batches, memories, strict=True)
        ]

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        """See `AbstractMemoryEditor.route`. A prompt in the table is answered with its target."""
        return [Says(memory.data[prompt]) if prompt in memory.data else None for prompt in prompts]


def _table(batch: Batch) -> dict[str, str]:
    return {prompt: edit.target for edit in batch for prompt in (edit.prompt, *edit.paraphrases)}
