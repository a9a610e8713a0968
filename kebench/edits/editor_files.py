"""Editors as files: one YAML a row of a leaderboard, in `baselines/`. Read here without importing any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kebench.errors import BadFile, NotFound
from kebench.files.yaml import as_mapping, folder_of, read_yaml, validated


@dataclass(frozen=True)
class EditorFile:
    """Which class, with which settings.

    Attributes:
        name: what tables call it: the file's name without `.yaml`.
        editor: `module:Class`.
        description: one line.
        settings: the class's fields; those left out keep their defaults.
        tuned: `task/pack` → the settings that take the place of those in `settings` on that pack.
    """

    name: str
    editor: str
    description: str
    settings: Mapping[str, Any]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def editor_files() -> dict[str, Path]:
    """Every editor in `baselines/` by name, sorted."""
    return {path.stem: path for path in sorted(folder_of("kebench.baselines").glob("*/*.yaml"))}


def read_editor_file(name: str) -> tuple[EditorFile, Path | str]:
    """An editor by its name in `baselines/`, by the path of a YAML file, or as `module:Class`.

    Raises:
        NotFound: there is no such editor; the nearest name is offered.
        BadFile: the file holds a wrong field.
    """
    if ":" in name and not name.endswith((".yaml", ".yml")):
        return EditorFile(name.partition(":")[2], name, "", {}), name
    path = Path(name) if name.endswith((".yaml", ".yml")) else editor_files().get(name)
    if path is None or not path.is_file():
        raise NotFound("editor", name, editor_files())
    fields = as_mapping(read_yaml(path), path)
    file = validated(EditorFile, {"name": path.stem, "description": "", "settings": {}, **fields}, path)
    for place in file.tuned:
        if not all(place.partition("/")[::2]):
            raise BadFile(path, f"tuned: found '{place}', wanted the name of a task and of a pack: task/pack")
    return file, path
