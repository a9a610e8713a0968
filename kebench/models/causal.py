"""Causal language models (GPT-2, Llama, Qwen): the answer is the continuation of the prompt."""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kebench.models.ends import end_tokens, one_or_list, spelled
from kebench.models.model import AbstractModel, Prompt, PromptFormat
from kebench.models.rows import IGNORE, Rows, at_least_float32, only_at, pad
from kebench.task import Family


class Causal(AbstractModel):
    """A decoder-only model.

    The answer follows the prompt after one space, and ends before the first token that is in `ends_with`. The
    text `prompt + " " + answer` is tokenised as a whole, and the answer's tokens are those after the prompt's
    tokens. So neither a word-boundary mark nor a BOS token appears twice. If the tokenizer has no BOS token,
    none is added. A target ends with `ends_with[0]`.
    """

    family: ClassVar[Family] = "causal"

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
    ) -> None:
        super().__init__(name, network, tokenizer, prompt_format)
        self.ends_with = end_tokens(name, network, tokenizer)
        pad_id = tokenizer.pad_token_id
        self.pad = pad_id if isinstance(pad_id, int) else self.ends_with[0]
        self._target_ids: dict[tuple[Prompt, str], list[int]] = {}
        network.generation_config = GenerationConfig(
            eos_token_id=one_or_list(self.ends_with), pad_token_id=self.pad
        )

    def rows(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Rows:
        """See `AbstractModel.rows`. Padding is on the right, so that positions count from the first token."""
        starts = self.prompt_ids(prompts)
        targets = [self.target_ids(p, a) for p, a in zip(prompts, answers, strict=True)]
        whole = [[*start, *target[:-1]] for start, target in zip(starts, targets, strict=True)]
        labels = [[*[IGNORE] * (len(s) - 1), *t] for s, t in zip(starts, targets, strict=True)]
        inputs = {
            "input_ids": pad(whole, self.pad, self.device),
            "attention_mask": pad([[1] * len(row) for row in whole], 0, self.device),
        }
        return Rows.of(inputs, pad(labels, IGNORE, self.device), self.ends_with)

    def logits(self, rows: Rows) -> Float[Tensor, "scored vocab"]:
        """See `AbstractModel.logits`."""
        assert rows.mask is not None
        with only_at(self.network, rows.mask):
            logits: Tensor = self.network(**rows.inputs, use_cache=False).logits
        return at_least_float32(logits)

    def unanswered(self, prompts: Sequence[Prompt]) -> None:
        """See `AbstractModel.unanswered`. Returns None: decoding uses the prompt's states in every layer."""

    def prompt_rows(self, prompts: Sequence[Prompt]) -> Rows:
        """See `AbstractModel.prompt_rows`; what follows the prompt's last token is scored."""
        starts = self.prompt_ids(prompts)
        labels = [[*[IGNORE] * (len(start) - 1), self.ends_with[0]] for start in starts]
        inputs = {
            "input_ids": pad(starts, self.pad, self.device),
            "attention_mask": pad([[1] * len(start) for start in starts], 0, self.device),
        }
        return Rows.of(inputs, pad(labels, IGNORE, self.device), self.ends_with)

    def decode(self, prompts: Sequence[Prompt], beams: int) -> list[list[str]]:
        """See `AbstractModel.decode`. Padding is on the left, so that all answers start at one position."""
        starts = self.prompt_ids(prompts)
        inputs = pad(starts, self.pad, self.device, left=True)
        ids = self.network.generate(
            input_ids=inputs,
            attention_mask=pad([[1] * len(row) for row in starts], 0, self.device, left=True),
            max_new_tokens=self.prompt_format.max_answer_tokens,
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
        )
        texts = [self._text(row) for row in ids[:, inputs.shape[1] :].tolist()]
        return [texts[place : place + beams] for place in range(0, len(texts), beams)]

    def canonical(self, prompt: Prompt, answer: str) -> str | None:
        """See `AbstractModel.canonical`."""
        if not answer.strip():
            return None
        ids = self.target_ids(prompt, answer)
        # The printed text must have the same tokens; otherwise `says` would check a different answer.
        text = self._text(ids)
        same = text != "" and self.target_ids(prompt, text) == ids
        return text if same and len(ids) <= self.prompt_format.max_answer_tokens else None

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """See `AbstractModel.prompt_ids`. The EOS token that some tokenizers add is removed."""
        return [self._without_end(ids) for ids in super().prompt_ids(prompts)]

    def target_ids(self, prompt: Prompt, answer: str) -> list[int]:
        """Returns the token ids of an answer after a prompt; the last one is the token that ends an answer.

        Raises:
            ValueError: the answer is empty.
        """
        if not answer.strip():
            raise ValueError("an empty answer cannot be a target")
        key = (prompt, answer)
        if key in self._target_ids:
            return self._target_ids[key]
        # The prompt is not truncated here. If the tokenizer merges its last token with the answer's first,
        # the answer's tokens are taken after a full stop instead, or else without a prompt.
        for text in (self.text(prompt), ".", ""):
            start, joint = self._whole(text), self._whole(f"{text} {answer.strip()}")
            if joint[: len(start)] == start:
                break
        self._target_ids[key] = [*joint[len(start) :], self.ends_with[0]]
        return self._target_ids[key]

    def _whole(self, text: str) -> list[int]:
        """Returns the token ids of a text, not truncated, without the EOS token that some tokenizers add."""
        return self._without_end(self.tokenizer(text)["input_ids"])

    def _text(self, ids: list[int]) -> str:
        return spelled(ids, self.ends_with, self.tokenizer)

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids
