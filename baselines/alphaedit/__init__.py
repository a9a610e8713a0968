"""AlphaEdit: MEMIT in the null space of the base model's keys (Fang et al. 2025)."""

from .editor import AlphaEdit

__all__ = ["AlphaEdit"]
