"""LoRA: low-rank adapters trained on the edit alone (Hu et al. 2021)."""

from .editor import LoRA

__all__ = ["LoRA"]
