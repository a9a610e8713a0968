"""The commands, each in a file of its own. No other room prints or exits.

Torch is imported within the functions that compute, so that help and a user's mistake come at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from kebench import __version__
from kebench.cli import beliefs, check_editor, data, edit, leaderboard, ls, models, run, train, tune
from kebench.cli.errors import OneLineErrors, Terminated, one_line

__all__ = ["cli", "main"]


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kebench")
@click.option("-v", "--verbose", is_flag=True, help="Log each step to standard error.")
def cli(verbose: bool) -> None:
    """Knowledge-editing benchmarks: run editors on tasks, score them, publish tables."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


for command in (
    run.run, train.train, tune.tune, beliefs.beliefs, edit.edit, edit.export, check_editor.check_editor,
    data.data, models.models, leaderboard.leaderboard, ls.ls,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The console script `kebench`. An error that click finds, such as an unknown flag, is one line too."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.path.append(str(Path.cwd()))  # a user's own editor, given as module:Class, is looked for here last
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        no_arguments = isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ()))
        message = error.format_message()
        click.echo(message if no_arguments else f"kebench: {one_line(message)}", err=True)
        sys.exit(2)
    except click.Abort as abort:
        sys.exit(143 if isinstance(abort.__cause__, Terminated) else 130)


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    """Lets what runs close its files, as Ctrl-C does."""
    raise Terminated
