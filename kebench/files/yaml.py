"""Reads YAML files and checks their contents against dataclasses. Errors name the file and the field."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kebench.errors import BadFile, BadSetting, did_you_mean, shown

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Returns what converts values to a type. It takes much longer to make than to use, so it is kept."""
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""The names that pydantic gives to the error of an unknown field."""
FORBID_EXTRA = ConfigDict(extra="forbid")
"""The `__pydantic_config__` of a dataclass that is read from a file."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that appears twice in a mapping, of which PyYAML would keep the last; and every alias.

    A few lines of aliases can stand for more values than fit in memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                problem=f"found the alias *{event.anchor}, wanted the value itself",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise yaml.constructor.ConstructorError(
                problem="found text with lone surrogates, wanted Unicode", problem_mark=node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    problem="found a list or a mapping as a key, wanted a word",
                    problem_mark=key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key}' appears twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Returns the contents of a YAML file.

    Raises:
        BadFile: the file cannot be read, is not YAML, or repeats a key.
    """
    try:
        return deepcopy(_loaded(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, f"cannot be read ({error.__class__.__name__})") from None
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark.line + 1 if error.problem_mark else None
        raise BadFile(path, error.problem or "not YAML", place=place) from None
    except (yaml.YAMLError, ValueError) as error:  # an unknown character, or a date such as 2024-13-01
        raise BadFile(path, f"not YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise BadFile(path, "not YAML that can be read: nested too deeply") from None


@lru_cache(maxsize=64)
def _loaded(text: str) -> Any:
    """Returns what a YAML text says. The same few files are read again and again, and PyYAML is slow."""
    return yaml.load(text, Loader=_UniqueKeyLoader)


def yaml_value(text: str, place: str) -> Any:
    """Reads a text as a value of a YAML file, such as `1`, `true`, `[a, b]` or `a word`.

    Args:
        text: the text.
        place: where the value was given, for errors.

    Raises:
        BadFile: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadFile(place, f"found {shown(text)}, wanted a value in YAML") from None


def as_yaml(value: Any) -> str:
    """Returns a value as YAML on one line, such as `3.0e-05` or `[1, 2]`."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def validated(kind: type[T], value: Any, path: Path | str) -> T:
    """Converts a value that was read from a file to a dataclass.

    A number that YAML reads as text, such as `1e-4`, becomes a number.

    Args:
        kind: the dataclass.
        value: what was read.
        path: the file, for errors.

    Raises:
        BadFile: the value does not fit. The message says where the first error is, what was found and what
            was wanted.
    """
    _refuse_unknown_fields(kind, value, path, "")
    try:
        found: T = _adapter(kind).validate_python(value)
        return found
    except BadSetting as error:  # raised by a dataclass's own check
        raise BadFile(path, str(error)) from None
    except ValidationError as error:
        # A misspelt field is reported first, and not the field that is missing because of it.
        first = min(error.errors(), key=lambda each: each["type"] not in _UNKNOWN)
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        if first["type"] in _UNKNOWN:
            name = str(first["loc"][-1])
            known = _field_names(kind, first["loc"][:-1])
            raise BadFile(path, f"{place}: unknown field{did_you_mean(name, known)}") from None
        if first["type"] in ("missing", "missing_argument"):
            raise BadFile(path, f"{place}: missing") from None
        raise BadFile(path, f"{place}: found {shown(first['input'])}, wanted: {first['msg']}") from None


def _refuse_unknown_fields(kind: Any, value: Any, path: Path | str, place: str) -> None:
    """Refuses unknown fields, which pydantic accepts in a plain dataclass."""
    if not (is_dataclass(kind) and isinstance(value, Mapping)):
        return
    known = _field_names(kind, ())
    hints = get_type_hints(kind)
    for name, inner in value.items():
        if name not in known:
            raise BadFile(path, f"{place}{name}: unknown field{did_you_mean(str(name), known)}")
        _refuse_unknown_fields(hints[name], inner, path, f"{place}{name}.")


def _field_names(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """Returns the field names of the dataclass at `loc` inside `kind`, as far as type annotations show."""
    for step in loc:
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(str(step))
        else:  # the item type of a tuple or a mapping is the last argument that is not `...`
            inner = [argument for argument in get_args(kind) if argument is not Ellipsis]
            kind = inner[-1] if inner else None
    return [item.name for item in fields(kind)] if is_dataclass(kind) else []


def folder_of(package: str) -> Path:
    """Returns the folder of a package, without importing the package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def as_mapping(value: Any, path: Path) -> Mapping[str, Any]:
    """Returns `value` if it is a mapping.

    Raises:
        BadFile: it is not a mapping.
    """
    if not isinstance(value, dict):
        raise BadFile(path, f"found {type(value).__name__}, wanted a mapping of fields to values")
    return value
