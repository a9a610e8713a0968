"""AlphaEdit."""

from .editor import AlphaEdit

__all__ = ["AlphaEdit"]
