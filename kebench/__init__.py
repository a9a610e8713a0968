"""kebench: a benchmark harness for knowledge editing of language models."""

from typing import TYPE_CHECKING, Any

from kebench.errors import KebenchError

if TYPE_CHECKING:
    from kebench.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "KebenchError", "__version__", "evaluate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports torch only when something that computes is asked for."""
    if name in ("evaluate", "Evaluation"):
        from kebench import evaluation

        return getattr(evaluation, name)
    raise AttributeError(f"module 'kebench' has no attribute '{name}'")
