"""`kebench tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kebench.cli.announcements import announce_run
from kebench.cli.options import given, run_options, run_settings


@click.command()
@click.option("--editor", required=True, help="An editor: a name, a YAML path or module:Class.")
@click.option(
    "--grid",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A YAML file with the settings to try: a list with a mapping of settings to values for each trial,"
    " or one mapping of settings to lists of values, of which all combinations are tried.",
)
@run_options(
    "task", "model", "pack", "settings", "limit", "retain", "seed", "output", "device",
    task={"required": True},
    settings={"help": "Settings that replace those of the editor's file in every trial, as NAME=VALUE."},
    limit={"default": 64, "show_default": True, "help": "The number of edits of the dev split; 0: all."},
    retain={"default": "50", "show_default": True, "help": "The number of test questions asked after each"
            " edit, or 'exact' for all."},
    seed={"default": 0, "show_default": True, "help": "The seed for the choice of edits."},
    output={"help": "The folder for the trials. Default: runs/tune-<task>-<editor>-<key>."},
)  # fmt: skip
def tune(editor: str, grid: Path, **fields: Any) -> None:
    """Try an editor's settings on a dev split.

    The trials and the best settings are printed. After an interruption, the same command continues with the
    trials that are left.
    """
    settings = run_settings({"editors": (editor,), "split": "dev", **given(fields)}, "tune")
    announce_run(settings)

    from kebench.edits.editor_files import find_editor
    from kebench.leaderboard import trials_text
    from kebench.running.progress import Progress
    from kebench.running.run import width_for
    from kebench.running.tune import chosen_as_yaml, read_grid
    from kebench.running.tune import tune as try_all

    folder, tuning = try_all(settings, read_grid(grid), progress=Progress())
    click.echo(trials_text(tuning))
    click.echo(f"{folder}\n")
    click.echo(chosen_as_yaml(tuning, find_editor(editor, width_for(settings))) or "every trial failed")
