"""Fine-tuning on the edit alone."""

from .editor import FineTuning

__all__ = ["FineTuning"]
