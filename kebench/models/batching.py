"""Decides how many rows are in one forward pass."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedConfig

TOKENS_A_BATCH = 4096
"""The default for the largest number of padded prompt tokens in a batch."""
MOST_TOKENS = 16 * TOKENS_A_BATCH
"""The largest number of padded prompt tokens in any batch. An accelerator is not faster with more."""
MEMORY_SHARE = 0.25
"""The share of an accelerator's memory that one batch may use; weights and beam search need the rest."""


@dataclass(frozen=True)
class Batching:
    """The largest batch that may be used, and how often a batch did not fit in memory.

    Answers do not depend on it; only the last bits of a logit do (README: Execution).

    Attributes:
        size: the requested batch size: a number of rows, or `auto`.
        limit: the largest number of rows in a batch; with `auto`, the largest number of padded prompt tokens,
            which is the number of rows times the length of the longest.
        backed_off: how often a batch did not fit in memory.
    """

    size: int | Literal["auto"] = "auto"
    limit: int = TOKENS_A_BATCH
    backed_off: int = 0

    def fits(self, rows: int, longest: int) -> bool:
        """Returns True if a batch of this size is allowed; a batch of one row always is.

        Args:
            rows: the number of rows.
            longest: the number of tokens in the longest prompt.
        """
        return rows == 1 or self._cost(rows, longest) <= self.limit

    def halved(self, rows: int, longest: int) -> "Batching":
        """Returns the batching to use after a batch of this size did not fit in memory: half of it."""
        half = self._cost((rows + 1) // 2, longest)
        return replace(self, limit=min(self.limit, half), backed_off=self.backed_off + 1)

    def facts(self) -> dict[str, str | int]:
        """Returns what the record of a run says about batches."""
        unit = "padded prompt tokens" if self.size == "auto" else "rows"
        return {
            "batch_size": self.size,
            "batch_limit": f"{self.limit} {unit}",
            "batches_backed_off": self.backed_off,
        }

    def _cost(self, rows: int, longest: int) -> int:
        return rows * longest if self.size == "auto" else rows


def batching(size: int | Literal["auto"], config: PreTrainedConfig, device: torch.device) -> Batching:
    """Returns the batching to begin with: the requested number of rows, or what should fit on the device.

    It depends on the total memory of the device, not on its free memory, so that two runs on the same machine
    begin with the same batches.
    """
    if size != "auto":
        return Batching(size, size)
    if device.type != "cuda":
        return Batching()
    return Batching(limit=tokens_in(torch.cuda.get_device_properties(device).total_memory, config))


def tokens_in(memory_bytes: int, config: PreTrainedConfig) -> int:
    """Estimates how many padded tokens fit in memory. If it is too many, the batch is halved later.

    While decoding, a token needs a key and a value in every layer, about twenty vectors inside the layer that
    is being computed, and a few rows of logits at the end. All are counted as float32.
    """
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    bytes_a_token = 4 * (2 * layers * hidden + 20 * hidden + 3 * text.vocab_size)
    fitting = int(MEMORY_SHARE * memory_bytes / bytes_a_token)
    return max(TOKENS_A_BATCH, min(MOST_TOKENS, fitting))
