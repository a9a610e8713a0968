"""Model families behind one interface: prompts in, answers out."""

from kebench.models.load import load_model
from kebench.models.model import AbstractModel, Asking

__all__ = ["AbstractModel", "Asking", "load_model"]
