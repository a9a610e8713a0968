"""Recipes, variants and rows of an editor's file; changed settings; modules beside a file; plug-ins."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kebench.edits.editor import editor_path, load_editor, settings_of
from kebench.edits.editor_files import EditorRow, editor_files, editor_rows, find_editor
from kebench.errors import BadFile, BadSetting, KebenchError, NotFound
from kebench.packs.formats import format_names, read_source
from kebench.packs.reading import Reading
from kebench.task import load_task, task_names

PLACES = ("", "fever/mini", "zsre/mini")
FORMER_FILES = {
    "constrained_all": "b835ad0b 00fbb2eb 678658df",
    "constrained_first": "65dcc616 0163821b 0163821b",
    "fine_tuning_all": "01a591b1 cbf27168 7a3a403d",
    "fine_tuning_first": "bf937ec2 1b0c9c32 0f8fd3b2",
    "fine_tuning_first_paper": "2f700cd3",
    "identity": "85fa9fe7",
    "knowledge_editor": "4e8d1841",
    "knowledge_editor_l2": "c18054bb",
    "knowledge_editor_loop": "a641a4f0 0a008164 a641a4f0",
    "knowledge_editor_paper": "3036134e",
    "knowledge_editor_paper_zsre": "ebcb6349",
    "knowledge_editor_paraphrases": "aa3f362f",
    "knowledge_editor_paraphrases_loop": "0f4ce306",
    "knowledge_editor_tuned": "308a0dea",
    "knowledge_editor_tuned_fever": "58f5cf1d",
    "knowledge_editor_tuned_l2": "7a6a49e7",
    "knowledge_editor_tuned_loop": "85a8453f",
    "knowledge_editor_tuned_paraphrases": "e440871e",
    "knowledge_editor_tuned_paraphrases_loop": "c6318dd1",
    "knowledge_editor_tuned_zsre": "aac896fc",
    "oracle": "3d965f0b",
    "preconditioned_step": "f54f2aec 5888ca8d 5888ca8d",
    "random_update": "d63d5e9a",
    "random_update_tuned": "4e6fb448",
}
"""Of each row that was a file of its own once: a hash of what it resolved to then.

At each of `PLACES`, or one hash where all agree; of the class and the settings that are not its defaults."""


def resolved(name: str, place: str) -> str:
    task, _, pack = place.partition("/")
    shown, editor = load_editor(name, task=task, pack=pack)
    assert shown == name
    text = json.dumps(
        [editor_path(editor), changed(settings_of(editor), settings_of(type(editor)()))], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults, in mappings within them too."""
    return {
        name: changed(value, defaults[name]) if isinstance(value, dict) else value
        for name, value in settings.items()
        if value != defaults[name]
    }


@pytest.mark.parametrize("name", FORMER_FILES)
def test_a_row_that_was_a_file_has_the_settings_that_it_had(name: str) -> None:
    found = [resolved(name, place) for place in PLACES]
    wanted = FORMER_FILES[name].split()
    assert found == wanted * (3 // len(wanted))


def test_no_row_is_in_two_files() -> None:
    names = [name for file in editor_files() for name in {file.name, *(row.name for row in file.rows)}]
    assert sorted(names) == sorted(set(names))
    assert set(FORMER_FILES) < set(editor_rows())


# Names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown", "recipe"),
    [
        ("knowledge_editor", "knowledge_editor", "quick"),
        ("knowledge_editor@quick", "knowledge_editor", "quick"),
        ("knowledge_editor+loop", "knowledge_editor_loop", "quick+loop"),
        (
            "knowledge_editor@tuned+loop+paraphrases",
            "knowledge_editor_tuned_paraphrases_loop",
            "tuned+paraphrases+loop",
        ),
        ("knowledge_editor_tuned+loop", "knowledge_editor_tuned_loop", "tuned+loop"),
        ("knowledge_editor+beam", "knowledge_editor_beam", "quick+beam"),
        ("knowledge_editor@tuned+beam", "knowledge_editor@tuned+beam", "tuned+beam"),
        ("knowledge_editor+beam+loop", "knowledge_editor+loop+beam", "quick+loop+beam"),
        ("fine_tuning", "fine_tuning_first", "first"),
        ("fine_tuning@all", "fine_tuning_all", "all"),
        ("identity", "identity", "default"),
        ("some.where:Mine", "Mine", ""),
    ],
)
def test_a_combination_has_one_name_in_tables(name: str, shown: str, recipe: str) -> None:
    found = find_editor(name)
    assert (found.name, found.recipe) == (shown, recipe)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("knowledge_editr", "no editor named 'knowledge_editr'; did you mean 'knowledge_editor'?"),
        ("knowledge_editor@tunde", "no recipe of knowledge_editor named 'tunde'; did you mean 'tuned'?"),
        (
            "knowledge_editor@tuned+lop",
            "no variant of knowledge_editor@tuned named 'lop'; did you mean 'loop'?",
        ),
        (
            "knowledge_editor+fever",
            "no variant of knowledge_editor@quick named 'fever'; known: beam, l2, loop",
        ),
        (
            "knowledge_editor@tuned+l2+zsre",
            "knowledge_editor@tuned+l2+zsre: the variants l2 and zsre both set margin, wanted one of the two",
        ),
        (
            "knowledge_editor+loop+loop",
            "knowledge_editor@quick+loop+loop: found a variant twice, wanted each once",
        ),
        (
            "knowledge_editor_tuned@paper",
            "knowledge_editor_tuned@paper: knowledge_editor_tuned is knowledge_editor@tuned already,",
        ),
        ("identity@quick", "no recipe of identity named 'quick'; known: default"),
    ],
)
def test_a_name_that_means_nothing(name: str, said: str) -> None:
    with pytest.raises(KebenchError) as error:
        find_editor(name)
    assert str(error.value).startswith(said)


def test_variants_that_the_class_refuses_together_are_told_with_their_place() -> None:
    with pytest.raises(BadFile, match=r"knowledge_editor\.yaml: quick\+beam\+l2: kl_over: found beam"):
        load_editor("knowledge_editor+l2+beam")


# Files -----------------------------------------------------------------------------------------------


RECIPES = """
editor: kebench.baselines.fine_tuning:FineTuning
default_recipe: slow
recipes:
  slow: {learning_rate: 1e-5}
  fast: {learning_rate: 1e-3}
variants:
  short: {max_steps: 10}
  fast+short: {max_steps: 5}
  first: {layers: first}
"""


def written(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def fields_of(name: str, **place: str) -> tuple[str, float, int]:
    shown, editor = load_editor(name, **place)
    settings = settings_of(editor)
    return shown, settings["learning_rate"], settings["max_steps"]


def test_a_file_given_by_its_path_has_recipes_and_variants_too(tmp_path: Path) -> None:
    (tmp_path / "a+b@c").mkdir()
    file = written(
        tmp_path / "a+b@c", RECIPES + "rows: {shortest: {recipe: fast+short, tuned: {t/p: {max_steps: 1}}}}\n"
    )
    assert fields_of(file) == ("mine", 1e-5, 100)
    assert fields_of(f"{file}+short") == ("mine+short", 1e-5, 10)
    assert fields_of(f"{file}@fast+short") == ("shortest", 1e-3, 5)
    assert fields_of(f"{file}@fast+short", task="t", pack="p") == ("shortest", 1e-3, 1)
    assert fields_of(f"{file}@fast+short+first", task="t", pack="p") == ("mine@fast+short+first", 1e-3, 5)


@pytest.mark.parametrize(
    ("name", "width", "shown", "layers"),
    [
        ("rome", None, "rome", (1,)),
        ("rome", 511, "rome", (1,)),
        ("rome", 576, "rome", (9,)),
        ("r_rome", 576, "r_rome", (9,)),
        ("rome@medium", 576, "rome", (9,)),
        ("rome@medium", 256, "rome@medium", (9,)),
        ("rome+mean", 4096, "rome+mean", (5,)),
        ("rome@small", 4096, "rome@small", (1,)),
        ("rome@small", 256, "rome", (1,)),
        ("r_rome", 256, "r_rome", (1,)),
    ],
)
def test_the_default_recipe_depends_on_the_size_of_the_model(
    name: str, width: int | None, shown: str, layers: tuple[int, ...]
) -> None:
    found, editor = load_editor(name, model_width=lambda: width)
    assert (found, settings_of(editor)["layers"]) == (shown, layers)


def test_a_variant_of_the_recipe_for_large_models_alone_is_found(tmp_path: Path) -> None:
    file = written(
        tmp_path, RECIPES + "  fast+wide: {layers: all, max_steps: 7}\ndefault_by_width: {64: fast}\n"
    )
    found, editor = load_editor(f"{file}+wide", model_width=lambda: 64)
    assert (found, settings_of(editor)["max_steps"]) == ("mine@fast+wide", 7)
    with pytest.raises(NotFound, match="no variant of mine@slow named 'wide'"):
        load_editor(f"{file}+wide", model_width=lambda: 63)


def test_a_combination_for_large_models_may_have_a_name_and_tuned_settings(
    tmp_path: Path,
) -> None:
    rows = "rows: {big: {recipe: fast, tuned: {t/p: {max_steps: 1}}}}\ndefault_by_width: {64: fast}\n"
    file = written(tmp_path, RECIPES + rows)
    assert fields_of(file, task="t", pack="p") == ("mine", 1e-5, 100)
    assert load_editor(file, task="t", pack="p", model_width=lambda: 64)[0] == "big"
    assert settings_of(load_editor(file, task="t", pack="p", model_width=lambda: 64)[1])["max_steps"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "default_by_width: {64: fsat}",
            "default_by_width: 64: no recipe named 'fsat'; did you mean 'fast'?",
        ),
        ("default_by_width: {wide: fast}", "default_by_width"),
        ("settings: {}", "settings: found with recipes, wanted one of the two"),
        (
            "rows: {a: {recipe: fsat}}",
            "rows: a: recipe: no recipe of mine named 'fsat'; did you mean 'fast'?",
        ),
        ("rows: {a: {recipe: fast+shrt}}", "rows: a: recipe: no variant of mine@fast named 'shrt'"),
        ("rows: {a: {recipe: fast}, b: {recipe: fast}}", "rows: b: found fast, as in a"),
        ("rows: {mine: {recipe: fast}}", "rows: mine: found fast, wanted slow"),
        (
            "rows: {a: {recipe: fast, tuned: {t: {}}}}",
            "rows: a: tuned: found 't', wanted the name of a task and",
        ),
        ("rows: {a: {recpe: fast}}", "rows.a.recpe: unknown field; did you mean 'recipe'?"),
        (
            "rows: {a: {recipe: slow}}\ntuned: {t/p: {}}",
            "tuned: wanted in the row a, which is the default recipe",
        ),
    ],
)
def test_a_wrong_file_with_recipes(text: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, RECIPES + text)
    with pytest.raises(BadFile) as error:
        find_editor(file)
    assert str(error.value).startswith(f"{file}: {said}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("default_recipe: slow", "", "default_recipe: missing; known: slow, fast"),
        (
            "default_recipe: slow",
            "default_recipe: slwo",
            "default_recipe: found 'slwo'; did you mean 'slow'?",
        ),
        ("fast+short", "fsat+short", "variants: fsat+short: no recipe named 'fsat'; did you mean 'fast'?"),
        ("{learning_rate: 1e-5}", "{learning_rte: 1}", "slow: learning_rte: unknown field; did you mean"),
    ],
)
def test_a_mistake_in_recipes(old: str, new: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, RECIPES.replace(old, new))
    with pytest.raises(BadFile) as error:
        load_editor(file)
    assert str(error.value).startswith(f"{file}: {said}")


# Settings changed from outside -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "shown"),
    [
        ("knowledge_editor+loop", {"margin": "2e-2"}, "knowledge_editor_loop (margin=0.02)"),
        ("knowledge_editor_loop", {"margin": 0.1}, "knowledge_editor_loop"),
        (
            "fine_tuning@all",
            {"max_steps": 7, "layers": [0, 1]},
            "fine_tuning_all (layers=[0, 1], max_steps=7)",
        ),
        ("kebench.baselines.fine_tuning:FineTuning", {"layers": "last"}, "FineTuning (layers=last)"),
    ],
)
def test_tables_name_the_settings_that_were_changed(name: str, changes: dict[str, Any], shown: str) -> None:
    assert load_editor(name, changes=changes)[0] == shown


def test_a_change_is_made_after_all_that_the_file_says() -> None:
    place = {"task": "zsre", "pack": "mini"}
    assert fields_of("fine_tuning@first", **place) == ("fine_tuning_first", 2e-4, 100)
    name, editor = load_editor("fine_tuning@first", **place, changes={"max_steps": 3})
    assert name == "fine_tuning_first (max_steps=3)"
    assert settings_of(editor) == {"layers": "first", "learning_rate": 2e-4, "max_steps": 3}
    name, editor = load_editor("fine_tuning@first", **place, changes={"learning_rate": 3e-5})
    assert name == "fine_tuning_first (learning_rate=3.0e-05)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rte": 1}, "-s learning_rte: unknown field; did you mean 'learning_rate'?"),
        ({"max_steps": "many"}, "-s max_steps: found 'many', wanted: "),
        ({"learning_rate": 0}, "-s learning_rate: found 0.0, wanted a number above 0"),
    ],
)
def test_a_wrong_change_is_told_as_in_a_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting) as error:
        load_editor("fine_tuning", changes=changes)
    assert str(error.value).startswith(said)


# Modules beside a file -------------------------------------------------------------------------------


MODULE = """
from dataclasses import dataclass
from kebench.baselines.fine_tuning import FineTuning
from {helper} import RATE

@dataclass(frozen=True)
class Mine(FineTuning):
    learning_rate: float = RATE
"""


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Takes the modules that a test imports out again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("own_modules")
def test_the_module_of_a_file_is_looked_for_beside_it_too(tmp_path: Path) -> None:
    (tmp_path / "module_beside.py").write_text(MODULE.format(helper="helper_beside"), encoding="utf-8")
    (tmp_path / "helper_beside.py").write_text("RATE = 0.25\n", encoding="utf-8")
    file = written(tmp_path, "editor: module_beside:Mine")
    before = list(sys.path)
    assert fields_of(file) == ("mine", 0.25, 100)
    assert sys.path == before


@pytest.mark.usefixtures("own_modules")
def test_another_module_of_the_name_is_never_taken_in_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_name.py").write_text(
            MODULE.format(helper="math").replace("RATE", "pi"), encoding="utf-8"
        )
    load_editor(written(tmp_path / "one", "editor: same_name:Mine"))
    before = list(sys.path)
    with pytest.raises(
        BadFile, match=r"two/mine\.yaml: editor: the module 'same_name' was loaded from .*one"
    ):
        load_editor(written(tmp_path / "two", "editor: same_name:Mine"))
    assert sys.path == before


def test_a_module_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"editor: found 'module_nowhere:Mine' .*, wanted module:Class"):
        load_editor(written(tmp_path, "editor: module_nowhere:Mine"))


# Plug-ins --------------------------------------------------------------------------------------------


ENTRY_POINTS = """
[kebench.editors]
plugged = plugged_package
plugged_class = kebench.baselines.fine_tuning:FineTuning

[kebench.tasks]
plugged_task = plugged_package

[kebench.formats]
plugged_format = plugged_package.formats:read
plugged_list = plugged_package.formats:LIST
"""
FORMATS = """
from kebench.packs.reading import Reading
LIST = []
def read(path):
    return Reading((), set_aside={path.read_text(): 1})
def wrong(path):
    return LIST
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_modules: None) -> Path:
    """A package with plug-ins, installed as far as Python can tell; and a broken one's entry point."""
    folder, facts = tmp_path / "plugged_package", tmp_path / "plugged_package-1.dist-info"
    folder.mkdir()
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-package\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "__init__.py").write_text("")
    (folder / "formats.py").write_text(FORMATS)
    (folder / "plugged.yaml").write_text(
        RECIPES + "description: from outside\nrows: {plugged_fast: {recipe: fast, description: fast}}\n"
    )
    ours = Path(sys.modules[load_task.__module__].__file__ or "").parents[1] / "tasks" / "zsre.yaml"
    (folder / "plugged_task.yaml").write_text(
        ours.read_text(encoding="utf-8").replace("name: zsre", "name: plugged_task")
    )
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_editors_of_installed_packages_are_rows_like_others(package: Path) -> None:
    rows = editor_rows()
    assert (rows["plugged"].description, rows["plugged_fast"].description) == ("from outside", "fast")
    assert rows["plugged_class"].description == "from the package plugged-package"
    assert "plugged_package" not in sys.modules  # listed, not imported
    assert fields_of("plugged@fast+short") == ("plugged@fast+short", 1e-3, 5)
    assert fields_of("plugged_fast+first") == ("plugged@fast+first", 1e-3, 100)
    assert load_editor("plugged_class")[0] == "plugged_class"
    with pytest.raises(NotFound, match="did you mean 'plugged'"):
        find_editor("pluged")
    with pytest.raises(NotFound, match="no variant of plugged_class@default named 'short'"):
        find_editor("plugged_class+short")


def test_a_file_that_a_package_lacks_is_told(package: Path) -> None:
    (package / "plugged.yaml").unlink()
    said = r"entry point plugged of kebench\.editors: found 'plugged_package', wanted a package with the file"
    with pytest.raises(BadFile, match=said):
        find_editor("plugged")
    assert isinstance(find_editor("identity"), EditorRow)  # nothing else depends on it


def test_tasks_of_installed_packages_are_found(package: Path) -> None:
    assert "plugged_task" in task_names()
    assert load_task("plugged_task").name == "plugged_task"


def test_formats_of_installed_packages_and_by_reference(package: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("hello")
    assert "plugged_format" in format_names()
    wanted = Reading((), set_aside={"hello": 1})
    assert read_source("plugged_format", source) == wanted
    assert read_source("plugged_package.formats:read", source) == wanted
    with pytest.raises(BadSetting, match="the format plugged_format reads files and takes no revision"):
        read_source("plugged_format", source, revision="a")
    for format, said in (
        (
            "plugged_package.formats:raed",
            r"format: found 'plugged_package\.formats:raed' \(.*wanted module:function",
        ),
        ("plugged_list", "wanted a function that reads a file"),
        ("plugged_package.formats:wrong", "returned a list, wanted a Reading"),
    ):
        with pytest.raises(BadSetting, match=said):
            read_source(format, source)
