"""The rooms of the house: which folder may import which, and that all of them are shipped."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import kebench

ROOT = Path(kebench.__file__).parent
CHECKOUT = Path(__file__).parents[1]
BASELINES = CHECKOUT / "baselines"
FLOORS = (
    ("errors",),
    ("files",),
    ("scoring",),
    ("leaderboard", "metric_modules", "task"),
    ("packs",),
    ("models",),
    ("edits",),
    ("training",),
    ("running",),
    ("beliefs", "evaluation"),
    ("cli",),
)
"""From the ground up: a room may import those below it, and of its own floor those to its left."""
ORDER = [room for floor in FLOORS for room in floor]


def room_of(module: str) -> str:
    """The folder, or the file at the top, that a module `kebench.….…` is in."""
    return module.split(".")[1]


def imports(file: Path) -> set[str]:
    """The rooms that a file imports from, at its top or within a function, but not for types alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for each in ast.walk(node)
    }
    return {
        room_of(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types
        if node.module is not None and node.module.startswith("kebench.")
    }


@cache
def arrows() -> dict[str, set[str]]:
    """Room → the other rooms that it imports."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__", "baselines", "tasks"):
            found[room] |= imports(file) - {room}
    return found


def test_every_room_has_its_floor() -> None:
    assert sorted(arrows()) == sorted(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_no_import_goes_upwards(room: str) -> None:
    below = ORDER[: ORDER.index(room)]
    assert sorted(arrows()[room] - set(below)) == []


def test_an_import_that_goes_upwards_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "upwards.py"
    file.write_text("def late():\n    from kebench.running.run import run\n", encoding="utf-8")
    assert imports(file) == {"running"}


def neighbours(file: Path) -> set[str]:
    """The files of its own folder that a file imports, for types too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {node.module for node in found if node.module is not None}


@pytest.mark.parametrize("folder", sorted({file.parent.name for file in BASELINES.glob("*/*.py")}))
def test_the_files_of_a_baseline_import_each_other_one_way(folder: str) -> None:
    arrows = {file.stem: neighbours(file) for file in (BASELINES / folder).glob("*.py")}
    order = list(TopologicalSorter(arrows).static_order())  # CycleError: a circle
    assert set(order) == set(arrows)


def test_the_papers_equations_need_nothing_that_is_not_in_the_paper() -> None:
    assert neighbours(BASELINES / "knowledge_editor" / "method.py") == set()
    assert neighbours(BASELINES / "knowledge_editor" / "hypernetwork.py") == {"method"}


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = listed["tool"]["setuptools"]["packages"]
    here = {
        ".".join(("kebench", *file.parent.relative_to(place).parts))
        for place in (CHECKOUT / "kebench",)
        for file in place.rglob("*.py")
    }
    here |= {"kebench.tasks"} | {
        ".".join(("kebench.baselines", *file.parent.relative_to(CHECKOUT / "baselines").parts))
        for file in (CHECKOUT / "baselines").rglob("*.py")
    }
    assert sorted(packages) == sorted(here)
