"""Options that several commands have, and the run settings that they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from kebench.errors import BadSetting
from kebench.running.settings import RunSettings

Command = TypeVar("Command", bound=Callable[..., Any])

FOLDER = click.Path(file_okay=False, path_type=Path)
"""The type of an option that names a folder."""


def run_options(*names: str, **changes: Mapping[str, Any]) -> Callable[[Command], Command]:
    """Returns a decorator that gives a command options for fields of `RunSettings`.

    Each option has the type and the help text that its field has there.

    Args:
        names: the fields; by default all of them.
        changes: field → arguments of `click.option` that replace those of the field.
    """
    hints = get_type_hints(RunSettings, include_extras=True)

    def add(command: Command) -> Command:
        for name in reversed(names or [*hints]):
            kind, text = get_args(hints[name])
            flags = _FLAGS.get(name, (f"--{name.replace('_', '-')}",))
            options = {"type": _TYPES.get(kind, str), "help": text, **_OTHERWISE.get(name, {})}
            command = click.option(*flags, **{**options, **changes.get(name, {})})(command)
        return command

    return add


def run_settings(fields: dict[str, Any], place: Path | str) -> RunSettings:
    """Returns the run settings that options and a configuration file mean.

    Args:
        fields: field of `RunSettings` → value.
        place: the file, or the command, that an error message names.

    Raises:
        KebenchError: a value is not possible, or does not go together with another.
    """
    from kebench.files.yaml import validated

    for flag, word in (("retain", "exact"), ("batch-size", "auto")):
        found = fields.get(flag.replace("-", "_"))
        if isinstance(found, str) and found != word and not found.isdecimal():
            raise BadSetting(f"--{flag}: found '{found}', wanted a number or '{word}'")
    for flag, words in (("targets", ("alternative", "gold")), ("split", ("test", "dev"))):
        if flag in fields and fields[flag] not in words:
            raise BadSetting(f"--{flag}: found '{fields[flag]}', wanted {' or '.join(words)}")
    settings = validated(RunSettings, fields, place)
    settings.check()
    return settings


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that have a value: those on the command line, and those with a default."""
    return {name: value for name, value in options.items() if value is not None}


def names_in(text: str) -> list[str]:
    """Returns the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _name_and_value(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns name → value for each `-s NAME=VALUE`, or None if there is no `-s`."""
    if not texts:
        return None
    from kebench.files.yaml import yaml_value

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise BadSetting(f"-s: found '{text}', wanted NAME=VALUE")
        if name in found:
            raise BadSetting(f"-s {name}: found twice, wanted once")
        found[name] = yaml_value(value, f"-s {name}")
    return found


def _numbers(_: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    """Returns the numbers of a comma-separated list, or None if the option is not given."""
    if text is None:
        return None
    names = names_in(text)
    if not all(name.isdecimal() for name in names):
        raise BadSetting(f"{option.opts[0]}: found '{text}', wanted numbers with commas between them")
    return [int(name) for name in names]


_FLAGS = {"editors": ("--editor", "editors"), "settings": ("-s", "--setting", "settings")}
"""Field → its flags, where they are not the field's name."""

_TYPES: Mapping[Any, type] = {int: int, int | None: int, float | None: float}

_OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "limit": {"type": click.IntRange(min=0)},
    "precision": {"metavar": "POINTS"},
    "edit_timeout": {"metavar": "SECONDS"},
    "fail_fast": {"is_flag": True, "default": None},
    "ask_after": {"metavar": "N,N,...", "callback": _numbers},
    "settings": {"multiple": True, "metavar": "NAME=VALUE", "callback": _name_and_value},
}
"""Field → arguments of `click.option` that the field's type and help text do not give."""
