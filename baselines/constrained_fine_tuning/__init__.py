"""Fine-tuning within an Lp ball around the base weights."""

from .editor import ConstrainedFineTuning

__all__ = ["ConstrainedFineTuning"]
