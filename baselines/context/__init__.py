"""In-context editing: the new fact stands before the prompts to which it may apply. No weight changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractMemoryEditor, Carried, State
from kebench.edits.versions import Route, WithContext
from kebench.errors import check_positive
from kebench.models.model import AbstractModel


@dataclass(frozen=True)
class Context(AbstractMemoryEditor):
    """The model reads "New fact: x a." and then the prompt.

    IKE and ICE put the fact before *every* prompt (`router: none`), so they also change answers to other
    questions. With `router: subject`, the fact stands only before prompts that contain its subject. A real
    system would find facts in the same way.

    Attributes:
        router: `subject`, or `none` for every prompt.
        facts: the largest number of facts before a prompt. They are the latest ones, and fewer if the model
            cannot read so long a text.

    Source: Zheng et al. 2023, *Can We Edit Factual Knowledge by In-Context Learning?*, arXiv 2305.12740,
    without its demonstrations (ICE of Cohen et al. 2023, arXiv 2307.12976).
    """

    citation: ClassVar[str] = "zheng2023can; cohen2023evaluating"

    router: Literal["subject", "none"] = "subject"
    facts: int = 4

    def __post_init__(self) -> None:
        check_positive(self, "facts")

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> list[Carried]:
        """See `AbstractMemoryEditor.remember`. A later fact with the same prompt replaces an earlier one."""
        found = []
        for batch, memory in zip(batches, memories, strict=True):
            kept = {prompt: each for prompt, *each in memory.data or []}
            for edit in batch:
                kept.pop(edit.prompt, None)
                kept[edit.prompt] = [edit.target, edit.subject or edit.prompt]
            found.append(Carried(data=[[prompt, *each] for prompt, each in kept.items()]))
        return found

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        """See `AbstractMemoryEditor.route`."""
        return [self._context(base, memory, prompt) for prompt in prompts]

    def _context(self, base: AbstractModel, memory: Carried, prompt: str) -> Route:
        applying = [
            f"New fact: {x} {target}."
            for x, target, subject in memory.data or []
            if self.router == "none" or subject.casefold() in prompt.casefold()
        ]
        for first in range(max(0, len(applying) - self.facts), len(applying)):
            context = " ".join(applying[first:])
            if self._fits(base, context):
                return WithContext(context)
        return None

    def _fits(self, base: AbstractModel, context: str) -> bool:
        """Returns True if the model can read the context with the longest prompt and answer."""
        if base.positions is None:
            return True
        limits = base.prompt_format
        left = base.positions - limits.max_prompt_tokens - limits.max_answer_tokens
        return len(base.tokenizer(context, verbose=False)["input_ids"]) <= left
