"""MEMIT."""

from .editor import MEMIT

__all__ = ["MEMIT"]
