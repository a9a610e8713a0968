"""`kebench train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kebench.cli.announcements import announce_editors
from kebench.cli.options import FOLDER, given, run_options, run_settings
from kebench.errors import BadSetting, NotFound

if TYPE_CHECKING:
    from kebench.running.progress import Progress
    from kebench.running.settings import RunSettings
    from kebench.task import Task


@click.command()
@click.option("--base", help="Train this base model, one of the task's models.")
@click.option("--editor", help="Train this editor: a name, a YAML path or module:Class.")
@run_options(
    "task", "model", "pack", "settings", "protocol", "device",
    task={"required": True},
    model={"help": "The base model that the editor is trained for. Default: the pack's."},
    protocol={"default": "strict", "show_default": True},
)  # fmt: skip
@click.option(
    "--reproduce",
    metavar="PACK",
    help="Train again, from the start, what is shipped with kebench for this pack (mini): the base model and"
    " every editor, or only the one that --base or --editor names.",
)
@click.option(
    "--out", type=FOLDER, help="The folder for the base model, or for everything that --reproduce makes."
)
def train(
    base: str | None, editor: str | None, reproduce: str | None, out: Path | None, **fields: Any
) -> None:  # fmt: skip
    """Train a base model or an editor before a run needs it.

    After an interruption, the same command continues the training.
    """
    from kebench.running.progress import Progress
    from kebench.scoring.protocols import protocol as find_protocol
    from kebench.task import load_task

    loaded, device = load_task(fields["task"]), fields["device"]
    # A typo is found before torch is imported.
    find_protocol(fields["protocol"], labels=loaded.family == "classifier")
    progress = Progress()
    if fields["settings"] is not None and (editor is None or reproduce is not None):
        raise BadSetting("train: found -s, wanted it with --editor alone: it changes an editor's settings")
    if reproduce is not None:
        if fields["model"] is not None or fields["pack"] is not None:
            raise BadSetting("train: --reproduce takes neither --model nor --pack: it has its own")
        _reproduce(loaded, reproduce, base, editor, out or Path(reproduce), device, progress)
    elif base is not None and editor is None:
        _train_base(base, loaded, fields["pack"], out, device, progress)
    elif editor is not None and base is None:
        announce_editors([editor])
        _train_editor(run_settings({"editors": (editor,), **given(fields)}, "train"), progress)
    else:
        raise BadSetting("train: give --base MODEL or --editor NAME, one of them")


def _train_base(
    base: str, task: Task, pack: str | None, out: Path | None, device: str | None, progress: Progress
) -> None:
    from kebench.running.preparation import device_or_default, find_pack, train_model, trained_model_folder

    if base not in task.models:
        raise NotFound(f"model of the task {task.name}", base, task.models)
    found = find_pack(task, pack)
    folder = out or trained_model_folder(task, base, found)
    train_model(task, base, found, folder, progress, device_or_default(device))
    progress.close()
    _show_card(folder)


def _reproduce(
    task: Task,
    pack: str,
    base: str | None,
    editor: str | None,
    out: Path,
    device: str | None,
    progress: Progress,
) -> None:
    from kebench.running.preparation import device_or_default
    from kebench.running.reproduce import reproduce

    everything = base is None and editor is None
    made = reproduce(
        task, pack, out, device_or_default(device), progress,
        bases=(task.default_model,) if everything else () if base is None else (base,),
        editors=task.shipped_editors if everything else () if editor is None else (editor,),
    )  # fmt: skip
    progress.close()
    for folder in made:
        _show_card(folder)
        click.echo()


def _show_card(folder: Path) -> None:
    """Prints the card of a trained model or editor, and the folder that holds it."""
    click.echo((folder / "README.md").read_text(encoding="utf-8").rstrip())
    click.echo(f"\n{folder}")


def _train_editor(settings: RunSettings, progress: Progress) -> None:
    from kebench.edits.editor import AbstractTrainedEditor
    from kebench.running.preparation import prepare_editor, state_folder
    from kebench.running.run import inputs_of, load_editors

    ((shown, editor),) = load_editors(settings).items()
    if not isinstance(editor, AbstractTrainedEditor):
        raise BadSetting(f"editor {shown}: it is not trained, so there is nothing to train")
    inputs = inputs_of(settings, progress)
    prepared = prepare_editor(shown, editor, inputs, progress)
    progress.close()
    size = sum(tensor.numel() for tensor in prepared.state.values())
    click.echo(f"{shown}: {size:,} numbers, trained in {prepared.seconds:.0f} s")
    click.echo(str(state_folder(editor, inputs)))
