"""The importers: one module for each published format. A new importer needs no change in any other file.

A module describes its format in its docstring and defines `read(path) -> Reading`. If the source can also be
a data set on the Hub, it is `read(source, configuration=…, revision=…) -> Reading`. If the rows of the format
do not always say whether their answers are true, `read` also takes `answers_are=…`. `GOLD` is the name of the
field that holds the gold answers.
"""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules

from kebench.errors import BadSetting, NotFound
from kebench.packs.reading import Reading
from kebench.task import AnswersAre


def format_names() -> tuple[str, ...]:
    """Returns the names of the formats, without importing their modules."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def gold_answers(format: str, answers_are: AnswersAre | None = None) -> str:
    """Returns in words which field holds a format's gold answers; empty if its module does not say."""
    if format not in format_names():
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
        format: one of `format_names()`.
        source: a path, or a Hub id `owner/name` as text.
        configuration: the configuration of the Hub data set.
        revision: the commit of the Hub data set.
        answers_are: `truth` or `counterfactual`, for a format whose rows do not always say which.

    Raises:
        NotFound: the format or the file does not exist.
        BadFile: the contents of the source do not have the format.
        BadSetting: the format does not use the given `configuration`, `revision` or `answers_are`.
    """
    if format not in format_names():
        raise NotFound("format", format, format_names())
    read = import_module(f"{__name__}.{format}").read
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
    reading = read(source, **given)
    assert isinstance(reading, Reading)
    return reading
