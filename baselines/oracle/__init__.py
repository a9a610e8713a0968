"""A control that looks the answer up: success, equivalence and retain 100."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kebench.edits.edit import Edit
from kebench.edits.edited import AbstractEdited
from kebench.edits.editor import AbstractEditor, State
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class Oracle(AbstractEditor):
    """Keeps the edit in a table: x and its paraphrases, which only a control is shown, get the target."""

    citation: ClassVar[str] = ""
    is_control: ClassVar[bool] = True

    def edit(self, state: State, base: AbstractModel, edits: Sequence[Edit]) -> AbstractEdited:
        """See `AbstractEditor`."""
        return LookedUp(base, edits)


class LookedUp(AbstractEdited):
    """The base model, but for the edited questions."""

    def __init__(self, base: AbstractModel, edits: Sequence[Edit]) -> None:
        self.base = base
        self.tables = [dict.fromkeys((edit.prompt, *edit.paraphrases), edit.target) for edit in edits]

    def answer(
        self, prompts: Sequence[str], which: Sequence[int], guesses: Sequence[str], *, beams: int = 1
    ) -> list[str]:
        """See `AbstractEdited`."""
        known = [self.tables[edit].get(prompt) for prompt, edit in zip(prompts, which, strict=True)]
        others = [index for index, answer in enumerate(known) if answer is None]
        asked = self.base.answer(
            [prompts[index] for index in others], guesses=[guesses[index] for index in others], beams=beams
        )
        found = dict(zip(others, asked, strict=True))
        return [found[index] if answer is None else answer for index, answer in enumerate(known)]

    def prefers(self, prompts: Sequence[str], which: Sequence[int], targets: Sequence[str]) -> None:
        """See `AbstractEdited`: a table has no token probabilities."""
