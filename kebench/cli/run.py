"""`kebench run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kebench.cli.announcements import announce_run
from kebench.cli.options import given, names_in, run_options, run_settings
from kebench.errors import BadFile, BadSetting, KebenchError


@click.command()
@run_options()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A YAML file that holds these options; an option on the command line replaces that of the file.",
)
def run(config: Path | None, editors: str | None, settings: dict[str, Any] | None, **options: Any) -> None:
    """Run editors on a task and print their scores.

    The pack, the answers of the base model and the trained editors are made first if they are missing. After
    an interruption, the same command continues the run.
    """
    from kebench.files.yaml import as_mapping, read_yaml

    fields = dict(as_mapping(read_yaml(config), config)) if config else {}
    fields.update(given(options))
    if editors is not None:
        fields["editors"] = editors
    if settings is not None:
        in_file = fields.get("settings")
        fields["settings"] = {**in_file, **settings} if isinstance(in_file, dict) else settings
    if isinstance(fields.get("editors"), str):
        fields["editors"] = names_in(fields["editors"])
    alone = not given({**options, "editors": editors, "settings": settings})
    with _naming(config, alone=alone):
        for flag, name in (("--editor", "editors"), ("--task", "task")):
            if not fields.get(name):
                raise BadSetting(f"run: {flag} is missing")
        asked = run_settings(fields, config or "run")
        announce_run(asked)

    from kebench.leaderboard import table_text
    from kebench.running.progress import Progress
    from kebench.running.run import run_all

    outcome = run_all(asked, progress=Progress())
    if outcome.records:
        click.echo(table_text(outcome.records))
        click.echo(f"\n{outcome.folder}")
    if outcome.stopped:
        raise outcome.error()
    if failed := outcome.all_failed():
        raise KebenchError(failed)


@contextmanager
def _naming(config: Path | None, *, alone: bool) -> Iterator[None]:
    """Adds the configuration file to an error that does not name it.

    Args:
        config: the file, if there is one.
        alone: True if no option was given beside it, which could be the wrong one.
    """
    try:
        yield
    except KebenchError as error:
        if config is None or str(config) in str(error):
            raise
        place = str(config) if alone else f"{config}, or an option beside it"
        raise BadFile(place, str(error)) from None
