"""Reads editors from YAML files, one for each editor, in `baselines/`. This does not import the editor.

    editor: module:Class
    default_recipe: quick
    default_by_width:         # the default recipe for models of at least this hidden size
      2048: tuned
    recipes:                  # whole settings, by name
      quick: {steps: 1200, margin: 0.1}
      tuned: {steps: 240, margin: 0.02}
    variants:                 # a few settings that replace those of a recipe
      loop: {loop: 5}
      tuned+l2: {constraint: l2, margin: 0.01}       # for the recipe `tuned` alone
    rows:                     # the combinations that have a name of their own in tables
      mine_tuned_loop:
        recipe: tuned+loop
        description: one line
        tuned: {zsre/mini: {margin: 0.03}}           # what `kebench tune` chose for task/pack

A combination is called `editor@recipe+variant+variant`. Without `@recipe` it has the default recipe, which
may depend on the size of the model, never on its name. The file of an editor with one recipe has `settings:`,
`description:` and `tuned:`, and no `recipes:`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from kebench.errors import BadFile, BadSetting, KebenchError, NotFound, did_you_mean
from kebench.files.outside import EDITORS, plugin_file, plugins
from kebench.files.yaml import FORBID_EXTRA, as_mapping, folder_of, read_yaml, validated

Settings = Mapping[str, Any]
Width = Callable[[], int | None]
"""A function that tells the hidden size of the model that is edited, or None if that is not known."""

_NAME = re.compile(r"(?P<head>.+\.ya?ml|[^@+]+)(?P<combination>[@+].*)?")


def width_unknown() -> None:
    """Stands for a model that is not known yet."""


@dataclass(frozen=True)
class EditorRow:
    """One combination of a recipe and variants: a row of a leaderboard.

    Attributes:
        name: the name that tables give to it.
        editor: `module:Class`.
        description: one line, or nothing.
        settings: the settings of the recipe and its variants. Fields of the class that are not among them
            keep their defaults.
        tuned: `task/pack` → the settings that replace those in `settings` on that pack.
        path: the file; None for `module:Class`.
        recipe: the recipe and the variants, as `tuned+loop`.
        place: where in the file the settings are, for messages.
        row: the key in the file's `rows:`; None if `tuned:` at the top of the file belongs to it.
        has_row: True if `rows:` holds it.
    """

    name: str
    editor: str
    description: str = ""
    settings: Settings = field(default_factory=dict)
    tuned: Mapping[str, Settings] = field(default_factory=dict)
    path: Path | None = None
    recipe: str = ""
    place: str = ""
    row: str | None = None
    has_row: bool = False


@dataclass(frozen=True)
class _WrittenRow:
    """An entry of `rows:`, as the file has it.

    Attributes:
        recipe: a recipe and its variants, as `tuned+loop`.
        description: one line.
        tuned: `task/pack` → settings.
    """

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    recipe: str
    description: str = ""
    tuned: Mapping[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class _Written:
    """The contents of an editor's file. The docstring of this module explains the fields."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID_EXTRA

    editor: str
    description: str = ""
    settings: Settings | None = None
    tuned: Mapping[str, Settings] = field(default_factory=dict)
    recipes: Mapping[str, Settings] = field(default_factory=dict)
    default_recipe: str | None = None
    default_by_width: Mapping[int, str] = field(default_factory=dict)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    rows: Mapping[str, _WrittenRow] = field(default_factory=dict)


@dataclass(frozen=True)
class EditorFile:
    """An editor with all its recipes, variants and rows, as its file defines them.

    Attributes:
        name: the file's name without `.yaml`.
        editor: `module:Class`.
        path: the file; None for a class that an installed package declares without a file.
        recipes: name → settings.
        default_recipe: the recipe of a combination that names none.
        default_by_width: hidden size → the default recipe for models of at least this size. The largest size
            that fits counts. Smaller models have `default_recipe`.
        variants: name → settings; or `recipe+name` → the settings of that variant in that recipe.
        rows: the combinations that have a name of their own in tables, in the file's order.
    """

    name: str
    editor: str
    path: Path | None
    recipes: Mapping[str, Settings]
    default_recipe: str
    default_by_width: Mapping[int, str] = field(default_factory=dict)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    rows: Sequence[EditorRow] = ()

    def find(self, head: str, combination: str, model_width: Width = width_unknown) -> EditorRow:
        """Returns the row for a name such as `editor@recipe+variant`.

        Args:
            head: the name of this file or of one of its rows.
            combination: the rest: `@recipe`, `+variant`, both, or nothing.
            model_width: tells the hidden size of the model, or None if that is not known. It is only called
                if the default recipe depends on it.

        Raises:
            NotFound: there is no such recipe, or no such variant of it.
            BadSetting: two of the variants set the same field, or one is named twice.
        """
        row = next((row.recipe for row in self.rows if row.name == head and head != self.name), None)
        recipe, *variants = combination.split("+")  # `@tuned+loop`, `+loop` or nothing
        if row is not None and recipe:
            raise BadSetting(f"{head}{combination}: {head} is {self.name}@{row} already, wanted no recipe")
        asked = recipe.removeprefix("@")
        first, *own = (asked or row or self.default_recipe).split("+")
        variants = [*own, *variants]
        usual = self.default_for(model_width()) if self.default_by_width else self.default_recipe
        if usual != self.default_recipe:  # the model's size replaces the default recipe
            if asked == usual or (not asked and first == self.default_recipe):
                return self._instead(usual, variants)
            if asked == self.default_recipe:
                found = self.combined("+".join((first, *variants)))
                return replace(found, name=f"{self.name}@{found.recipe}", tuned={})
        return self.combined("+".join((first, *variants)))

    def _instead(self, recipe: str, variants: Sequence[str]) -> EditorRow:
        """Returns the row for a recipe that replaces the default one. The name in tables stays."""
        found = self.combined("+".join((recipe, *variants)))
        if found.has_row or not set(variants) <= set(self.variants_of(self.default_recipe)):
            return found
        named = self.combined("+".join((self.default_recipe, *variants)))
        return replace(named, settings=found.settings, recipe=found.recipe, place=found.place)

    def default_for(self, width: int | None) -> str:
        """Returns the default recipe for models of a hidden size; None: it is not known."""
        reached = [least for least in self.default_by_width if width is not None and width >= least]
        return self.default_by_width[max(reached)] if reached else self.default_recipe

    def combined(self, text: str) -> EditorRow:
        """Returns the row for a recipe and its variants, such as `tuned+loop`. Variants may have any order.

        Raises:
            NotFound, BadSetting: see `find`.
        """
        recipe, *variants = text.split("+")
        if recipe not in self.recipes:
            raise NotFound(f"recipe of {self.name}", recipe, self.recipes)
        known = self.variants_of(recipe)
        shown = f"{self.name}@{recipe}"
        for variant in variants:
            if variant not in known:
                raise NotFound(f"variant of {shown}", variant, known)
        names = [name for name in known if name in variants]
        if len(names) < len(variants):
            raise BadSetting(f"{self.name}@{text}: found a variant twice, wanted each once")
        settings = dict(self.recipes[recipe])
        set_by: dict[str, str] = {}
        for name in names:
            for setting, value in known[name].items():
                if setting in set_by:
                    raise BadSetting(
                        f"{self.name}@{text}: the variants {set_by[setting]} and {name} both set {setting},"
                        " wanted one of the two"
                    )
                set_by[setting], settings[setting] = name, value
        canonical = "+".join((recipe, *names))
        for row in self.rows:
            if row.recipe == canonical:
                return row
        named = self.name if recipe == self.default_recipe else shown
        name = "+".join((named, *names))
        place = f"{self.path}: {canonical}"
        return EditorRow(name, self.editor, "", settings, {}, self.path, canonical, place, row=name)

    def variants_of(self, recipe: str) -> dict[str, Settings]:
        """Returns the variants of a recipe, in the file's order."""
        found: dict[str, Settings] = {}
        for name, settings in self.variants.items():
            of, _, own = name.rpartition("+")
            if of in ("", recipe) and (of or own not in found):
                found[own] = settings
        return found


# Reading ---------------------------------------------------------------------------------------------


def find_editor(name: str, model_width: Width = width_unknown) -> EditorRow:
    """Finds an editor by its name, by the path of a YAML file, or as `module:Class`.

    Args:
        name: the name of a row, of a file in `baselines/` or of a plug-in; or the path of a YAML file.
            `@recipe` and `+variant` may follow. Or `module:Class`, which has its default settings.
        model_width: tells the hidden size of the model, on which the default recipe may depend.

    Raises:
        NotFound: there is no such editor, recipe or variant. The message suggests the nearest name.
        BadSetting: two variants set the same field.
        BadFile: the file has a wrong field.
    """
    parts = _NAME.fullmatch(name)
    head = parts["head"] if parts else name
    combination = (parts["combination"] or "") if parts else ""
    if head.endswith((".yaml", ".yml")):
        if not Path(head).is_file():
            raise NotFound("editor", head, editor_rows())
        return read_editor_file(Path(head)).find(Path(head).stem, combination, model_width)
    if ":" in name:
        return EditorRow(name.partition(":")[2], name, place=f"{name}: settings")
    for file in editor_files():
        if head == file.name or any(head == row.name for row in file.rows):
            return file.find(head, combination, model_width)
    raise NotFound("editor", head, {*editor_rows(), *(file.name for file in editor_files())})


def editor_rows() -> dict[str, EditorRow]:
    """Returns the rows of `baselines/` and of plug-ins: name in tables → row."""
    return {row.name: row for file in editor_files() for row in file.rows}


def editor_files() -> Iterator[EditorFile]:
    """Yields the files in `baselines/`, then those of plug-ins. Plug-ins are searched for only if needed."""
    for path in sorted(folder_of("kebench.baselines").glob("*/*.yaml")):
        yield _unchanged(path, path.stat().st_mtime_ns)
    for name, plugin in plugins(EDITORS).items():
        if ":" in plugin.value:
            described = f"from the package {plugin.dist.name}" if plugin.dist else ""
            row = EditorRow(name, plugin.value, described, recipe="default", place=f"{name}: settings")
            yield EditorFile(name, plugin.value, None, {"default": {}}, "default", rows=(row,))
        else:
            yield read_editor_file(plugin_file(plugin))


@lru_cache
def _unchanged(path: Path, changed_at: int) -> EditorFile:
    """Reads a file of the package once, and again only if it has changed."""
    return read_editor_file(path)


def read_editor_file(path: Path) -> EditorFile:
    """Reads the file of an editor.

    Raises:
        BadFile: the file has a wrong field, names a recipe or a variant that does not exist, or has a
            combination twice.
    """
    found = validated(_Written, as_mapping(read_yaml(path), path), path)
    if found.recipes and found.settings is not None:
        raise BadFile(path, "settings: found with recipes, wanted one of the two")
    recipes = found.recipes or {"default": found.settings or {}}
    default = found.default_recipe or (next(iter(recipes)) if len(recipes) == 1 else None)
    if default is None:
        raise BadFile(path, f"default_recipe: missing; known: {', '.join(recipes)}")
    if default not in recipes:
        raise BadFile(path, f"default_recipe: found '{default}'{did_you_mean(default, recipes)}")
    for width, recipe in found.default_by_width.items():
        if recipe not in recipes:
            suggestion = did_you_mean(recipe, recipes)
            raise BadFile(path, f"default_by_width: {width}: no recipe named '{recipe}'{suggestion}")
    for name in found.variants:
        if (of := name.rpartition("+")[0]) and of not in recipes:
            raise BadFile(path, f"variants: {name}: no recipe named '{of}'{did_you_mean(of, recipes)}")
    by_width = found.default_by_width
    file = EditorFile(path.stem, found.editor, path, recipes, default, by_width, found.variants)
    rows: dict[str, EditorRow] = {}
    for name, row in found.rows.items():
        try:
            combined = file.combined(row.recipe)
        except KebenchError as error:
            raise BadFile(path, f"rows: {name}: recipe: {error}") from None
        if combined.recipe in rows:
            raise BadFile(path, f"rows: {name}: found {combined.recipe}, as in {rows[combined.recipe].name}")
        rows[combined.recipe] = replace(
            combined, name=name, description=row.description, tuned=row.tuned, row=name, has_row=True
        )
        _check_places(row.tuned, f"rows: {name}: tuned", path)
    if default not in rows:
        place = f"{path}: {'settings' if not found.recipes else default}"
        top = replace(
            file.combined(default), name=path.stem, description=found.description, tuned=found.tuned,
            place=place, row=None,
        )  # fmt: skip
        rows = {default: top, **rows}
    elif found.tuned:
        raise BadFile(path, f"tuned: wanted in the row {rows[default].name}, which is the default recipe")
    for each in rows.values():
        if each.name == path.stem and each.recipe != default:
            raise BadFile(
                path, f"rows: {each.name}: found {each.recipe}, wanted {default}: it has the file's name"
            )
    _check_places(found.tuned, "tuned", path)
    return replace(file, rows=tuple(rows.values()))


def _check_places(tuned: Mapping[str, Settings], where: str, path: Path) -> None:
    for place in tuned:
        if not all(place.partition("/")[::2]):
            raise BadFile(
                path, f"{where}: found '{place}', wanted the name of a task and of a pack: task/pack"
            )
