"""Classifiers, such as BERT: the answer is a label."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.models.labels import label_columns
from kebench.models.model import AbstractModel, Prompt, PromptFormat
from kebench.models.rows import Rows, at_least_float32, pad
from kebench.task import Family


class Classifier(AbstractModel):
    """A sequence classifier.

    A network with one logit z is treated as one with the two logits (0, z), so that binary and categorical
    cross-entropy are the same. Logits are returned in the order of the task's labels, which may differ from
    the order in the network (`label_columns`).
    """

    family: ClassVar[Family] = "classifier"
    ends: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
    ) -> None:
        super().__init__(name, network, tokenizer, prompt_format)
        columns = label_columns(name, network.config, prompt_format.labels)
        self._columns = None if columns == tuple(sorted(columns)) else list(columns)

    def rows(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Rows:
        """See `AbstractModel.rows`."""
        for answer in answers:
            if answer not in self.prompt_format.labels:
                raise ValueError(
                    f"'{answer}' is not one of the labels {', '.join(self.prompt_format.labels)}"
                )
        labels = [self.prompt_format.labels.index(answer) for answer in answers]
        row = torch.arange(len(prompts), device=self.device)
        return Rows(self._inputs(prompts), torch.tensor(labels, device=self.device), row)

    def logits(self, rows: Rows) -> Float[Tensor, "scored vocab"]:
        """See `AbstractModel.logits`. Their shape is (batch, labels)."""
        return self._logits(rows.inputs)

    def unanswered(self, prompts: Sequence[Prompt]) -> Rows:
        """See `AbstractModel.unanswered`."""
        return Rows.unscored(self._inputs(prompts))

    def prompt_rows(self, prompts: Sequence[Prompt]) -> Rows:
        """See `AbstractModel.prompt_rows`."""
        return self.unanswered(prompts)

    def decode(self, prompts: Sequence[Prompt], beams: int) -> list[list[str]]:
        """See `AbstractModel.decode`. Returns labels, the most likely first."""
        # The sort is stable: if logits are equal, the first label comes first, as in argmax.
        order = (
            self._logits(self._inputs(prompts)).sort(dim=-1, descending=True, stable=True).indices[:, :beams]
        )
        return [[self.prompt_format.labels[index] for index in row] for row in order.tolist()]

    def canonical(self, prompt: Prompt, answer: str) -> str | None:
        """See `AbstractModel.canonical`."""
        return answer if answer in self.prompt_format.labels else None

    def _logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "scored vocab"]:
        logits = at_least_float32(self.network(**inputs).logits)
        if logits.shape[-1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=-1)
        return logits if self._columns is None else logits[:, self._columns]

    def _inputs(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        ids = self.prompt_ids(prompts)
        pad_id = self.tokenizer.pad_token_id
        return {
            "input_ids": pad(ids, pad_id if isinstance(pad_id, int) else 0, self.device),
            "attention_mask": pad([[1] * len(row) for row in ids], 0, self.device),
        }
