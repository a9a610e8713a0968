"""`kebench leaderboard`."""

from __future__ import annotations

from pathlib import Path

import click

from kebench.cli.options import FOLDER
from kebench.errors import KebenchError


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--folder",
    type=FOLDER,
    default=Path("leaderboards"),
    show_default=True,
    help="The folder of the leaderboards.",
)
@click.option(
    "--check",
    "check_",
    is_flag=True,
    help="Write nothing; exit with status 2 if a table differs from its records.",
)
@click.option("--replace", is_flag=True, help="Replace records and tunings that are already in the folder.")
def leaderboard(runs: tuple[Path, ...], folder: Path, check_: bool, replace: bool) -> None:
    """Add results and write all tables again.

    RUNS are folders of kebench run or of kebench tune. Their scores are computed again from their rows and
    compared, their records are added to the leaderboards, and every table is then written from its records.
    """
    from kebench.leaderboard import (
        add_records,
        add_tunings,
        check,
        check_run,
        read_record,
        read_tuning,
        rebuild,
    )
    from kebench.scoring.record import editor_folder
    from kebench.scoring.tuning import FILE, GRID

    if check_:
        problems = check(folder)
        for problem in problems:
            click.echo(problem)
        if problems:
            raise KebenchError(
                f"{folder}: {len(problems)} tables or records differ; kebench leaderboard rebuilds them"
            )
        click.echo(f"{folder}: every table agrees with its records")
        return
    records, tunings = [], []
    for run_folder in runs:
        if (run_folder / GRID).is_file() or (run_folder / FILE).is_file():
            if not (run_folder / FILE).is_file():
                raise KebenchError(f"{run_folder}: an unfinished tuning; kebench tune continues it")
            tunings.append(run_folder / FILE)
            for trial in read_tuning(run_folder / FILE).trials:
                if trial.record is not None:
                    check_run(trial.record, editor_folder(run_folder, trial.name) / "record.json")
            continue
        found = sorted(run_folder.glob("*/record.json"))
        if not found:
            raise KebenchError(f"{run_folder}: found no */record.json, wanted a finished run's folder")
        for file in found:
            check_run(read_record(file), file)
        records += found
    add_records(folder, records, replace=replace)
    add_tunings(folder, tunings, replace=replace)
    for path in rebuild(folder):
        click.echo(str(path))
