"""The least a forward pass can cost: its matrix products, at the rate the machine multiplies large ones."""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from kebench.models.model import AbstractModel

ROWS = 16


def forward_operations(model: AbstractModel, prompts: Sequence[str], answers: Sequence[str]) -> float:
    """Operations of one teacher-forced row, a mean over some: 2 · weights · tokens, and attention.

    Each row goes by itself, so that no padding is counted.
    """
    pairs = list(zip(prompts, answers, strict=True))[:: max(1, len(prompts) // ROWS)]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for prompt, answer in pairs:
            model.logits(model.rows([prompt], [answer]))
    return float(counter.get_total_flops()) / len(pairs)
