"""A base model as the harness and the editors see it: prompts in, answers out."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.errors import BadSetting
from kebench.models.batching import Batching
from kebench.models.changes import with_weights
from kebench.models.one_pass import OnePass
from kebench.models.reuse import Reuse
from kebench.models.rows import (
    Rows,
    all_argmax,
    all_argmax_before_the_end,
    is_finite,
    least_margin,
    log_odds,
    none_in_row,
    watching_logits,
)
from kebench.scoring.protocols import Protocol
from kebench.task import Family, Task

T = TypeVar("T")


@dataclass(frozen=True)
class EditsInForce:
    """Puts edits in force over one batch.

    Attributes:
        enter: inside `enter(indices)`, row i is answered by the model that prompt `indices[i]` asks for.
        changed: every parameter that any of the edits changes.
        not_finite: called with the indices of prompts whose logits are not finite; what the model gives for
            them is no answer.
    """

    enter: Callable[[Sequence[int]], AbstractContextManager[None]]
    changed: frozenset[str]
    not_finite: Callable[[Sequence[int]], None] = lambda _indices: None

    def __call__(self, indices: Sequence[int]) -> AbstractContextManager[None]:
        """See `enter`."""
        return self.enter(indices)

    def of(self, rows: Sequence[int]) -> "EditsInForce":
        """The same for a selection of its rows."""
        return replace(
            self,
            enter=lambda indices: self.enter([rows[index] for index in indices]),
            not_finite=lambda indices: self.not_finite([rows[index] for index in indices]),
        )


base_weights = EditsInForce(lambda _indices: nullcontext(), frozenset())
"""No edit: the base model answers every row."""


@dataclass(frozen=True)
class Prefixed:
    """A prompt with text that an editor puts before it.

    The limit on the length of prompts holds for the prompt alone.
    """

    context: str
    prompt: str


Prompt = str | Prefixed
"""What a model can be asked."""


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are put and answers read: the part of a task that a model needs."""

    template: str = "{prompt}"
    max_prompt_tokens: int = 32
    max_answer_tokens: int = 32
    labels: tuple[str, ...] = ()

    @staticmethod
    def of(task: Task) -> "PromptFormat":
        """The task's."""
        return PromptFormat(task.template, task.max_prompt_tokens, task.max_answer_tokens, task.labels)


COMPUTED_IN = (torch.float32, torch.bfloat16, torch.float64)
"""The types of weights that a model computes in. float16 is not one: its updates overflow and underflow."""


class AbstractModel(ABC):
    """A frozen network with its tokenizer. Weights never change: edits come and go around a forward pass.

    Attributes:
        name: what tables call it.
        network: in evaluation mode, no parameter requiring a gradient.
        tokenizer: its own.
        prompt_format: how prompts are put to it.
        one_pass: what one forward pass of it may hold.
        batching: how many rows it is asked at once; less from the first time that memory runs out.
        tf32: whether its float32 products are rounded to TF32 (`kebench.models.numerics`).
        protocol: by whose decoding and equality an editor that stops early sees whether its target is the
            answer (`kebench.edits.edited.reached`); None: by the argmax of its tokens.

    Raises:
        BadSetting: the network's weights are of a type in which no edit can be computed, such as float16.
    """

    family: ClassVar[Family]
    ends: ClassVar[bool] = True
    """Whether an answer is a sequence with an end; a classifier's is not."""

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
    ) -> None:
        for weight in network.parameters():
            if weight.is_floating_point() and weight.dtype not in COMPUTED_IN:
                found = str(weight.dtype).removeprefix("torch.")
                raise BadSetting(f"model {name}: found weights in {found}, wanted float32 or bfloat16")
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.prompt_format = prompt_format
        self.reuse = Reuse(name, self.network, self.logits)
        self.one_pass = OnePass(self)
        self.batching = Batching()
        self.tf32 = False
        self.protocol: Protocol | None = None
        self._prompt_ids: dict[Prompt, list[int]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.network.device
        return device

    @property
    def dtype(self) -> str:
        """What it computes in: `float32`, `tf32` or `bfloat16`, as far as kebench loads it."""
        return "tf32" if self.tf32 else str(self.network.dtype).removeprefix("torch.")

    def judged(self, protocol: Protocol) -> Self:
        """The same model, network and all, to whose editors an answer is what the protocol takes for one."""
        model = copy.copy(self)
        model.protocol = protocol
        return model

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """A model like this one, but for other tensors in place of some parameters.

        It shares everything else with this model, which does not change, and can do whatever this one can:
        it can be asked, edited, and handed to anything that takes a transformers network.

        Args:
            weights: parameter name → what stands there, of the same shape.
        """
        model = copy.copy(self)
        model.network = with_weights(self.network, weights)
        model.reuse = Reuse(model.name, model.network, model.logits)
        return model

    # What a family defines -----------------------------------------------------------------------------

    @abstractmethod
    def rows(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Rows:
        """The batch in which each answer is teacher-forced after its prompt.

        Raises:
            ValueError: an answer is empty, or not one of a classifier's labels.
        """

    @abstractmethod
    def logits(self, rows: Rows) -> Float[Tensor, "scored vocab"]:
        """The network's logits at the scored positions of `rows`; float32 or better (`at_least_float32`)."""

    @abstractmethod
    def unanswered(self, prompts: Sequence[Prompt]) -> Rows | None:
        """The batch that `decode` reads of prompts in one pass, before it says anything; None if no such."""

    @abstractmethod
    def decode(self, prompts: Sequence[Prompt], beams: int) -> list[list[str]]:
        """Free answers to a batch of prompts, best first: one by greedy search, `beams` by beam search."""

    @abstractmethod
    def canonical(self, prompt: Prompt, answer: str) -> str | None:
        """`answer` as `decode` would print its tokens after `prompt`; None if that is no whole answer."""

    # What every family shares --------------------------------------------------------------------------

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The token ids of each prompt in its template, special tokens included; tokenised once a prompt.

        A prompt is cut to the length that the task allows. What an editor puts before it (`Prefixed`) is not
        counted, and never cut.

        Raises:
            BadSetting: a prompt with its context is longer than the model can read.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompt_ids]
        plain = [prompt for prompt in new if isinstance(prompt, str)]
        if plain:
            texts = [self.prompt_format.template.format(prompt=prompt) for prompt in plain]
            encoded = self.tokenizer(texts, truncation=True, max_length=self.prompt_format.max_prompt_tokens)
            self._prompt_ids.update(zip(plain, encoded["input_ids"], strict=True))
        for prompt in new:
            if isinstance(prompt, Prefixed):
                self._prompt_ids[prompt] = self._prefixed_ids(prompt)
        return [self._prompt_ids[prompt] for prompt in prompts]

    def text(self, prompt: Prompt) -> str:
        """A prompt in the task's template. The context of a `Prefixed` stands before it, in the template."""
        if isinstance(prompt, str):
            return self.prompt_format.template.format(prompt=prompt)
        return self.prompt_format.template.format(prompt=f"{prompt.context} {prompt.prompt}")

    def _prefixed_ids(self, prompt: Prefixed) -> list[int]:
        """The token ids of the context and of as much of the prompt as the limit allows."""
        alone = self.prompt_format.template.format(prompt=prompt.prompt)
        limit = self.prompt_format.max_prompt_tokens
        if not self.tokenizer.is_fast:
            raise BadSetting(
                f"model {self.name}: found a tokenizer that does not tell where its tokens stand in a text,"
                " wanted a fast one for an editor that puts text before prompts"
            )
        cut = self.tokenizer(alone, truncation=True, max_length=limit, return_offsets_mapping=True)
        end = max(stop for _, stop in cut["offset_mapping"])
        whole = self.text(prompt)
        ids: list[int] = self.tokenizer(whole[: len(whole) - len(alone[end:])])["input_ids"]
        longest = getattr(self.network.config, "max_position_embeddings", None)
        if isinstance(longest, int) and len(ids) > longest:
            raise BadSetting(
                f"model {self.name}: found a prompt of {len(ids)} tokens with what an editor puts before it"
                f" ('{prompt.prompt}'), wanted at most {longest}"
            )
        return ids

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """The prompts' indices, in batches of similar length, as large as `batching` lets them be.

        They ascend within a batch: prompts that came together, as those of one edit do, stay together. A
        network in which the rows of a batch change each other's answers is asked them one by one.
        """
        if len(prompts) > 1 and not self.one_pass.holds_rows():
            self.batching = replace(self.batching, size=1, limit=1)
        lengths = [len(ids) for ids in self.prompt_ids(prompts)]
        order = sorted(range(len(prompts)), key=lambda index: (lengths[index], index))
        batch: list[int] = []
        for index in order:
            if not self.batching.fits(len(batch) + 1, lengths[index]):
                yield sorted(batch)
                batch = []
            batch.append(index)
        if batch:
            yield sorted(batch)

    @torch.inference_mode()
    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        guesses: Sequence[str] | None = None,
        beams: int = 1,
        under: EditsInForce = base_weights,
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
        if guesses is not None and beams == 1 and self.ends:
            texts = [self.canonical(prompt, guess) for prompt, guess in zip(prompts, guesses, strict=True)]
            rows = [index for index, text in enumerate(texts) if text is not None]
            proved = self.says(
                [prompts[row] for row in rows], [texts[row] or "" for row in rows], under=under.of(rows)
            )
            for row, proof in zip(rows, proved, strict=True):
                answers[row] = texts[row] if proof else None
        rows = [index for index, answer in enumerate(answers) if answer is None]
        decoded = self.hypotheses([prompts[row] for row in rows], beams, under=under.of(rows))
        for row, candidates in zip(rows, decoded, strict=True):
            answers[row] = candidates[0]
        return [answer or "" for answer in answers]

    @torch.inference_mode()
    def hypotheses(
        self, prompts: Sequence[Prompt], beams: int, *, under: EditsInForce = base_weights
    ) -> list[list[str]]:
        """The best free answers to each prompt, best first: one by greedy search, `beams` by beam search."""

        def ask(indices: Sequence[int]) -> list[list[str]]:
            asked = [prompts[index] for index in indices]
            finite: list[Tensor] = []

            def see(logits: Tensor) -> None:  # `generate` goes on with NaN as if nothing were
                finite.append(is_finite(logits).view(len(asked), -1).all(1))  # a row of ours is several beams

            with (
                self.reuse.below(under.changed, self.unanswered(asked)),
                under(indices),
                watching_logits(self.network, see),
            ):
                found = self.decode(asked, beams)
            self._tell(torch.stack(finite).all(0), prompts, indices, under)
            return found

        return self._in_batches(prompts, ask)

    def says(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, under: EditsInForce = base_weights
    ) -> list[bool]:
        """Whether each answer's tokens, its end included, are what greedy search would say.

        One pass, no decoding: so it is exactly when each token is the likeliest after those before it.
        """
        return [value > 0 for value in self._teacher_forced(prompts, answers, all_argmax, under)]

    def prefers(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, under: EditsInForce = base_weights
    ) -> list[bool]:
        """Whether each target's tokens are the likeliest one by one when the model is fed them.

        Success as much of the literature counts it: where the answer should end is given away with its
        tokens, so going on after it is no fault. A classifier's label is both.
        """
        measure = all_argmax_before_the_end if self.ends else all_argmax
        return [value > 0 for value in self._teacher_forced(prompts, targets, measure, under)]

    def log_odds(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, under: EditsInForce = base_weights
    ) -> list[float]:
        """How strongly the model believes each answer, in nats: ln(p / (1 − p)) of it as a whole."""
        return self._teacher_forced(prompts, answers, log_odds, under)

    def margins(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """How far each answer is from flipping, in nats: the least lead of its tokens over their rivals."""
        return self._teacher_forced(prompts, answers, least_margin, base_weights)

    @torch.inference_mode()
    def _teacher_forced(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str],
        measure: Callable[[Tensor, Rows], Tensor],
        under: EditsInForce,
    ) -> list[float]:
        """One number a row, taken from its logits when the model is fed the answer."""

        def ask(indices: Sequence[int]) -> list[float]:
            rows = self.rows([prompts[i] for i in indices], [answers[i] for i in indices])
            with self.reuse.below(under.changed, rows), under(indices):
                logits = self.logits(rows)
            self._tell(none_in_row(~is_finite(logits), rows), prompts, indices, under)
            return list(map(float, measure(logits, rows).tolist()))

        return self._in_batches(prompts, ask)

    def _tell(
        self, finite: Tensor, prompts: Sequence[Prompt], indices: Sequence[int], under: EditsInForce
    ) -> None:
        """Tells whoever put edits in force which of `indices` have logits that are not finite.

        Raises:
            BadSetting: it is the base model that gives none.
        """
        rows = [index for index, good in zip(indices, finite.tolist(), strict=True) if not good]
        if rows and not under.changed:
            raise BadSetting(
                f"model {self.name}: found logits that are not finite (for the prompt"
                f" '{self.text(prompts[rows[0]])}'), wanted numbers; its weights, or the type they"
                " are computed in, cannot be used"
            )
        if rows:
            under.not_finite(rows)

    def _in_batches(self, prompts: Sequence[Prompt], ask: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
        """What `ask` finds for each prompt, asked of a batch of them at a time."""
        found: dict[int, T] = {}
        for indices in self.batches(prompts):
            found.update(zip(indices, self._fitting(prompts, indices, ask), strict=True))
        return [found[index] for index in range(len(prompts))]

    def _fitting(
        self, prompts: Sequence[Prompt], indices: Sequence[int], ask: Callable[[Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """A batch's answers; where it does not fit in memory, those of its halves.

        Raises:
            torch.OutOfMemoryError: one row alone does not fit.
        """
        try:
            return list(ask(indices))
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                raise
        # Outside the handler, which would keep what the failed attempt held alive.
        longest = max(map(len, self.prompt_ids([prompts[index] for index in indices])))
        self.batching = self.batching.halved(len(indices), longest)
        half = (len(indices) + 1) // 2
        halves = indices[:half], indices[half:]
        return [found for part in halves for found in self._fitting(prompts, part, ask)]
