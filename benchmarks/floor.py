"""Computes the least time of a forward pass: its matrix products at the machine's rate for large matrices."""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from kebench.models.model import AbstractModel

ROWS = 16


def forward_operations(model: AbstractModel, prompts: Sequence[str], answers: Sequence[str]) -> float:
    """Returns the mean number of operations for one teacher-forced row: 2 · weights · tokens, and attention.

    Each row is computed alone, so that padding is not counted.
    """
    pairs = list(zip(prompts, answers, strict=True))[:: max(1, len(prompts) // ROWS)]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for prompt, answer in pairs:
            model.logits(model.rows([prompt], [answer]))
    return float(counter.get_total_flops()) / len(pairs)
