"""The importers: one module for each published format. A new importer needs no change in any other file.

A module describes its format in its docstring and defines `read(path) -> Reading`. If the source can also be
a data set on the Hub, it is `read(source, configuration=…, revision=…) -> Reading`. If the rows of the format
do not always say whether their answers are true, `read` also takes `answers_are=…`. `GOLD` is the name of the
field that holds the gold answers.

Such a function may also be outside this package. The format is then given as `module:function`, or by the
name under which an installed package declares it (`kebench.files.outside`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import cast

from kebench.errors import BadSetting, KebenchError, NotFound
from kebench.files.outside import FORMATS, imported, plugins
from kebench.packs.reading import Reading
from kebench.task import AnswersAre


def format_names() -> tuple[str, ...]:
    """Returns the names of the formats, including plug-ins, without importing their modules."""
    return tuple(sorted({*_ours(), *plugins(FORMATS)}))


def _ours() -> list[str]:
    return [module.name for module in iter_modules(__path__)]


def _reader(format: str) -> Callable[..., object]:
    """Returns the function that reads a format.

    Raises:
        NotFound: the format does not exist.
        BadSetting: the format is from outside the package, and is not a function there.
    """
    if format in _ours():
        return cast(Callable[..., object], import_module(f"{__name__}.{format}").read)
    reference = format
    if ":" not in format:
        if format not in (announced := plugins(FORMATS)):
            raise NotFound("format", format, format_names())
        reference = announced[format].value
    try:
        found = imported(reference)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadSetting(f"format: found '{reference}' ({error}), wanted module:function") from None
    if not callable(found):
        raise BadSetting(f"format: found '{reference}', wanted a function that reads a file")
    return cast(Callable[..., object], found)


def _read_outside(
    format: str, read: Callable[..., object], source: Path | str, options: Mapping[str, object]
) -> object:
    """Calls the function of a format from outside the package, whose errors are its own.

    Raises:
        BadSetting: the function raised an error.
    """
    try:
        return read(source, **options)
    except KebenchError:
        raise
    except Exception as error:
        raise BadSetting(f"format {format}: raised {type(error).__name__}: {error}") from error


def gold_answers(format: str, answers_are: AnswersAre | None = None) -> str:
    """Returns in words which field holds a format's gold answers; empty if its module does not say.

    For a format from outside the package it is empty too: the name comes from a pack, and reading a pack must
    not run code.
    """
    if format not in _ours():
        return ""
    field: str = getattr(import_module(f"{__name__}.{format}"), "GOLD", "")
    return f"{field}, else alt, taken as {answers_are}" if answers_are else field


def read_source(
    format: str,
    source: Path | str,
    *,
    configuration: str | None = None,
    revision: str | None = None,
    answers_are: AnswersAre | None = None,
) -> Reading:
    """Reads a source: a file, or a data set on the Hub if the format is published there.

    Args:
        format: one of `format_names()`, or `module:function`.
        source: a path, or a Hub id `owner/name` as text.
        configuration: the configuration of the Hub data set.
        revision: the commit of the Hub data set.
        answers_are: `truth` or `counterfactual`, for a format whose rows do not always say which.

    Raises:
        NotFound: the format or the file does not exist.
        BadFile: the contents of the source do not have the format.
        BadSetting: the format does not use the given `configuration`, `revision` or `answers_are`; or the
            function of a format from outside the package does not exist, or returned something else.
    """
    read = _reader(format)
    options = {"configuration": configuration, "revision": revision, "answers_are": answers_are}
    given = {name: value for name, value in options.items() if value is not None}
    foreign = given.keys() - signature(read).parameters.keys()
    if "answers_are" in foreign:
        raise BadSetting(f"the format {format} says which answers are true and takes no answers_are")
    if foreign:
        raise BadSetting(f"the format {format} reads files and takes no {' or '.join(sorted(foreign))}")
    if isinstance(source, Path) and not source.exists():
        raise NotFound("file", str(source))
    if "configuration" not in signature(read).parameters:
        source = Path(source)
        if not source.is_file():
            raise NotFound("file", str(source))
    reading = read(source, **given) if format in _ours() else _read_outside(format, read, source, given)
    if not isinstance(reading, Reading):
        raise BadSetting(f"format {format}: returned a {type(reading).__name__}, wanted a Reading")
    return reading
