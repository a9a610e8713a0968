"""The commands: what they print where, and how they take a user's mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import tiny
import yaml
from click.testing import CliRunner
from worlds import World, task_text

from kebench import __version__
from kebench.cli import cli, one_line
from kebench.running.settings import RunSettings
from kebench.scoring.record import RunRecord

Kebench = Callable[..., tuple[int, str, str]]

# A user's mistakes -----------------------------------------------------------------------------------

RUN = ("run", "--editor", "identity", "--task", "zsre")
TRAIN = ("train", "--task", "zsre")
WORDS = [
    (("rnu",), "no command named 'rnu'; did you mean 'run'?"),
    (("data", "imprt"), "no command named 'imprt'; did you mean 'import'?"),
    (("ls", "editrs"), "ls: cannot list 'editrs'; did you mean 'editors'?"),
    (("ls", "editors", "tasks"), "unexpected extra argument"),
    (("--verbos", "ls"), "No such option '--verbos'"),
    ((*RUN, "--editor", "identiti"), "no editor named 'identiti'; did you mean 'identity'?"),
    ((*RUN, "--editor", "identity,oracel"), "no editor named 'oracel'; did you mean 'oracle'"),
    (("run", "--editor", "identity", "--task", "zsree"), "no task named 'zsree'; did you mean 'zsre'?"),
    (("run", "--editor", "identity", "--task", "no/where.yaml"), "no task named 'no/where.yaml'"),
    (("run", "--editor", "no/where.yaml", "--task", "zsre"), "no editor named 'no/where.yaml'"),
    (("run", "--task", "zsre"), "run: --editor is missing"),
    (("run", "--editor", "identity"), "run: --task is missing"),
    (("run", "--editor", ",", "--task", "zsre"), "run: --editor is missing"),
    ((*RUN, "--pack", "zsre-mand"), "no pack named 'zsre-mand'; did you mean 'zsre-mend'?"),
    ((*RUN, "--protocol", "strikt"), "no protocol named 'strikt'; did you mean 'strict'?"),
    ((*RUN, "--targets", "golden"), "--targets: found 'golden', wanted alternative or gold"),
    ((*RUN, "--limit", "x"), "Invalid value for '--limit': 'x' is not a valid integer"),
    ((*RUN, "--limit", "-1"), "Invalid value for '--limit'"),
    ((*RUN, "--seed", "x"), "Invalid value for '--seed'"),
    ((*RUN, "--retain", "many"), "--retain: found 'many', wanted a number or 'exact'"),
    ((*RUN, "--retain", "-3"), "--retain: found '-3', wanted a number or 'exact'"),
    ((*RUN, "--retain", "0"), "retain: found 0, wanted 4 or more (one a stratum), or 'exact'"),
    ((*RUN, "--retain", "3"), "retain: found 3, wanted 4 or more"),
    ((*RUN, "--precision", "fine"), "Invalid value for '--precision': 'fine' is not a valid float"),
    ((*RUN, "--precision", "0"), "precision: found 0, wanted percentage points, more than 0 and less"),
    ((*RUN, "--precision", "50"), "precision: found 50, wanted percentage points"),
    ((*RUN, "--precision", "nan"), "precision: found nan, wanted percentage points"),
    ((*RUN, "--dtype", "float16"), "run: dtype: found 'float16', wanted: Input should be 'float32',"),
    ((*RUN, "--dtype", "tf32", "--device", "cpu"), "--dtype: found tf32 on the device cpu, wanted it on"),
    ((*RUN, "--device", "meta"), "--device: found 'meta', wanted one that is here: cpu"),
    ((*RUN, "--batch-size", "many"), "--batch-size: found 'many', wanted a number or 'auto'"),
    ((*RUN, "--batch-size", "0"), "batch-size: found 0, wanted 1 or more, or 'auto'"),
    ((*RUN, "-s", "max_steps"), "-s: found 'max_steps', wanted NAME=VALUE"),
    ((*RUN, "-s", "=3"), "-s: found '=3', wanted NAME=VALUE"),
    ((*RUN, "-s", "a=1", "--setting", "a=2"), "-s a: found twice, wanted once"),
    ((*RUN, "-s", "a=[1"), "-s a: found '[1', wanted a value in YAML"),
    (("run", "--editor", "fine_tuning@all", "--task", "zsre", "-s", "max_stps=3"),
     "-s max_stps: unknown field; did you mean 'max_steps'?"),
    ((*TRAIN, "--editor", "knowledge_editor", "-s", "steps=few"), "-s steps: found 'few', wanted"),
    ((*TRAIN, "--base", "bart-zsre", "-s", "steps=3"), "train: found -s, wanted it with --editor alone"),
    ((*RUN, "--editor", "knowledge_editor@tunde"), "no recipe of knowledge_editor named 'tunde'; did"),
    ((*RUN, "--lmit", "3"), "No such option '--lmit'"),
    ((*RUN, "--limit"), "requires an argument"),
    ((*RUN, "--config", "none.yaml"), "none.yaml: cannot be read (FileNotFoundError)"),
    (TRAIN, "train: give --base MODEL or --editor NAME, one of them"),
    ((*TRAIN, "--base", "x", "--editor", "y"), "train: give --base MODEL or --editor NAME"),
    ((*TRAIN, "--base", "bart-zsr"), "no model of the task zsre named 'bart-zsr'; did you mean"),
    (("train", "--editor", "identity"), "Missing option '--task'"),
    (("train", "--editor", "identity", "--task", "zsre"), "editor identity: learns nothing"),
    (("train", "--editor", "identitty", "--task", "zsre"), "no editor named 'identitty'; did you mean"),
    (("train", "--editor", "identity", "--task", "zsre", "--protocol", "s"), "no protocol named 's'"),
    (("data", "import", "--format", "mend_zsre", "none.json", "--out", "out"), "no file named 'none.json'"),
    (("data", "import", "--format", "mend_zrse", "none.json", "--out", "out"),
     "no format named 'mend_zrse'; did you mean 'mend_zsre'?"),
    (("data", "import", "--format", "fever", "--out", "out"), "give SOURCES, or --train, --dev and --test"),
    (("data", "import", "--format", "mend_zsre", "a.json", "--test", "b.json", "--out", "out"),
     "give SOURCES, or --train, --dev and --test"),
    (("data", "import", "--format", "fever", "--answers-are", "true", "none.json", "--out", "out"),
     "the format fever says which answers are true and takes no answers_are"),
    (("data", "import", "x.json"), "Missing option '--format'"),
    (("data", "build", "zsree"), "no task named 'zsree'; did you mean 'zsre'?"),
    (("data", "build", "zsre", "--pack", "zsre-mand"), "did you mean 'zsre-mend'?"),
    (("data", "build", "zsre", "--from", "nowhere"), "--from: nowhere is not a folder"),
    (("data", "verify", "nowhere"), "no pack named 'nowhere'"),
    (("leaderboard", "nowhere", "--folder", "boards"), "nowhere: found no */record.json"),
    ((*RUN, "--pack", "zsre-mend"),
     "pack zsre-mend is not built yet: kebench data build zsre --pack zsre-mend --from FOLDER"),
    ((*TRAIN, "--reproduce", "minni"), "no shipped pack named 'minni'; did you mean 'mini'?"),
    ((*TRAIN, "--reproduce", "mini", "--pack", "mini"), "--reproduce takes neither --model nor --pack"),
    ((*TRAIN, "--reproduce", "mini", "--base", "bart-zsre"), "no shipped model named 'bart-zsre'"),
    ((*TRAIN, "--reproduce", "mini", "--editor", "identity"), "no shipped editor named 'identity'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
def test_a_mistake_is_one_line(
    words: tuple[str, ...], said: str, kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEBENCH_DATA", raising=False)
    mistaken(kebench(*words), said)
    assert not list(tmp_path.iterdir())  # and nothing is left behind


def mistaken(result: tuple[int, str, str], said: str) -> None:
    """Status 2, nothing on stdout, one line on stderr; lines of progress may come before it."""
    status, out, err = result
    *before, line = err.splitlines()
    assert (status, out) == (2, "")
    assert line.startswith("kebench: ")
    assert said in line
    assert "Traceback" not in err
    told = [each for each in before if not each.startswith("loading ")]  # a plug-in is code
    told = [each for each in told if ": pack " not in each]  # what is run, in one line
    assert all("/" in each and not each.startswith("kebench") for each in told)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("editors: identity\ntask: zsre\nlimt: 3\n", "run.yaml: limt: unknown field; did you mean 'limit'?"),
        ("task: zsre\ntask: fever\n", "run.yaml:2: the key 'task' appears twice"),
        ("editors: 5\ntask: zsre\n", "run.yaml: editors: found 5, wanted"),
        ("editors: [identity, 5]\ntask: zsre\n", "run.yaml: editors.1: found 5, wanted"),
        ("editors: identity\ntask: [zsre]\n", "run.yaml: task: found ['zsre'], wanted"),
        ("editors: identity\ntask: zsre\nlimit: few\n", "run.yaml: limit: found 'few', wanted"),
        ("editors: identity\ntask: zsre\nlimit: -2\n", "limit: found -2, wanted 0 (all) or more"),
        ("editors: identity\ntask: zsre\nretain: many\n", "found 'many', wanted a number or 'exact'"),
        ("editors: identity\ntask: zsre\nprotocol: no\n", "run.yaml: protocol: found False, wanted"),
        ("- identity\n", "run.yaml: found list, wanted a mapping"),
        ("", "run.yaml: found NoneType, wanted a mapping"),
        ("editors: identity\n", "run: --task is missing"),
        ("editors: identity\ntask: zsre\nsettings: 5\n", "run.yaml: settings: found 5, wanted"),
        ("{", "run.yaml:1: "),
    ],
)
def test_a_mistake_in_a_config_file(content: str, said: str, kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(content)
    mistaken(kebench("run", "--config", tmp_path / "run.yaml"), said)


def test_a_pack_that_is_not_what_its_lock_says(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    for file in classifier.pack.folder.iterdir():
        (pack / file.name).write_bytes(file.read_bytes())
    text = (pack / "test.jsonl").read_text()
    (pack / "test.jsonl").write_text(text.replace("SUPPORTS", "REFUTES", 1))
    words = ("run", "--editor", "identity", "--task", classifier.task, "--pack", pack)
    mistaken(kebench(*words), "test.jsonl: found sha256 ")
    mistaken(kebench("data", "verify", pack), "test.jsonl: found sha256 ")
    (pack / "pack.lock").write_text("{")
    mistaken(kebench(*words), "pack.lock")


def test_a_model_that_cannot_be_had(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    words = (
        "run",
        "--editor",
        "identity",
        "--task",
        classifier.task,
        "--output",
        tmp_path / "run",
        "--model",
    )
    (tmp_path / "empty").mkdir()
    mistaken(kebench(*words, tmp_path / "empty"), "found no config.json, wanted a folder with a transformers")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    mistaken(kebench(*words, tmp_path / "broken"), f"{tmp_path / 'broken'}")
    mistaken(kebench(*words, "tinny"), "did you mean 'tiny'?")
    tiny.save("bart", tmp_path / "bart")
    mistaken(kebench(*words, tmp_path / "bart"), "found seq2seq, wanted a classifier (task toy)")
    assert not (tmp_path / "run").exists()


def test_an_output_that_holds_something_else(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    words = ("run", "--editor", "identity", "--task", classifier.task, "--output")
    (tmp_path / "file").write_text("")
    mistaken(kebench(*words, tmp_path / "file"), "file cannot be made (FileExistsError)")
    assert kebench(*words, tmp_path / "run")[0] == 0
    mistaken(kebench(*words, tmp_path / "run", "--seed", "1"), "holds a run with another seed")
    mistaken(kebench(*words, tmp_path / "run", "--device", "cdua"), "--device: found 'cdua'")


def test_an_editor_that_writes_to_the_base(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    words = ("run", "--editor", "doubles:Scribbler", "--task", classifier.task, "--output", tmp_path)
    mistaken(kebench(*words), "editor Scribbler changed the base model's weights; an edit must be a value")


def test_a_task_with_a_mistake(kebench: Kebench, tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(task_text("bert", traget=1))
    mistaken(kebench("run", "--editor", "identity", "--task", file), f"{file}: traget: unknown field")


def test_leaderboard_of_broken_records(kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "run" / "mine").mkdir(parents=True)
    (tmp_path / "run" / "mine" / "record.json").write_text("{}")
    words = ("leaderboard", tmp_path / "run", "--folder", tmp_path / "boards")
    mistaken(kebench(*words), "record.json: found format None, wanted 2")


def test_a_bug_keeps_its_traceback(kebench: Kebench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise IndexError("a bug")

    monkeypatch.setattr("kebench.cli._tasks", broken)
    with pytest.raises(IndexError, match="a bug"):
        CliRunner().invoke(cli, ["ls", "tasks"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("two\nlines", "two lines"), ("a\x1b[2Jb", r"a\x1b[2Jb"), ("tabs\tand  spaces", "tabs and spaces"),
     ("naïve «name» …", "naïve «name» …")],
)  # fmt: skip
def test_one_line_is_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_an_interruption_says_how_to_go_on(kebench: Kebench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("kebench.cli._tasks", interrupted)
    status, _, err = kebench("ls", "tasks")
    assert (status, err) == (130, "kebench: interrupted; the same command goes on from here\n")


def in_a_process(world: World | None, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = world.environment() if world else None
    command = [sys.executable, "-m", "kebench", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "words", [("rnu",), ("run", "--editor", "identiti", "--task", "zsre"), ("run", "--lmit", "3")]
)
def test_a_mistake_in_a_process_of_its_own(words: tuple[str, ...], tmp_path: Path) -> None:
    done = in_a_process(None, tmp_path, *words)
    mistaken((done.returncode, done.stdout, done.stderr), "kebench: ")
    assert len(done.stderr.splitlines()) == 1


# Help and lists --------------------------------------------------------------------------------------


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


def test_ls(kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = kebench("ls")
    assert (status, err) == (0, "")
    for name in ("editors:", "knowledge_editor ", "tasks:", "zsre ", "models:", "bart-zsre ", "runs:"):
        assert name in out
    assert "fever " in kebench("ls", "tasks")[1]
    assert "identity" not in kebench("ls", "tasks")[1]


def test_ls_editors_tells_rows_recipes_and_variants(kebench: Kebench) -> None:
    status, out, _ = kebench("ls", "editors")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert "fine_tuning_all fine-tuning, all layers" in lines
    assert "knowledge_editor_beam KnowledgeEditor, KL over 5 hypotheses" in lines
    assert "knowledge_editor @ quick (default), tuned, paper" in lines
    (variants,) = (line for line in lines if line.startswith("knowledge_editor + "))
    assert {"paraphrases", "loop", "beam", "tuned+l2"} <= set(
        variants.removeprefix("knowledge_editor + ").split(", ")
    )


def test_ls_runs(
    classifier: World, kebench: Kebench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task)
    assert kebench(*words)[0] == 0
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / "run.json").write_text("{}")
    status, out, err = kebench("ls", "runs")
    assert (status, err) == (0, "")
    broken, fine = out.splitlines()
    assert broken.split() == ["runs/odd", "not", "a", "run's", "folder:", "run.json", "is", "broken"]
    assert fine.strip().startswith("runs/toy-")
    assert fine.endswith("toy, tiny: identity, oracle")


# run -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stdout_holds_the_table_and_the_folder(classifier: World, tmp_path: Path) -> None:
    words = ("--editor", "identity,oracle", "--task", classifier.task, "--output", tmp_path / "run")
    done = in_a_process(classifier, tmp_path, "run", *words)
    assert done.returncode == 0, done.stderr
    *table, empty, folder = done.stdout.splitlines()
    assert (empty, folder) == ("", str(tmp_path / "run"))
    assert any("identity" in line for line in table)
    assert any("oracle" in line for line in table)
    assert "edit identity" not in done.stdout
    # The pack and the model, how the toy model's nameless labels are read, then progress, and nothing else.
    told, labels, *progress = done.stderr.splitlines()
    assert told == "toy: pack toy, model tiny"
    assert labels.endswith("model tiny: its labels have no names; assumed: REFUTES, SUPPORTS")
    stages = ("base answers (test): ", "edit identity: ", "edit oracle: ")
    assert all(line.startswith(stages) for line in progress), done.stderr
    assert {line.split(":")[0] for line in progress} >= {"edit identity", "edit oracle"}
    assert "\r" not in done.stderr


@pytest.mark.slow
def test_train_is_quiet_too(tmp_path: Path, make_world: Callable[..., World]) -> None:
    world = make_world("bert", paraphrases=False)
    recipe = {"start": str(world.model), "training": {"max_steps": 2, "batch_size": 2, "evaluate_every": 1}}
    (tmp_path / "toy.yaml").write_text(task_text("bert", models={"tiny": recipe}))
    words = ("train", "--base", "tiny", "--task", "toy.yaml", "--out", tmp_path / "model")
    done = in_a_process(world, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "model")
    assert all(line.startswith("train tiny: ") for line in done.stderr.splitlines()), done.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()


def scored(folder: Path) -> dict[str, RunRecord]:
    return {path.parent.name: RunRecord.read(path) for path in folder.glob("*/record.json")}


FLAGS: dict[str, Any] = {
    "limit": 5, "precision": 30.0, "seed": 3, "protocol": "decao2021", "targets": "alternative", "retain": 7,
    "device": "cpu", "dtype": "bfloat16", "batch_size": 5,
}  # fmt: skip


def test_a_config_file_is_the_same_as_flags(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    flags = [word for name, value in FLAGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ("--editor", "identity, oracle", "--task", classifier.task, "--model", classifier.model)
    assert kebench("run", *words, *flags, "--output", tmp_path / "flags")[0] == 0
    config = {
        "editors": ["identity", "oracle"], "task": str(classifier.task), "model": str(classifier.model),
        "output": str(tmp_path / "file"), **FLAGS,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert kebench("run", "--config", tmp_path / "run.yaml")[0] == 0
    first, second = scored(tmp_path / "flags"), scored(tmp_path / "file")
    assert first.keys() == second.keys() == {"identity", "oracle"}
    for name, record in first.items():
        assert record.setting == second[name].setting
        assert record.scores == second[name].scores
    setting = first["oracle"].setting
    assert (setting.edits, setting.seed, setting.protocol["name"]) == (5, 3, "decao2021")
    assert setting.precision == 30
    assert setting.retain == "sample of 7"
    assert setting.model == "tiny (bfloat16)"
    assert first["oracle"].hardware["batch_limit"] == "5 rows"


def test_flags_win_over_the_file(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    config = {"editors": "identity,oracle", "task": str(classifier.task), "limit": 5, "seed": 3}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    words = ("--config", tmp_path / "run.yaml", "--limit", "2", "--editor", "oracle", "--retain", "exact")
    assert kebench("run", *words, "--seed", "0", "--output", tmp_path / "run")[0] == 0
    ((name, record),) = scored(tmp_path / "run").items()
    assert (name, record.setting.edits, record.setting.seed) == ("oracle", 2, 0)
    assert record.setting.retain == "exact"


def test_settings_given_on_the_command_line_and_in_the_file(
    classifier: World, kebench: Kebench, tmp_path: Path
) -> None:
    config = {
        "editors": "fine_tuning", "task": str(classifier.task), "limit": 1, "output": str(tmp_path / "run"),
        "settings": {"max_steps": 2, "learning_rate": 1.0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    status, out, err = kebench("run", "--config", tmp_path / "run.yaml", "-s", "learning_rate=1e-3")
    assert status == 0, err
    (record,) = scored(tmp_path / "run").values()
    assert record.editor == "fine_tuning_first (learning_rate=0.001, max_steps=2)"
    assert record.editor_settings == {"layers": "first", "learning_rate": 1e-3, "max_steps": 2}
    assert "fine_tuning_first" in out


def test_every_flag_has_its_yaml_twin() -> None:
    flags = {option.name for option in cli.commands["run"].params}
    assert flags - {"config"} == {field.name for field in fields(RunSettings)}


def test_code_from_elsewhere_is_told(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    words = ("--task", classifier.task, "--limit", "1")
    status, _, err = kebench("run", "--editor", "doubles:Vandal", *words, "--output", tmp_path / "a")
    assert status == 0, err
    assert err.splitlines()[0] == "loading doubles: an editor is code, run only what you trust"
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file in files:
        file.write_text("editor: doubles:Vandal\n")
    status, _, err = kebench("run", "--editor", f"{files[0]},{files[1]}", *words, "--output", tmp_path / "c")
    assert status == 0, err
    assert [line for line in err.splitlines() if "loading" in line] == [
        "loading doubles: an editor is code, run only what you trust"
    ]
    status, _, err = kebench("run", "--editor", "identity", *words, "--output", tmp_path / "b")
    assert status == 0, err
    assert "loading" not in err


def test_layers_that_are_not_there_are_one_line(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "far.yaml").write_text(
        "editor: kebench.baselines.fine_tuning:FineTuning\nsettings: {layers: [99]}"
    )
    words = ("run", "--editor", tmp_path / "far.yaml", "--task", classifier.task, "--limit", "1")
    said = "layers: found (99,), wanted some with an editable weight matrix"
    mistaken(kebench(*words, "--output", tmp_path / "run"), said)


# train, data, leaderboard ----------------------------------------------------------------------------


def test_train_prepares_what_a_run_then_uses(seq2seq: World, kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "editor: kebench.baselines.knowledge_editor:KnowledgeEditor\n"
        "settings: {steps: 2, edits_per_step: 2, retain_per_edit: 2, lstm_size: 4, condition_size: 8,\n"
        "  head_size: 4, validate_every: 1, validate_edits: 2, scale: 9}\n"
    )
    words = ("--editor", tmp_path / "small.yaml", "--task", seq2seq.task)
    status, out, err = kebench("train", *words)
    assert status == 0, err
    folder = Path(out.splitlines()[-1])
    assert (folder / "state.safetensors").is_file()
    seconds = json.loads((folder / "state.json").read_text())["seconds"]
    status, _, err = kebench("run", *words, "--limit", "2", "--output", tmp_path / "run")
    assert status == 0, err
    assert "prepare" not in err
    assert scored(tmp_path / "run")["small"].cost.prepare_seconds == seconds


def test_verify(classifier: World, kebench: Kebench) -> None:
    status, out, err = kebench("data", "verify", classifier.pack.folder)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "ok"
    assert "licence: CC0" in out


def test_formats(kebench: Kebench) -> None:
    assert "mend_zsre" in kebench("data", "formats")[1].split()


def test_from_run_to_leaderboard(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    run, boards = tmp_path / "run", tmp_path / "boards"
    words = ("run", "--editor", "identity,oracle", "--task", classifier.task, "--output", run)
    assert kebench(*words)[0] == 0
    status, out, err = kebench("leaderboard", run, "--folder", boards)
    assert (status, err) == (0, "")
    assert all(Path(line).is_file() for line in out.splitlines())
    assert kebench("leaderboard", "--check", "--folder", boards)[0] == 0
    (table,) = (path for path in boards.rglob("*.md") if path.name != "README.md")
    table.write_text(table.read_text().replace("100.00", "99.00"))
    status, out, err = kebench("leaderboard", "--check", "--folder", boards)
    assert status == 2
    assert str(table.name) in out
    assert len(err.splitlines()) == 1
