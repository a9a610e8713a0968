"""Fine-tuning within an Lp ball around the base weights."""

from kebench.baselines.constrained_fine_tuning.editor import ConstrainedFineTuning

__all__ = ["ConstrainedFineTuning"]
