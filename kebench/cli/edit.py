"""`kebench edit` and `kebench export`: one edit, shown and shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kebench.cli.announcements import announce_editors
from kebench.cli.errors import one_line
from kebench.cli.options import FOLDER, Command, run_options

if TYPE_CHECKING:
    from kebench.running.one_edit import Edited


def _show_and_ship_options(command: Command) -> Command:
    """Adds the options that say what is asked before and after the edit, and where the result goes."""
    for option in (
        click.option(
            "--rank",
            type=click.IntRange(min=1),
            help="With --lora: the largest rank of a layer's change. An editor that changes whole matrices"
            " needs it.",
        ),
        click.option("--lora", type=FOLDER, help="Write the edit to this folder as a LoRA adapter for peft."),
        click.option("--save", type=FOLDER, help="Write the edited model to this folder."),
        click.option(
            "--also",
            multiple=True,
            metavar="PROMPT",
            help="Another question to ask before and after the edit. May be given again.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@run_options(
    "editors", "settings", "task", "model", "pack", "device",
    editors={"required": True, "help": "An editor: a name, a YAML path or module:Class."},
    task={"help": "The task that says how prompts are given to the model. Default: the task that has this"
          " model."},
    pack={"help": "The pack that the editor is trained on, if it is trained. Default: the task's."},
)  # fmt: skip
@click.option("--prompt", required=True, help="The question whose answer is to change.")
@click.option("--target", required=True, help="The answer that the model is to give.")
@click.option("--subject", help="The words of the prompt that name its subject. Some editors need them.")
@_show_and_ship_options
def edit(
    editors: str,
    settings: dict[str, Any] | None,
    also: tuple[str, ...],
    save: Path | None,
    lora: Path | None,
    rank: int | None,
    **options: Any,
) -> None:
    """Make one edit and show what it changes.

    The prompt and the questions of --also are asked before and after the edit.
    """
    announce_editors([editors])

    from kebench.running.one_edit import edit as make_edit
    from kebench.running.progress import Progress

    progress = Progress()
    try:
        made = make_edit(editors, settings=settings, also=also, progress=progress, **options)
    finally:
        progress.close()
    _show_and_ship(made, save, lora, rank)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--edit", "id_", required=True, metavar="ID", help="The id of the edit, as in edits.jsonl.")
@click.option("--editor", help="The editor, if the run has several.")
@click.option("--task", help="The file of the task, if it is not one of kebench's tasks.")
@click.option("--model", help="The folder of the base model, if it is not found by the name in the run.")
@run_options("device")
@_show_and_ship_options
def export(
    run: Path,
    id_: str,
    also: tuple[str, ...],
    save: Path | None,
    lora: Path | None,
    rank: int | None,
    **options: Any,
) -> None:
    """Make one edit of a run again, to show or save it.

    RUN is the folder of the run. The prompt and the questions of --also are asked before and after the edit.
    """
    from kebench.running.one_edit import edit_again
    from kebench.running.progress import Progress

    progress = Progress()
    try:
        made = edit_again(run, id_, also=also, progress=progress, **options)
    finally:
        progress.close()
    _show_and_ship(made, save, lora, rank)


def _show_and_ship(made: Edited, save: Path | None, lora: Path | None, rank: int | None) -> None:
    """Prints the answers before and after an edit, and writes the folders that were asked for."""
    for number, each in enumerate(made.answers):
        mark = f"   (wanted: {one_line(made.edit.target)})" if number == 0 else ""
        click.echo(f"{one_line(each.prompt)}\n  before: {one_line(each.before)}")
        click.echo(f"  after:  {one_line(each.after)}{mark}")
    if save is not None:
        click.echo(f"\nedited model: {made.save(save)}")
    if lora is not None:
        residuals = made.to_lora(lora, rank=rank)
        largest = max(residuals.values(), default=0.0)
        exact = "exact" if largest == 0 else f"largest relative residual of a layer: {largest:.1e}"
        click.echo(f"\nLoRA adapter ({exact}): {lora}")
