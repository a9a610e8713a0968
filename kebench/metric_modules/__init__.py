"""The four scores as modules of Hugging Face `evaluate`, loaded by path: no network, no Hub.

    import evaluate
    from kebench.metric_modules import path_of

    success_rate = evaluate.load(path_of("success_rate"))
    success_rate.compute(predictions=["Paris"], references=["paris."], base_predictions=["Rome"])

They are thin: kebench computes the scores itself and does not import these. `evaluate` copies a module
elsewhere before it runs it, so none of them may import from its own folder.
"""

from __future__ import annotations

from pathlib import Path

from kebench.errors import NotFound

NAMES = ("success_rate", "equivalence_accuracy", "retain_accuracy", "performance_deterioration")


def path_of(name: str) -> str:
    """The path to give to `evaluate.load`.

    Raises:
        NotFound: there is no such module; the nearest name is offered.
    """
    if name not in NAMES:
        raise NotFound("metric module", name, NAMES)
    return str(Path(__file__).parent / name / f"{name}.py")
