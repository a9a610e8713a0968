"""`kebench beliefs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kebench.cli.announcements import announce_run
from kebench.cli.options import FOLDER, given, names_in, run_options, run_settings


@click.command()
@run_options(
    "editors", "task", "model", "pack", "settings", "limit", "retain", "seed", "device",
    editors={"required": True},
    task={"required": True},
    limit={"default": 30, "show_default": True, "type": click.IntRange(min=1), "help": "How many edits."},
    retain={"default": 20, "show_default": True, "type": int,
            "help": "The number of other questions asked after each edit."},
    seed={"default": 0, "show_default": True, "help": "The seed for the choice of edits."},
)  # fmt: skip
@click.option(
    "--out",
    type=FOLDER,
    default=Path("beliefs"),
    show_default=True,
    help="The folder for the numbers (CSV) and the drawing (SVG) of each editor.",
)
def beliefs(editors: str, out: Path, **fields: Any) -> None:
    """Draw how edits move log-odds.

    The log-odds are those of the edited claim, of its paraphrases and of everything else that is asked.
    """
    settings = run_settings({"editors": names_in(editors), **given(fields)}, "beliefs")
    announce_run(settings)

    from kebench.beliefs.beliefs import beliefs_of, write_beliefs
    from kebench.beliefs.drawing import draw_beliefs, needs_matplotlib
    from kebench.running.folder import make_folder
    from kebench.running.progress import Progress
    from kebench.scoring.record import editor_folder

    needs_matplotlib()  # an error about it comes before the work, not after it
    make_folder(out, "--out")
    progress = Progress()
    try:
        for name, setting, found in beliefs_of(settings, progress):
            place = editor_folder(out, name)
            write_beliefs(found, Path(f"{place}.csv"))
            title = f"{name}\n{setting.task}, {setting.pack}, {setting.model}"
            draw_beliefs(found, title, Path(f"{place}.svg"))
            progress.close()
            click.echo(f"{place}.svg")
    finally:
        progress.close()
