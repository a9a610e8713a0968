"""A preconditioned gradient step, repeated until the model gives the answer. Nothing is trained."""

from .editor import PreconditionedStep

__all__ = ["PreconditionedStep"]
