"""What a command says before it computes: typos, what runs, and code from outside the package.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kebench.cli.errors import one_line
from kebench.errors import NotFound

if TYPE_CHECKING:
    from kebench.running.settings import RunSettings
    from kebench.task import PackSource


def announce_run(settings: RunSettings) -> None:
    """Checks the names in the settings, then says which pack and which model are used.

    Raises:
        KebenchError: there is no task, pack or editor of a name, or the file of one is wrong.
    """
    from kebench.files.home import pack_folder
    from kebench.task import load_task

    task = load_task(settings.task)
    announce_editors(settings.editors)
    if settings.pack is not None and settings.pack not in task.packs and not Path(settings.pack).exists():
        raise NotFound("pack", settings.pack, task.packs)
    pack = settings.pack or task.default_pack
    if pack in task.packs and not pack_folder(task.name, pack).is_dir():
        announce_formats(task.packs[pack].sources)
    line = f"{task.name}: pack {pack}, model {settings.model or task.model_for(pack)}"
    if settings.pack is None and settings.model is None and task.packs[pack].shipped:
        line += "; see --pack, --model for the paper's setting"
    click.echo(one_line(line), err=True)


def announce_editors(names: Iterable[str]) -> None:
    """Says which modules of editors are from outside the package.

    Raises:
        KebenchError: there is no editor of one of the names, or its file is wrong.
    """
    from kebench.edits.editor_files import find_editor

    editors = [find_editor(name).editor for name in names]
    announce_code((editor for editor in editors if not editor.startswith("kebench.baselines.")), "an editor")


def announce_formats(sources: Iterable[PackSource]) -> None:
    """Says which modules of formats are from outside the package."""
    announce_code((source.format for source in sources if ":" in source.format), "a format")


def announce_code(references: Iterable[str], kind: str) -> None:
    """Prints a warning for each module that is going to be imported.

    Args:
        references: `module:name` of each.
        kind: what the module holds, with its article.
    """
    for module in dict.fromkeys(one_line(each.partition(":")[0]) for each in references):
        click.echo(f"loading {module}: {kind} is code, run only what you trust", err=True)
