"""MEMIT: many facts at once, spread over the MLPs of several layers (Meng et al. 2022)."""

from .editor import MEMIT

__all__ = ["MEMIT"]
