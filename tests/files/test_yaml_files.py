from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict
from worlds import task_fields, task_text

from kebench.edits.editor_files import editor_rows, find_editor
from kebench.errors import BadFile, KebenchError, NotFound
from kebench.files.yaml import as_mapping, folder_of, read_yaml, validated, yaml_value
from kebench.task import load_task, task_names

TOY_PACK = task_fields("bert")["packs"]["toy"]


@dataclass(frozen=True)
class Inner:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"


def read(text: str, tmp_path: Path) -> Outer:
    file = tmp_path / "outer.yaml"
    file.write_text(text, encoding="utf-8")
    return validated(Outer, read_yaml(file), "outer.yaml")


# YAML's traps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "0.0001", '"1e-4"'])
def test_a_number_pyyaml_reads_as_text_becomes_a_number(number: str, tmp_path: Path) -> None:
    assert read(f"{{name: x, inner: {{rate: {number}}}}}", tmp_path).inner.rate == 1e-4


@pytest.mark.parametrize("word", ["no", "off", "yes"])
def test_a_word_yaml_takes_for_a_truth_value_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"outer.yaml: labels.0: found (False|True), wanted: .*string"):
        read(f"{{name: x, labels: [{word}, maybe]}}", tmp_path)
    assert read(f'{{name: x, labels: ["{word}"]}}', tmp_path).labels == (word,)


def test_a_number_where_a_name_should_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"name: found 2021, wanted: .*string"):
        read("name: 2021", tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("name: x\nname: y\n", 2, "name"),
        ("name: x\ninner:\n  rate: 1\n  rate: 2\n", 4, "rate"),
        ("name: x\nmany:\n- {rate: 1, rate: 2}\n", 3, "rate"),
    ],
)
def test_a_repeated_key_is_refused(text: str, line: int, key: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=rf"outer.yaml:{line}: the key '{key}' appears twice"):
        read(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [x", "outer.yaml:1: "),
        ("name: x\n\tinner: 1", "outer.yaml:2: "),
        ("? [a, b]\n: c", "outer.yaml:1: found a list or a mapping as a key"),
        ("name: 2024-13-45", "outer.yaml: not YAML (month must be in 1..12"),
        ("name: x\x00", "outer.yaml: not YAML ("),
        ("name: !!python/object:os.system x", "outer.yaml:1: could not determine a constructor"),
    ],
)
def test_what_is_no_yaml_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile) as error:
        read(text, tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none.yaml: cannot be read \(FileNotFoundError\)"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: Jos\xe9")
    with pytest.raises(BadFile, match=r"latin.yaml: cannot be read \(UnicodeDecodeError\)"):
        read_yaml(tmp_path / "latin.yaml")


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "any.yaml"
        file.write_text(text, encoding="utf-8")
        with suppress(BadFile):
            validated(Outer, read_yaml(file), file)


# Fields ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{name: x, iner: {}}", "outer.yaml: iner: unknown field; did you mean 'inner'?"),
        ("{name: x, inner: {raet: 1}}", "outer.yaml: inner.raet: unknown field; did you mean 'rate'?"),
        ("{name: x, many: [{}, {raet: 1}]}", "outer.yaml: many.1.raet: unknown field; did you mean 'rate'?"),
        (
            "{name: x, by_name: {k: {zzz: 1}}}",
            "outer.yaml: by_name.k.zzz: unknown field; known: rate",
        ),
        ("{1: x}", "outer.yaml: 1: unknown field; known: by_name, inner, kind, labels, many, name"),
        ("{}", "outer.yaml: name: missing"),
        ("{name: x, inner: {rate: fast}}", "outer.yaml: inner.rate: found 'fast', wanted: "),
        ("{name: x, kind: c}", "outer.yaml: kind: found 'c', wanted: Input should be 'a' or 'b'"),
        ("[]", "outer.yaml: the whole file: found [], wanted: "),
        ("", "outer.yaml: the whole file: found None, wanted: "),
    ],
)
def test_a_wrong_field_is_named_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile) as error:
        read(text, tmp_path)
    assert str(error.value).startswith(said)


def test_a_long_value_is_cut_short(tmp_path: Path) -> None:
    with pytest.raises(BadFile) as error:
        read(f"{{name: x, inner: {{rate: {'x' * 500}}}}}", tmp_path)
    assert len(str(error.value)) < 200


def test_as_mapping() -> None:
    assert as_mapping({"a": 1}, Path("f.yaml")) == {"a": 1}
    with pytest.raises(BadFile, match=r"f.yaml: found list, wanted a mapping"):
        as_mapping([], Path("f.yaml"))


def test_a_packages_folder_is_found_without_importing_it() -> None:
    assert (folder_of("kebench.tasks") / "zsre.yaml").is_file()


# Tasks -----------------------------------------------------------------------------------------------


def test_every_task_and_editor_of_the_repository_can_be_read() -> None:
    assert {"fever", "zsre"} <= set(task_names())
    for name in task_names():
        assert load_task(name).name == name
    assert "identity" in editor_rows()
    for name, row in editor_rows().items():
        assert find_editor(name) == row
        assert row.description


@pytest.mark.parametrize("kind", ["bart", "bert"])
def test_a_task_is_what_its_file_says(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(task_text(kind))
    task = load_task(str(file))
    fields = task_fields(kind)
    assert (task.name, task.family, list(task.labels)) == ("toy", fields["family"], fields.get("labels", []))
    assert task.packs["toy"].sources[0].path == "toy.jsonl"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"template": "no place for it"}, "template: found 'no place for it', wanted {prompt}"),
        ({"template": "{prompt} {question}"}, "template: found '{prompt} {question}', wanted {prompt}"),
        ({"template": "{prompt:>9999999999}"}, "template: found '{prompt:>9999999999}', wanted {prompt}"),
        ({"template": "{prompt.__class__}"}, "template: found '{prompt.__class__}', wanted {prompt}"),
        ({"template": "{prompt!r}"}, "template: found '{prompt!r}', wanted {prompt}"),
        ({"template": "{prompt:{prompt}}"}, "template: found '{prompt:{prompt}}', wanted {prompt}"),
        ({"template": "{prompt"}, "template: found '{prompt', wanted {prompt}"),
        ({"name": "../../../x"}, "name: found '../../../x', wanted a name without slashes"),
        ({"name": ".."}, "name: found '..', wanted a name with letters or digits"),
        ({"name": "x" * 300}, f"name: found '{'x' * 56}..., wanted a name of at most 100 bytes"),
        (
            {"packs": {"../../../x": TOY_PACK}, "default_pack": "../../../x"},
            "packs: found '../../../x', wanted a name without slashes",
        ),
        (
            {"packs": {"toy": {**TOY_PACK, "shipped": "../../x"}}},
            "shipped: found '../../x', wanted a folder below tasks/",
        ),
        (
            {"models": {"../x": {"start": "tiny"}}, "default_model": "../x"},
            "models: found '../x', wanted a name with letters",
        ),
        ({"template": "{prompt} {"}, "template: "),
        ({"default_pack": "toi"}, "default_pack: found 'toi'; did you mean 'toy'?"),
        ({"default_model": "tinny"}, "default_model: found 'tinny'; did you mean 'tiny'?"),
        ({"labels": []}, "labels: found [], wanted labels"),
        ({"family": "seq2seq"}, "labels: found ['REFUTES', 'SUPPORTS'], wanted none"),
        ({"family": "decoder"}, "family: found 'decoder', wanted: "),
        ({"edits": -1}, "edits: found -1, wanted 0 or more"),
        ({"retain_size": 3}, "retain_size: found 3, wanted 4 or more"),
        ({"max_answer_tokens": 0}, "max_answer_tokens: found 0"),
        ({"traget": 1}, "traget: unknown field"),
        ({"packs": {"toy": {"licence": "x", "source": []}}}, "packs.toy.source"),
        (
            {"packs": {"toy": {"licence": "x", "sources": [{"format": "f", "paht": "p"}]}}},
            "packs.toy.sources.0.pa",
        ),
    ],
)
def test_a_wrong_task(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(task_text("bert", **change))
    with pytest.raises(BadFile) as error:
        load_task(str(file))
    assert str(error.value).startswith(f"{file}: {said}")


def test_a_tasks_default_model_may_be_a_hub_model(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(task_text("bert", default_model="owner/model"))
    assert load_task(str(file)).model_for("toy") == "owner/model"


def test_a_task_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no task named 'zsree'; did you mean 'zsre'"):
        load_task("zsree")
    with pytest.raises(NotFound, match=r"no task named 'nowhere/zsre\.yaml'"):
        load_task("nowhere/zsre.yaml")


# Editor files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("editor: a:B\nsetings: {}", "setings: unknown field; did you mean 'settings'?"),
        ("description: x", "editor: missing"),
        ("editor: a:B\nsettings: 5", "settings: found 5"),
        ("just words", "found str, wanted a mapping"),
    ],
)
def test_a_wrong_editor_file(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BadFile) as error:
        find_editor(str(file))
    assert str(error.value).startswith(f"{file}: {said}")


def test_editors_by_name_path_and_class(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("editor: some.where:Mine\nsettings: {rate: 1e-4}")
    file = find_editor(str(tmp_path / "mine.yaml"))
    assert (file.name, file.editor, file.path) == ("mine", "some.where:Mine", tmp_path / "mine.yaml")
    assert find_editor("some.where:Mine").name == "Mine"
    with pytest.raises(NotFound, match="no editor named 'identiti'; did you mean 'identity'"):
        find_editor("identiti")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kebench.nowhere:X", "found 'kebench.nowhere:X' ("),
        ("kebench.edits.edit:Nothing", "found 'kebench.edits.edit:Nothing' ("),
        ("kebench.edits.edit:Edit", "wanted a subclass of AbstractEditor"),
        ("kebench.edits.editor:AbstractEditor", "wanted a dataclass that is not abstract"),
        ("kebench.edits.editor:AbstractWeightEditor", "wanted a dataclass that is not abstract"),
        ("doubles:Plain", "wanted a dataclass that is not abstract"),
    ],
)
def test_an_editor_that_is_none(name: str, said: str) -> None:
    from kebench.edits.editor import load_editor

    with pytest.raises(KebenchError) as error:
        load_editor(name)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{learning_rte: 1}", "settings: learning_rte: unknown field; did you mean 'learning_rate'?"),
        ("{max_steps: many}", "settings: max_steps: found 'many', wanted: "),
        ("{layers: middle}", "settings: layers"),
    ],
)
def test_wrong_settings(settings: str, said: str, tmp_path: Path) -> None:
    from kebench.edits.editor import load_editor

    file = tmp_path / "mine.yaml"
    file.write_text(f"editor: kebench.baselines.fine_tuning:FineTuning\nsettings: {settings}")
    with pytest.raises(BadFile) as error:
        load_editor(str(file))
    assert said in str(error.value)


FINE = "kebench.baselines.fine_tuning:FineTuning"
BALL = "kebench.baselines.constrained_fine_tuning:ConstrainedFineTuning"
KE = "kebench.baselines.knowledge_editor:KnowledgeEditor"
COUNTS = ("validate_every", "validate_edits", "steps", "edits_per_step", "retain_per_edit", "loop")


@pytest.mark.parametrize(
    ("editor", "settings", "said"),
    [
        (FINE, "{max_steps: -1}", "max_steps: found -1, wanted 0 or more"),
        (FINE, "{learning_rate: 0}", "learning_rate: found 0.0, wanted a number above 0"),
        (FINE, "{learning_rate: .nan}", "learning_rate: found nan, wanted a number above 0"),
        (BALL, "{radius: -1}", "radius: found -1.0, wanted 0 or more"),
        (BALL, "{learning_rate: -1}", "learning_rate: found -1.0, wanted a number above 0"),
        (BALL, "{max_steps: -1}", "max_steps: found -1, wanted 0 or more"),
        *((KE, f"{{{name}: 0}}", f"{name}: found 0, wanted a number above 0") for name in COUNTS),
        (KE, "{learning_rate: 0}", "learning_rate: found 0.0, wanted a number above 0"),
        (KE, "{margin: -1}", "margin: found -1.0, wanted 0 or more"),
        ("kebench.baselines.random_update:RandomUpdate", "{reference: {loop: 0}}", "loop: found 0, wanted"),
        (
            "kebench.baselines.random_update:RandomUpdate",
            "{reference: {scal: 10}}",
            "reference.scal: unknown field; did you mean 'scale'?",
        ),
    ],
)
def test_settings_out_of_range_or_unknown(editor: str, settings: str, said: str, tmp_path: Path) -> None:
    from kebench.edits.editor import load_editor

    file = tmp_path / "mine.yaml"
    file.write_text(f"editor: {editor}\nsettings: {settings}")
    with pytest.raises(BadFile) as error:
        load_editor(str(file))
    assert str(error.value).startswith(f"{file}: settings: {said}")


def test_settings_of_a_file_are_the_editors(tmp_path: Path) -> None:
    from kebench.edits.editor import load_editor, settings_of

    file = tmp_path / "mine.yaml"
    file.write_text(
        "editor: kebench.baselines.fine_tuning:FineTuning\nsettings: {learning_rate: 1e-4, layers: [0, 1]}"
    )
    name, editor = load_editor(str(file))
    assert name == "mine"
    assert settings_of(editor) == {"layers": (0, 1), "learning_rate": 1e-4, "max_steps": 100}


@pytest.mark.parametrize("content", ["[" * 5000, "{a: " * 5000, "- " * 5000 + "x", "!x " * 5000])
def test_what_is_nested_deeply_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(BadFile) as error:
        read_yaml(tmp_path / "a.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'a.yaml'}:")
    with pytest.raises(BadFile, match=r"wanted a value in YAML$") as error:
        yaml_value(content, "-s a")
    assert len(str(error.value)) < 200


def test_aliases_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    (tmp_path / "a.yaml").write_text("\n".join(["a0: &a0 [x, x]", *lines]))
    with pytest.raises(BadFile, match=r"a.yaml:2: found the alias \*a0, wanted the value itself$"):
        read_yaml(tmp_path / "a.yaml")


def test_text_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('a: 1\nb: "\\ud800"\n')
    with pytest.raises(BadFile, match=r"a.yaml:2: found text with lone surrogates, wanted Unicode$"):
        read_yaml(tmp_path / "a.yaml")
