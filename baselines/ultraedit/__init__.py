"""UltraEdit."""

from .editor import UltraEdit

__all__ = ["UltraEdit"]
