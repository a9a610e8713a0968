"""UltraEdit: one normalised gradient, and one least-squares problem for each matrix (Gu et al. 2025)."""

from .editor import UltraEdit

__all__ = ["UltraEdit"]
