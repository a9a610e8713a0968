"""ROME and R-ROME: a rank-one change of one MLP, in closed form (Meng et al. 2022; Gupta et al. 2024)."""

from .editor import ROME

__all__ = ["ROME"]
