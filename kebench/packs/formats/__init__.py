"""The importers, one published format a module. Adding one touches no other file.

A module describes its format in its docstring and has a function `read(path) -> Reading`, or, where the
source may also be a data set of the Hub, `read(source, configuration=…, revision=…) -> Reading`. A format
whose rows need not say whether their answers are true has `answers_are=…` as well. `GOLD` names the field
of a row that is taken for the truth.
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
    """The formats, by name, without importing any."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def gold_answers(format: str, answers_are: AnswersAre | None = None) -> str:
    """What a format takes for the gold answers, in words; empty where the format says nothing of it."""
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
    """Reads a file, or a data set of the Hub where the format is published there.

    Args:
        format: a name among `format_names()`.
        source: a path; or, as text, a Hub id `owner/name`.
        configuration: of the Hub data set.
        revision: the Hub commit.
        answers_are: whether the answers are true or counterfactual, for a format whose rows need not say.

    Raises:
        NotFound: there is no such format or no such file.
        BadFile: the source does not hold what the format says.
        BadSetting: a configuration, a revision or `answers_are` was given for a format that has none.
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
