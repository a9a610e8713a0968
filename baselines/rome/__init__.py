"""ROME."""

from .editor import ROME

__all__ = ["ROME"]
