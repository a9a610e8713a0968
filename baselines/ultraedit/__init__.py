"""UltraEdit: one normalised gradient and one least-squares solve a matrix (Gu et al. 2025)."""

from .editor import UltraEdit

__all__ = ["UltraEdit"]
