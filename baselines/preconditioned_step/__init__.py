"""A preconditioned step down the edit's gradient, repeated until the answer is there; nothing is trained."""

from .editor import PreconditionedStep

__all__ = ["PreconditionedStep"]
