"""Sequence-to-sequence models (BART, T5): the answer is the output of the decoder."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kebench.errors import BadSetting
from kebench.models.ends import end_tokens, one_or_list, spelled
from kebench.models.model import AbstractModel, Prompt, PromptFormat
from kebench.models.rows import IGNORE, Rows, at_least_float32, only_at, pad
from kebench.task import Family


class Seq2Seq(AbstractModel):
    """An encoder-decoder model.

    The decoder reads its start token, the answer without a BOS token, and EOS, as in De Cao et al. A decoded
    answer ends before the first token that is in `ends_with`; a target ends with `ends_with[0]`. Some
    generation configurations force a first token (recent ones of BART force BOS). Such a model was trained to
    begin with this token, so its targets begin with it too. Nothing else in the configuration is used: no
    n-gram blocking, no minimum length, no early stopping.
    """

    family: ClassVar[Family] = "seq2seq"

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
    ) -> None:
        super().__init__(name, network, tokenizer, prompt_format)
        self.start = _start(name, network)
        self.forced: int | None = getattr(network.generation_config, "forced_bos_token_id", None)
        self.ends_with = end_tokens(name, network, tokenizer)
        pad_ids = (getattr(network.config, "pad_token_id", None), tokenizer.pad_token_id, self.ends_with[0])
        self.pad: int = next(token for token in pad_ids if isinstance(token, int))
        self._target_ids: dict[str, list[int]] = {}
        # `generate` takes all settings that are not passed to it from here, so the checkpoint's are replaced.
        network.generation_config = GenerationConfig(
            decoder_start_token_id=self.start,
            forced_bos_token_id=self.forced,
            eos_token_id=one_or_list(self.ends_with),
            pad_token_id=self.pad,
        )

    def rows(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Rows:
        """See `AbstractModel.rows`."""
        targets = [self.target_ids(answer) for answer in answers]
        decoder = [[self.start, *target[:-1]] for target in targets]
        inputs = {**self._inputs(prompts), "decoder_input_ids": pad(decoder, self.pad, self.device)}
        # A forced token does not depend on its logit, so it is not scored.
        labels = targets if self.forced is None else [[IGNORE, *target[1:]] for target in targets]
        return Rows.of(inputs, pad(labels, IGNORE, self.device), self.ends_with)

    def logits(self, rows: Rows) -> Float[Tensor, "scored vocab"]:
        """See `AbstractModel.logits`."""
        assert rows.mask is not None
        with only_at(self.network, rows.mask):
            logits: Tensor = self.network(**rows.inputs, use_cache=False).logits
        return at_least_float32(logits)

    def unanswered(self, prompts: Sequence[Prompt]) -> Rows:
        """See `AbstractModel.unanswered`. Returns the inputs of the encoder."""
        return Rows.unscored(self._inputs(prompts))

    def prompt_rows(self, prompts: Sequence[Prompt]) -> Rows:
        """See `AbstractModel.prompt_rows`; what follows the decoder's start token is scored."""
        start = torch.full((len(prompts), 1), self.start, device=self.device)
        inputs = {**self._inputs(prompts), "decoder_input_ids": start}
        return Rows.of(inputs, torch.full_like(start, self.ends_with[0]), self.ends_with)

    def decode(self, prompts: Sequence[Prompt], beams: int) -> list[list[str]]:
        """See `AbstractModel.decode`."""
        ids = self.network.generate(
            **self._inputs(prompts),
            max_new_tokens=self.prompt_format.max_answer_tokens,
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
        )
        texts = [self._text(row) for row in ids[:, 1:].tolist()]
        return [texts[place : place + beams] for place in range(0, len(texts), beams)]

    def canonical(self, prompt: Prompt, answer: str) -> str | None:
        """See `AbstractModel.canonical`."""
        if not answer.strip():
            return None
        ids = self.target_ids(answer)
        # The printed text must have the same tokens; otherwise `says` would check a different answer.
        text = self._text(ids)
        same = text != "" and self.target_ids(text) == ids
        return text if same and len(ids) <= self.prompt_format.max_answer_tokens else None

    def target_ids(self, answer: str) -> list[int]:
        """Returns the token ids that the decoder should generate; the last one ends an answer.

        Raises:
            ValueError: the answer is empty.
        """
        if not answer.strip():
            raise ValueError("an empty answer cannot be a target")
        if answer not in self._target_ids:
            ids = self.tokenizer(text_target=answer.strip(), add_special_tokens=False)["input_ids"]
            first = [self.forced] if self.forced is not None else []
            self._target_ids[answer] = [*first, *ids, self.ends_with[0]]
        return self._target_ids[answer]

    def _text(self, ids: list[int]) -> str:
        return spelled(ids, self.ends_with, self.tokenizer)

    def _inputs(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        ids = self.prompt_ids(prompts)
        return {
            "input_ids": pad(ids, self.pad, self.device),
            "attention_mask": pad([[1] * len(row) for row in ids], 0, self.device),
        }


def _start(name: str, network: PreTrainedModel) -> int:
    """Returns the token that the decoder reads first, as in `network.generate()`."""
    for field in ("decoder_start_token_id", "bos_token_id"):
        for place in (network.generation_config, network.config):
            if isinstance(found := getattr(place, field, None), int):
                return found
    raise BadSetting(f"model {name}: found no decoder_start_token_id, the first token of its decoder")
