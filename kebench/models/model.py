"""The interface of a base model for the harness and the editors: it takes prompts and returns answers."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.errors import BadSetting, shown
from kebench.files.writing import give_usual_mode, naming
from kebench.models.batching import Batching
from kebench.models.changes import with_weights
from kebench.models.one_pass import ANSWERS, PROMPTS, OnePass
from kebench.models.parts import Parts, find_parts
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
from kebench.models.tokens import AboutSubject, FirstInputs, TokenPlace, find_subject, token_span
from kebench.scoring.protocols import Protocol
from kebench.task import Family, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class EditsInForce:
    """The edits that are in force while a model answers a list of prompts.

    Attributes:
        enter: a context manager. Inside `enter(indices)`, the edits of prompt `indices[i]` are in force for
            row i of the batch.
        changed: the names of all parameters that any of the edits changes.
        not_finite: called with the indices of prompts whose logits are not finite. What the model returns for
            them must not be used as an answer.
    """

    enter: Callable[[Sequence[int]], AbstractContextManager[None]]
    changed: frozenset[str]
    not_finite: Callable[[Sequence[int]], None] = lambda _indices: None

    def __call__(self, indices: Sequence[int]) -> AbstractContextManager[None]:
        """See `enter`."""
        return self.enter(indices)

    def of(self, rows: Sequence[int]) -> "EditsInForce":
        """Returns the edits in force for some of the prompts."""
        return replace(
            self,
            enter=lambda indices: self.enter([rows[index] for index in indices]),
            not_finite=lambda indices: self.not_finite([rows[index] for index in indices]),
        )


base_weights = EditsInForce(lambda _indices: nullcontext(), frozenset())
"""No edit is in force: the base model answers all prompts."""


@dataclass(frozen=True)
class Prefixed:
    """A prompt, and a text that an editor puts before it.

    The limit on the length of prompts applies to the prompt only, without the text before it.
    """

    context: str
    prompt: str


Prompt = str | Prefixed
"""A prompt, with or without a text before it."""


@dataclass(frozen=True)
class PromptFormat:
    """The part of a task that a model needs: how prompts are formatted, and the limits on lengths.

    The fields have the same meaning as in `Task`.
    """

    template: str = "{prompt}"
    max_prompt_tokens: int = 32
    max_answer_tokens: int = 32
    labels: tuple[str, ...] = ()

    @staticmethod
    def of(task: Task) -> "PromptFormat":
        """Returns the prompt format of a task."""
        return PromptFormat(task.template, task.max_prompt_tokens, task.max_answer_tokens, task.labels)


COMPUTED_IN = (torch.float32, torch.bfloat16, torch.float64)
"""The types of weights in which edits can be computed. In float16, updates overflow and underflow."""


def save_pretrained(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a network and its tokenizer as a transformers folder.

    Raises:
        OSError: the folder cannot be written, for example because the disk is full. It names the folder.
    """
    with naming(folder):
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):
            give_usual_mode(file)


class AbstractModel(ABC):
    """A network with its tokenizer. Its weights never change; edits are in force only during a forward pass.

    Attributes:
        name: the name of the model in tables.
        network: the network, in evaluation mode. No parameter requires a gradient.
        tokenizer: the tokenizer of the network.
        prompt_format: how prompts are formatted.
        reuse: keeps hidden states that edits do not change.
        one_pass: says whether one forward pass can hold several rows and several edits.
        cut: the prompts that were longer than the task allows, and were truncated.
        batching: how many rows are in one forward pass. It is reduced when memory runs out.
        tf32: True if float32 products are rounded to TF32 (`kebench.models.numerics`).
        protocol: the protocol whose decoding and equality decide, for an editor that stops early, whether the
            target is the answer (`kebench.edits.versions.reached`). If it is None, the target is the answer
            when each of its tokens is the most likely one.

    Raises:
        BadSetting: the network's weights have a type in which edits cannot be computed, such as float16.
    """

    family: ClassVar[Family]
    ends: ClassVar[bool] = True
    """True if answers are sequences that end with a token; False for a classifier."""

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
        self.cut: set[Prompt] = set()
        self._prompt_ids: dict[Prompt, list[int]] = {}

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.network.device
        return device

    @property
    def dtype(self) -> str:
        """The type that the model computes in: `float32`, `tf32` or `bfloat16` if kebench has loaded it."""
        return "tf32" if self.tf32 else str(self.network.dtype).removeprefix("torch.")

    def judged(self, protocol: Protocol) -> Self:
        """Returns a model with the same network and with this `protocol`, for editors that stop early."""
        model = copy.copy(self)
        model.protocol = protocol
        return model

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """Returns a model in which other tensors replace some parameters of this model.

        It shares everything else with this model, which does not change. It has the same interface: it can
        answer and be edited, and its `network` can be passed to any code that takes a transformers network.

        Args:
            weights: parameter name → its new value, of the same shape.
        """
        model = copy.copy(self)
        model.network = with_weights(self.network, weights)
        # The model must not hold a reference to itself: its weights would stay in memory until Python next
        # looks for cycles, which in a sequence of edits is only after many models.
        runs = copy.copy(model)
        del runs.reuse
        model.reuse = Reuse(model.name, model.network, runs.logits)
        return model

    def save(self, folder: Path) -> None:
        """Writes the network and the tokenizer: see `save_pretrained`."""
        save_pretrained(self.network, self.tokenizer, folder)

    # What a family defines -----------------------------------------------------------------------------

    @abstractmethod
    def rows(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Rows:
        """Returns a batch in which each answer is teacher-forced after its prompt.

        Raises:
            ValueError: an answer is empty, or is not one of a classifier's labels.
        """

    @abstractmethod
    def logits(self, rows: Rows) -> Float[Tensor, "scored vocab"]:
        """Returns the network's logits at the scored positions of `rows`, in float32 or float64."""

    @abstractmethod
    def unanswered(self, prompts: Sequence[Prompt]) -> Rows | None:
        """Returns model inputs for prompts without answers, used to cache hidden states before decoding.

        It returns None for causal models.
        """

    @abstractmethod
    def decode(self, prompts: Sequence[Prompt], beams: int) -> list[list[str]]:
        """Decodes answers to a batch of prompts.

        Args:
            prompts: the prompts of one batch.
            beams: 1 for greedy decoding; more for beam search.

        Returns:
            For each prompt `beams` answers, the best one first.
        """

    @abstractmethod
    def canonical(self, prompt: Prompt, answer: str) -> str | None:
        """Returns `answer` as `decode` would print its tokens, or None if `decode` cannot return it."""

    @abstractmethod
    def prompt_rows(self, prompts: Sequence[Prompt]) -> Rows:
        """The batch in which each prompt has been read, and nothing of an answer but a decoder's start."""

    # What every family shares --------------------------------------------------------------------------

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Returns the token ids of each prompt in the task's template, including special tokens.

        A prompt is truncated to the length that the task allows, and kept in `cut`. A text that an
        editor puts before it (`Prefixed`) is not part of that length and is never truncated. The ids of each
        prompt are computed once and kept.

        Raises:
            BadSetting: a prompt with the text before it is longer than the model can read.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompt_ids]
        plain = [prompt for prompt in new if isinstance(prompt, str)]
        if plain:
            texts = [self.prompt_format.template.format(prompt=prompt) for prompt in plain]
            encoded = self.tokenizer(texts, truncation=True, max_length=self.prompt_format.max_prompt_tokens)
            self._prompt_ids.update(zip(plain, encoded["input_ids"], strict=True))
            self._note_cut(plain, texts, encoded["input_ids"])
        for prompt in new:
            if isinstance(prompt, Prefixed):
                self._prompt_ids[prompt] = self._prefixed_ids(prompt)
        return [self._prompt_ids[prompt] for prompt in prompts]

    def text(self, prompt: Prompt) -> str:
        """Returns a prompt in the task's template. The context of a `Prefixed` is inside the template too."""
        if isinstance(prompt, str):
            return self.prompt_format.template.format(prompt=prompt)
        return self.prompt_format.template.format(prompt=f"{prompt.context} {prompt.prompt}")

    def _prefixed_ids(self, prompt: Prefixed) -> list[int]:
        """Returns the token ids of the context followed by the prompt, where only the prompt is truncated."""
        alone = self.prompt_format.template.format(prompt=prompt.prompt)
        limit = self.prompt_format.max_prompt_tokens
        if not self.tokenizer.is_fast:
            raise BadSetting(
                f"model {self.name}: found a tokenizer that does not return the positions of tokens,"
                " wanted a fast one for an editor that puts text before prompts"
            )
        cut = self.tokenizer(alone, truncation=True, max_length=limit, return_offsets_mapping=True)
        end = max(stop for _, stop in cut["offset_mapping"])
        whole = self.text(prompt)
        ids: list[int] = self.tokenizer(whole[: len(whole) - len(alone[end:])])["input_ids"]
        answer = self.prompt_format.max_answer_tokens if self.family == "causal" else 0
        longest = self.positions
        if longest is not None and len(ids) + answer > longest:
            raise BadSetting(
                f"model {self.name}: found {len(ids)} tokens in the prompt '{prompt.prompt}' and the text"
                f" that an editor puts before it, wanted at most {longest - answer}"
            )
        return ids

    def _note_cut(self, prompts: Sequence[str], texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        """Notes the prompts whose texts were truncated to these ids, and warns when the first one is met."""
        limit = self.prompt_format.max_prompt_tokens
        full = [place for place, each in enumerate(ids) if len(each) >= limit]
        whole = self.tokenizer([texts[place] for place in full], verbose=False)["input_ids"] if full else []
        cut = [place for place, each in zip(full, whole, strict=True) if len(each) > limit]
        if cut and not self.cut:
            logger.warning(
                "model %s: prompts of more than %d tokens are cut, as the task's max_prompt_tokens says: %s",
                self.name, limit, shown(texts[cut[0]]),
            )  # fmt: skip
        self.cut.update(prompts[place] for place in cut)

    @cached_property
    def positions(self) -> int | None:
        """The largest number of tokens that the network can read at once; None if it has no such limit."""
        known = getattr(self.network.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if not isinstance(known, int):  # T5 counts distances, not positions
            return None
        for name, part in self.network.named_modules():
            skipped = getattr(part, "padding_idx", None)
            if name.endswith("position_embeddings") and isinstance(skipped, int):
                return known - skipped - 1  # RoBERTa counts positions from there
        return known

    @cached_property
    def parts(self) -> Parts:
        """Which of the network's matrices belong to attention, to MLPs and to the output."""
        labels = self.prompt_format.labels
        rows = self.rows([max(PROMPTS, key=len)], [labels[0] if labels else max(ANSWERS, key=len)])
        return find_parts(self.network, lambda: self.logits(rows))

    def subject_span(self, prompt: str, subject: str) -> range:
        """The positions of the subject's tokens in `prompt_ids([prompt])`.

        Raises:
            BadSetting: the subject is not in the prompt, or beyond the tokens that the prompt is cut to.
        """
        before = len(self.prompt_format.template.partition("{prompt}")[0].format())
        start, stop = find_subject(prompt, subject)
        characters = (before + start, before + stop)
        return token_span(self.tokenizer, self.text(prompt), characters, self.prompt_format.max_prompt_tokens)

    @torch.no_grad()
    def inputs_at(
        self,
        edits: Sequence[AboutSubject],
        layer: str,
        at: TokenPlace = "subject_last",
        *,
        decoding: bool = False,
        under: EditsInForce = base_weights,
    ) -> Float[Tensor, "edits d_in"]:
        """What a linear map is given at one token of each edit's prompt.

        Args:
            edits: whose prompts are read.
            layer: the name of the map's weight.
            at: which token. A decoder's own layers, whose first token is the one that they start with, have
                `last` alone.
            decoding: read the prompts as `decode` does, which pads and caches in its own way. The result is
                the same up to rounding.
            under: which edits are in force.

        Returns:
            (edits, d_in), in the network's own type.

        Raises:
            NotFound: there is no such linear map.
            BadSetting: an edit names no subject, or `subject_span` does not find it; or the map is not given
                one vector for each token of the prompt.
        """
        prompts = [edit.prompt for edit in edits]
        places = [self._position(edit, at) for edit in edits]
        short = copy.copy(self)
        short.prompt_format = replace(self.prompt_format, max_answer_tokens=2)

        def ask(indices: Sequence[int]) -> list[Tensor]:
            asked, seen = [prompts[index] for index in indices], FirstInputs(self.network, layer)
            with under(indices), seen.watching():
                if decoding:
                    short.decode(asked, 1)
                else:
                    self.logits(self.prompt_rows(asked))
            found = seen.at([places[index] for index in indices], at)
            return [ask([index])[0] for index in indices] if found is None else list(found)

        return torch.stack(self._in_batches(prompts, ask))

    def _position(self, edit: AboutSubject, at: TokenPlace) -> int:
        """The position of the named token among those of an edit's prompt."""
        if at == "last":
            return len(self.prompt_ids([edit.prompt])[0]) - 1
        if edit.subject is None:
            raise BadSetting(f"subject: found none for the prompt '{edit.prompt}', wanted one to look for")
        return self.subject_span(edit.prompt, edit.subject)[{"subject_first": 0, "subject_last": -1}[at]]

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Yields the indices of the prompts in batches of similar length, as large as `batching` allows.

        Indices ascend within a batch. So prompts that are next to each other in the list, as those of one
        edit are, stay next to each other. If the rows of a batch change each other's answers in this network,
        each batch has one row.
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
        """Returns the model's decoded answer to each prompt.

        Args:
            prompts: the prompts.
            guesses: for each prompt, an answer that is likely. It makes greedy decoding faster and never
                changes the result. The greedy answer equals the guess exactly if, with the guess
                teacher-forced, the most likely token at every position is the next one, including the end of
                sequence. One forward pass checks this; only if it is not so, the answer is decoded.
            beams: 1 for greedy decoding; more for beam search, which does not use guesses.
            under: the edits in force.
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
        """Returns `beams` decoded answers to each prompt, the best one first (`decode`)."""

        def ask(indices: Sequence[int]) -> list[list[str]]:
            asked = [prompts[index] for index in indices]
            finite: list[Tensor] = []

            def see(logits: Tensor) -> None:  # because `generate` continues even if logits are NaN
                finite.append(is_finite(logits).view(len(asked), -1).all(1))  # (prompts, beams)

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
        """Returns for each answer whether it is the greedy answer, including its end.

        It needs one forward pass and no decoding: the answer is the greedy one exactly if each of its tokens
        is the most likely one after the tokens before it.
        """
        return [value > 0 for value in self._teacher_forced(prompts, answers, all_argmax, under)]

    def prefers(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, under: EditsInForce = base_weights
    ) -> list[bool]:
        """Returns for each target whether, teacher-forced, each of its tokens is the most likely one.

        Much of the literature counts success in this way. Unlike in `says`, the end of the answer is not
        checked: a model that would continue after the target succeeds too. For a classifier, both are the
        same.
        """
        measure = all_argmax_before_the_end if self.ends else all_argmax
        return [value > 0 for value in self._teacher_forced(prompts, targets, measure, under)]

    def log_odds(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, under: EditsInForce = base_weights
    ) -> list[float]:
        """Returns ln(p / (1 − p)) for each answer, in nats; p is the probability of the whole answer."""
        return self._teacher_forced(prompts, answers, log_odds, under)

    def margins(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns the margin of each answer, in nats: how far it is from changing (`least_margin`)."""
        return self._teacher_forced(prompts, answers, least_margin, base_weights)

    @torch.inference_mode()
    def _teacher_forced(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str],
        measure: Callable[[Tensor, Rows], Tensor],
        under: EditsInForce,
    ) -> list[float]:
        """Returns one number for each prompt, measured on the logits with the answer teacher-forced."""

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
        """Reports the prompts whose logits are not finite (`EditsInForce.not_finite`).

        Raises:
            BadSetting: the logits of the base model are not finite.
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
        """Calls `ask` for each batch of prompts and returns its results in the order of the prompts."""
        found: dict[int, T] = {}
        for indices in self.batches(prompts):
            found.update(zip(indices, self._fitting(prompts, indices, ask), strict=True))
        return [found[index] for index in range(len(prompts))]

    def _fitting(
        self, prompts: Sequence[Prompt], indices: Sequence[int], ask: Callable[[Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """Calls `ask` for a batch. If the batch does not fit in memory, calls it for each half.

        Raises:
            torch.OutOfMemoryError: a batch of one row does not fit in memory.
        """
        try:
            return list(ask(indices))
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                raise
        # Outside the handler, in which the tensors of the failed attempt would stay in memory.
        longest = max(map(len, self.prompt_ids([prompts[index] for index in indices])))
        self.batching = self.batching.halved(len(indices), longest)
        half = (len(indices) + 1) // 2
        halves = indices[:half], indices[half:]
        return [found for part in halves for found in self._fitting(prompts, part, ask)]
