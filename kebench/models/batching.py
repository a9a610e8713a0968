"""How many rows one forward pass takes."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedConfig

TOKENS_A_BATCH = 4096
"""Padded prompt tokens in a batch, where nothing else is known."""
MOST_TOKENS = 16 * TOKENS_A_BATCH
"""An accelerator gains nothing from more."""
MEMORY_SHARE = 0.25
"""Of an accelerator's memory, that one batch may be expected to take: weights and five beams want theirs."""


@dataclass(frozen=True)
class Batching:
    """The most that one forward pass takes, and how often even that was too much.

    Answers do not depend on it, but for the last bits of a logit (README: Execution).

    Attributes:
        size: what was asked for: rows, or `auto`.
        limit: the most rows in a batch; with `auto`, the most padded prompt tokens: rows times the longest.
        backed_off: how often a batch did not fit in memory.
    """

    size: int | Literal["auto"] = "auto"
    limit: int = TOKENS_A_BATCH
    backed_off: int = 0

    def fits(self, rows: int, longest: int) -> bool:
        """Whether so many rows, the longest of so many tokens, may share a batch; one always may."""
        return rows == 1 or self._cost(rows, longest) <= self.limit

    def halved(self, rows: int, longest: int) -> "Batching":
        """What to go by after such a batch did not fit: half of it, or less if that is already known."""
        half = self._cost((rows + 1) // 2, longest)
        return replace(self, limit=min(self.limit, half), backed_off=self.backed_off + 1)

    def facts(self) -> dict[str, str | int]:
        """What a record says of it."""
        unit = "padded prompt tokens" if self.size == "auto" else "rows"
        return {
            "batch_size": self.size,
            "batch_limit": f"{self.limit} {unit}",
            "batches_backed_off": self.backed_off,
        }

    def _cost(self, rows: int, longest: int) -> int:
        return rows * longest if self.size == "auto" else rows


def batching(size: int | Literal["auto"], config: PreTrainedConfig, device: torch.device) -> Batching:
    """The batches to begin with: the rows asked for, or what should fit on the device.

    By the memory it has, not by what is free: so the same machine begins with the same batches.
    """
    if size != "auto":
        return Batching(size, size)
    if device.type != "cuda":
        return Batching()
    return Batching(limit=tokens_in(torch.cuda.get_device_properties(device).total_memory, config))


def tokens_in(memory_bytes: int, config: PreTrainedConfig) -> int:
    """How many padded tokens should fit: a guess, which backing off corrects.

    A token takes a key and a value in every layer while decoding, some twenty vectors inside the layer that
    computes, and a few rows of logits at the end, all counted as float32.
    """
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    bytes_a_token = 4 * (2 * layers * hidden + 20 * hidden + 3 * text.vocab_size)
    fitting = int(MEMORY_SHARE * memory_bytes / bytes_a_token)
    return max(TOKENS_A_BATCH, min(MOST_TOKENS, fitting))
