"""`kebench ls`."""

from __future__ import annotations

from pathlib import Path

import click

from kebench.errors import KebenchError, did_you_mean


@click.command()
@click.argument("what", required=False, default="all", metavar="[editors|tasks|models|runs]")
def ls(what: str) -> None:
    """List editors, tasks, models and runs.

    With an argument, only these are listed. Runs are those in the folder `runs`.
    """
    sections = {"editors": _editors, "tasks": _tasks, "models": _models, "runs": _runs}
    if what != "all" and what not in sections:
        raise KebenchError(f"ls: cannot list '{what}'{did_you_mean(what, sections)}")
    for name, lines in sections.items():
        if what in ("all", name):
            click.echo(f"{name}:" if what == "all" else "", nl=what == "all")
            for line in lines():
                click.echo(f"  {line}")


def _editors() -> list[str]:
    from kebench.edits.editor_files import editor_files

    lines = []
    for file in editor_files():
        lines += [f"{row.name:40} {row.description}" for row in file.rows]
        recipes = [f"{name} (default)" if name == file.default_recipe else name for name in file.recipes]
        choices = [
            *([f"@ {', '.join(recipes)}"] if len(recipes) > 1 else []),
            *([f"+ {', '.join(file.variants)}"] if file.variants else []),
        ]
        lines += [f"  {file.name} {line}" for line in choices]
    return lines


def _tasks() -> list[str]:
    from kebench.task import load_task, task_names

    return [f"{name:32} {load_task(name).description}" for name in task_names()]


def _models() -> list[str]:
    from kebench.task import load_task, task_names

    return [
        f"{model:32} {name}{' (default)' if model == task.default_model else ''}"
        for name in task_names()
        for task in (load_task(name),)
        for model in task.models
    ]


def _runs() -> list[str]:
    """Returns a line for each run in the folder `runs` of the working directory."""
    import json

    found = []
    for file in sorted(Path("runs").glob("*/run.json")):
        editors = ", ".join(sorted(path.parent.name for path in file.parent.glob("*/record.json")))
        try:
            setting = json.loads(file.read_text(encoding="utf-8"))["setting"]
            shown = f"{setting['task']}, {setting['model']}: {editors or 'unfinished'}"
        except (ValueError, KeyError, TypeError):
            shown = "not a run's folder: run.json is broken"
        found.append(f"{file.parent!s:32} {shown}")
    return found
