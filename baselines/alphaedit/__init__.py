"""AlphaEdit: MEMIT whose change leaves alone what the base model's own keys read (Fang et al. 2025)."""

from .editor import AlphaEdit

__all__ = ["AlphaEdit"]
