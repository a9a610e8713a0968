"""Help, and the options that every command explains."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest
from commands import Kebench

from kebench import __version__
from kebench.cli import cli
from kebench.running.settings import RunSettings


def test_help_is_on_stdout(kebench: Kebench) -> None:
    for words in (["--help"], ["run", "-h"], ["data", "--help"]):
        status, out, err = kebench(*words)
        assert (status, err) == (0, "")
        assert out.startswith("Usage: ")


@pytest.mark.parametrize("words", [[], ["data"]])
def test_without_a_command_the_help_is_shown(words: list[str], kebench: Kebench) -> None:
    _, out, err = kebench(*words)
    assert (out + err).startswith("Usage: ")


def test_version(kebench: Kebench) -> None:
    assert kebench("--version") == (0, f"kebench, version {__version__}\n", "")


def test_every_command_and_flag_is_explained() -> None:
    def commands(group: click.Group) -> list[click.Command]:
        return [
            each
            for command in group.commands.values()
            for each in (commands(command) if isinstance(command, click.Group) else [command])
        ]

    for command in commands(cli):
        assert command.help, command.name
    (run,) = (command for command in commands(cli) if command.name == "run")
    assert all(option.help for option in run.params if isinstance(option, click.Option))


def test_every_flag_has_its_yaml_twin() -> None:
    flags = {option.name for option in cli.commands["run"].params}
    assert flags - {"config"} == {field.name for field in fields(RunSettings)}
