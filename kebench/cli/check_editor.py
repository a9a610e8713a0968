"""`kebench check-editor`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from kebench.cli.errors import one_line
from kebench.cli.options import run_options
from kebench.errors import BadSetting


@click.command("check-editor")
@click.argument("editor")
@run_options(
    "task", "model", "settings",
    task={"help": "A task, whose family and records are used. Default: a model of each family that the editor"
          " serves."},
    model={"help": "One of the task's models, a folder, or a Hub id. Default: tiny random models. It needs"
           " --task."},
    settings={"help": "Settings that replace those of the editor's file, as NAME=VALUE: fewer steps, say."},
)  # fmt: skip
def check_editor(editor: str, task: str | None, model: str | None, settings: dict[str, Any] | None) -> None:
    """Check that an editor keeps the rules of all editors.

    EDITOR is a name, a YAML path or module:Class. Each check prints one line: ok, FAILED or skipped. The exit
    status is 1 if a check failed. Checks take seconds and need no network; an editor that learns first is
    trained on a few records, for which -s can set fewer steps.
    """
    if model is not None and task is None:
        raise BadSetting("--model: found without --task, wanted the task that says how the model is asked")

    from kebench.edits.editor import load_editor
    from kebench.edits.editor_files import Width, width_unknown
    from kebench.running.conformance import check_editor as checks
    from kebench.running.preparation import device_or_default, find_model, find_pack, model_width
    from kebench.running.progress import Progress
    from kebench.task import load_task

    found = None if task is None else load_task(task)
    base = None
    width: Width = width_unknown
    if model is not None and found is not None:
        pack = find_pack(found, None)
        base = find_model(found, model, pack, Progress(), device_or_default(None))
        width = partial(model_width, found, model, pack.name, base)
    _, made = load_editor(editor, model_width=width, changes=settings)
    failed = 0
    for checked in checks(made, found, base):
        click.echo(one_line(str(checked)))
        failed += checked.outcome == "FAILED"
    if failed:
        raise SystemExit(1)
