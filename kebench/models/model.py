"""A base model as the harness and the editors see it: prompts in, answers out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.models.rows import Rows, all_argmax, least_margin
from kebench.task import Family, Task

TOKENS_A_BATCH = 4096
"""Padded prompt tokens answered in one forward pass."""


Under = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Puts edits in force over one batch: inside `under(indices)`, row i of the batch is answered by the
model that prompt `indices[i]` asks for."""


def base_weights(_indices: Sequence[int]) -> AbstractContextManager[None]:
    """No edit: the base model answers every row."""
    return nullcontext()


@dataclass(frozen=True)
class Asking:
    """How prompts are put and answers read: the part of a task that a model needs."""

    template: str = "{prompt}"
    max_prompt_tokens: int = 32
    max_answer_tokens: int = 32
    labels: tuple[str, ...] = ()

    @staticmethod
    def of(task: Task) -> "Asking":
        """The task's."""
        return Asking(task.template, task.max_prompt_tokens, task.max_answer_tokens, task.labels)


class AbstractModel(ABC):
    """A frozen network with its tokenizer. Weights never change: edits come and go around a forward pass.

    Attributes:
        name: what tables call it.
        network: in evaluation mode, no parameter requiring a gradient.
        tokenizer: its own.
        asking: how prompts are put to it.
    """

    family: ClassVar[Family]

    def __init__(
        self, name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asking: Asking
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.asking = asking
        self._prompt_ids: dict[str, list[int]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.network.device
        return device

    # What a family defines -----------------------------------------------------------------------------

    @abstractmethod
    def rows(self, prompts: Sequence[str], answers: Sequence[str]) -> Rows:
        """The batch in which each answer is teacher-forced after its prompt.

        Raises:
            ValueError: an answer is empty, or not one of a classifier's labels.
        """

    @abstractmethod
    def logits(self, rows: Rows) -> Float[Tensor, "scored vocab"]:
        """The network's logits at the scored positions of `rows`."""

    @abstractmethod
    def decode(self, prompts: Sequence[str], beams: int) -> list[list[str]]:
        """Free answers to a batch of prompts, best first: one by greedy search, `beams` by beam search."""

    @abstractmethod
    def canonical(self, prompt: str, answer: str) -> str | None:
        """`answer` as `decode` would print its tokens after `prompt`; None if that is no whole answer."""

    # What every family shares --------------------------------------------------------------------------

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt in its template, special tokens included; tokenised once a string."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompt_ids]
        if new:
            texts = [self.asking.template.format(prompt=prompt) for prompt in new]
            encoded = self.tokenizer(texts, truncation=True, max_length=self.asking.max_prompt_tokens)
            self._prompt_ids.update(zip(new, encoded["input_ids"], strict=True))
        return [self._prompt_ids[prompt] for prompt in prompts]

    def batches(self, prompts: Sequence[str]) -> Iterator[list[int]]:
        """The prompts' indices, in batches of similar length and about `TOKENS_A_BATCH` tokens."""
        lengths = [len(ids) for ids in self.prompt_ids(prompts)]
        order = sorted(range(len(prompts)), key=lambda index: (lengths[index], index))
        batch: list[int] = []
        for index in order:
            if batch and (len(batch) + 1) * lengths[index] > TOKENS_A_BATCH:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @torch.inference_mode()
    def answer(
        self,
        prompts: Sequence[str],
        *,
        guesses: Sequence[str] | None = None,
        beams: int = 1,
        under: Under = base_weights,
    ) -> list[str]:
        """What the model says to each prompt, decoding freely to its own end of sequence.

        Args:
            prompts: the questions.
            guesses: an answer that each may well give. A guess changes the cost, never the result: the
                greedy answer equals the guess exactly when, fed the guess, the model's argmax at every
                position is the next token, end of sequence included. Only where it is not, decode.
            beams: 1 for greedy search; otherwise beam search, whose result no single pass can check.
            under: which edits are in force.
        """
        answers: list[str | None] = [None] * len(prompts)
        if guesses is not None and beams == 1:
            self._confirm(prompts, guesses, answers, under)
        open_rows = [index for index, answer in enumerate(answers) if answer is None]
        for batch in self.batches([prompts[index] for index in open_rows]):
            indices = [open_rows[place] for place in batch]
            with under(indices):
                found = self.decode([prompts[index] for index in indices], beams)
            for index, candidates in zip(indices, found, strict=True):
                answers[index] = candidates[0]
        return [answer if answer is not None else "" for answer in answers]

    def _confirm(
        self, prompts: Sequence[str], guesses: Sequence[str], answers: list[str | None], under: Under
    ) -> None:
        """Fills in the answers that one teacher-forced pass proves."""
        texts = [self.canonical(prompt, guess) for prompt, guess in zip(prompts, guesses, strict=True)]
        possible = [index for index, text in enumerate(texts) if text is not None]
        for batch in self.batches([prompts[index] for index in possible]):
            indices = [possible[place] for place in batch]
            said = [texts[index] or "" for index in indices]
            rows = self.rows([prompts[index] for index in indices], said)
            with under(indices):
                agreed = all_argmax(self.logits(rows), rows).tolist()
            for index, text, proved in zip(indices, said, agreed, strict=True):
                if proved:
                    answers[index] = text

    @torch.inference_mode()
    def prefers(
        self, prompts: Sequence[str], targets: Sequence[str], *, under: Under = base_weights
    ) -> list[bool]:
        """Whether each target's tokens are the likeliest one by one when the model is fed them."""
        verdict = [False] * len(prompts)
        for indices in self.batches(prompts):
            rows = self.rows([prompts[i] for i in indices], [targets[i] for i in indices])
            with under(indices):
                agreed = all_argmax(self.logits(rows), rows).tolist()
            for index, value in zip(indices, agreed, strict=True):
                verdict[index] = value
        return verdict

    @torch.inference_mode()
    def margins(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """How far each answer is from flipping, in nats: the least lead of its tokens over their rivals."""
        found = [0.0] * len(prompts)
        for indices in self.batches(prompts):
            rows = self.rows([prompts[i] for i in indices], [answers[i] for i in indices])
            for index, value in zip(indices, least_margin(self.logits(rows), rows).tolist(), strict=True):
                found[index] = value
        return found

    @torch.inference_mode()
    def hypotheses(self, prompts: Sequence[str], beams: int) -> list[list[str]]:
        """The `beams` best answers of the base model to each prompt, best first."""
        found: list[list[str]] = [[] for _ in prompts]
        for indices in self.batches(prompts):
            for index, texts in zip(indices, self.decode([prompts[i] for i in indices], beams), strict=True):
                found[index] = texts
        return found
