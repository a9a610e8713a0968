"""What may import torch and what may not: each asked of a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kebench

HEAVY = ("torch", "transformers", "datasets", "evaluate", "kebench.baselines")
SLOW = ("numpy", "pydantic", "yaml", "tqdm", "filelock", "rapidfuzz", "jaxtyping")
"""Not heavy, but each a good part of the 0.3 seconds that help may take."""
LIGHT = (
    "kebench",
    "kebench.running.cases",
    "kebench.cli",
    "kebench.edits.edit",
    "kebench.edits.editor_files",
    "kebench.leaderboard",
    "kebench.scoring.metrics",
    "kebench.packs.build",
    "kebench.packs.pack",
    "kebench.scoring.protocols",
    "kebench.scoring.record",
    "kebench.running.settings",
    "kebench.scoring.scorer",
    "kebench.scoring.statistics",
    "kebench.scoring.stopping",
    "kebench.task",
)
COMMAND = """
from kebench.cli import main
sys.argv = ["kebench", *{words!r}]
try:
    main()
except SystemExit as e:
    assert (e.code or 0) == {status}, e.code
"""


def heavy_after(code: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """What of `heavy` a fresh process holds after running `code`."""
    script = (
        f"import sys\n{code}\nprint([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = ast.literal_eval(done.stderr.splitlines()[-1])
    assert isinstance(found, list)
    return found


def test_importing_does_not_import_torch() -> None:
    assert heavy_after(f"import {', '.join(LIGHT)}") == []


def test_a_process_that_does_would_be_seen() -> None:
    assert heavy_after("import kebench.baselines") == ["kebench.baselines"]


def test_all_modules_without_torch_are_tried_one_by_one() -> None:
    # In one process a module could hide behind another's imports; here each stands alone.
    code = "import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    for name in (
        "kebench.scoring.metrics",
        "kebench.scoring.record",
        "kebench.leaderboard",
        "kebench.packs.build",
    ):
        assert heavy_after(code.format(names=[name])) == []


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["ls"], ["--version"], ["data", "formats"]])
def test_commands_that_compute_nothing_do_not_import_torch(words: list[str]) -> None:
    assert heavy_after(COMMAND.format(words=words, status=0)) == []


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_click_and_little_else(words: list[str]) -> None:
    assert heavy_after(COMMAND.format(words=words, status=0), HEAVY + SLOW) == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--editor", "identiti", "--task", "zsre"],
        ["run", "--editor", "identity", "--task", "zsree"],
        ["run", "--editor", "identity", "--task", "zsre", "--pack", "zsre-mand"],
        ["run", "--editor", "identity", "--task", "zsre", "--retain", "many"],
        ["run", "--editor", "identity", "--task", "zsre", "--protocol", "strikt"],
    ],
)
def test_a_typo_is_found_before_torch_is_imported(words: list[str]) -> None:
    assert heavy_after(COMMAND.format(words=words, status=2)) == []


def test_nothing_but_the_command_line_prints_or_exits() -> None:
    for file in Path(kebench.__file__).parent.rglob("*.py"):
        if file.name == "__main__.py" or file.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "exit", "sys.exit", "os._exit"), f"{file}:{node.lineno}"
