"""Finds plug-ins of installed packages, and imports objects given as `module:name`.

A package declares its plug-ins as entry points in its `pyproject.toml`, in three groups:

    [project.entry-points."kebench.editors"]
    mine = "my_package"              # the folder of my_package holds mine.yaml
    other = "my_package.other:Other" # or: an editor class with its default settings

    [project.entry-points."kebench.tasks"]
    mine = "my_package"              # the folder of my_package holds mine.yaml

    [project.entry-points."kebench.formats"]
    mine = "my_package.formats:read" # a function: see kebench.packs.formats

Plug-ins are listed without being imported.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from kebench.errors import BadFile
from kebench.files.yaml import folder_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

EDITORS, TASKS, FORMATS = "kebench.editors", "kebench.tasks", "kebench.formats"


def plugins(group: str) -> dict[str, EntryPoint]:
    """Returns the entry points of a group: name → entry point, sorted by name.

    If two packages use the same name, the one that comes first on Python's path is used.
    """
    from importlib.metadata import entry_points  # slow to import, and help needs no plug-in

    found: dict[str, EntryPoint] = {}
    for each in entry_points(group=group):
        found.setdefault(each.name, each)
    return dict(sorted(found.items()))


def plugin_file(plugin: EntryPoint) -> Path:
    """Returns the YAML file of a plug-in whose entry point is a package: `<name>.yaml` in its folder.

    Raises:
        BadFile: the package or the file does not exist.
    """
    try:
        file = folder_of(plugin.value) / f"{plugin.name}.yaml"
    except (ImportError, AssertionError, ValueError):
        raise BadFile(_shown(plugin), f"found '{plugin.value}', wanted the name of a package") from None
    if not file.is_file():
        raise BadFile(_shown(plugin), f"found '{plugin.value}', wanted a package with the file {file.name}")
    return file


def _shown(plugin: EntryPoint) -> str:
    return f"entry point {plugin.name} of {plugin.group}"


def imported(reference: str, beside: Path | None = None) -> Any:
    """Imports the object given as `module:name`.

    Args:
        reference: `module:name`.
        beside: a file whose folder is searched for the module too, after Python's own path. Afterwards
            `sys.path` is as before, so such a module should do its imports at its top.

    Raises:
        ImportError, AttributeError, ValueError: the module does not exist, or has no such name.
        BadFile: the module is beside the file, but another module of that name was found first.
    """
    if beside is None:
        return resolve_name(reference)
    folder = beside.resolve().parent
    before = list(sys.path)
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        found = resolve_name(reference)
    finally:
        sys.path[:] = before
    top = reference.partition(":")[0].partition(".")[0]
    candidates = [file for file in (folder / f"{top}.py", folder / top / "__init__.py") if file.is_file()]
    file = getattr(sys.modules.get(top), "__file__", None)
    if top != "kebench" and candidates and (file is None or Path(file).resolve() not in candidates):
        raise BadFile(
            beside,
            f"editor: the module '{top}' was loaded from {file}, wanted {candidates[0]}: rename one of them",
        )
    return found
