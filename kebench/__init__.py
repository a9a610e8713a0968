"""kebench: a benchmark harness for knowledge editing of language models.

What an editor needs is imported from here: `from kebench import AbstractWeightEditor, Edit, LowRank`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kebench.errors import KebenchError

if TYPE_CHECKING:
    from kebench.edits.applications import edit_gradients
    from kebench.edits.edit import Batch, Edit
    from kebench.edits.editor import (
        AbstractEditor,
        AbstractMemoryEditor,
        AbstractTrainedEditor,
        AbstractWeightEditor,
        Carried,
        State,
        TrainingSet,
        Workspace,
    )
    from kebench.edits.updates import Update
    from kebench.edits.versions import Route, Says, UnderUpdate, WithContext
    from kebench.evaluation import Evaluation, evaluate
    from kebench.models.changes import Dense, LowRank
    from kebench.models.layers import editable
    from kebench.models.model import AbstractModel
    from kebench.running.one_edit import Edited, edit

_HOME = {
    "kebench.evaluation": ("Evaluation", "evaluate"),
    "kebench.edits.edit": ("Batch", "Edit"),
    "kebench.edits.editor": (
        "AbstractEditor",
        "AbstractMemoryEditor",
        "AbstractTrainedEditor",
        "AbstractWeightEditor",
        "Carried",
        "State",
        "TrainingSet",
        "Workspace",
    ),
    "kebench.edits.versions": ("Route", "Says", "UnderUpdate", "WithContext"),
    "kebench.edits.applications": ("edit_gradients",),
    "kebench.models.changes": ("Dense", "LowRank"),
    "kebench.edits.updates": ("Update",),
    "kebench.models.layers": ("editable",),
    "kebench.models.model": ("AbstractModel",),
    "kebench.running.one_edit": ("Edited", "edit"),
}
"""Module → the names that are imported from it when they are first asked for: most of them import torch."""
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AbstractEditor",
    "AbstractMemoryEditor",
    "AbstractModel",
    "AbstractTrainedEditor",
    "AbstractWeightEditor",
    "Batch",
    "Carried",
    "Dense",
    "Edit",
    "Edited",
    "Evaluation",
    "KebenchError",
    "LowRank",
    "Route",
    "Says",
    "State",
    "TrainingSet",
    "UnderUpdate",
    "Update",
    "WithContext",
    "Workspace",
    "__version__",
    "edit",
    "edit_gradients",
    "editable",
    "evaluate",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports a name's module only when the name is asked for."""
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'kebench' has no attribute '{name}'")
