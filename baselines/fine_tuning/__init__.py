"""Fine-tuning on the edit alone."""

from kebench.baselines.fine_tuning.editor import FineTuning

__all__ = ["FineTuning"]
