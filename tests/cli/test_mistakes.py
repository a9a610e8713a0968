"""How the commands tell a user's mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner
from commands import Kebench, in_a_process, mistaken
from worlds import World, task_text

from kebench.cli import cli
from kebench.cli.errors import one_line

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
    ((*RUN, "--retain", "0"), "retain: found 0, wanted 4 or more (one for each stratum), or 'exact'"),
    ((*RUN, "--retain", "3"), "retain: found 3, wanted 4 or more"),
    ((*RUN, "--precision", "fine"), "Invalid value for '--precision': 'fine' is not a valid float"),
    ((*RUN, "--precision", "0"), "precision: found 0, wanted percentage points, more than 0 and less"),
    ((*RUN, "--precision", "50"), "precision: found 50, wanted percentage points"),
    ((*RUN, "--precision", "nan"), "precision: found nan, wanted percentage points"),
    ((*RUN, "--dtype", "float16"), "run: dtype: found 'float16', wanted: Input should be 'float32',"),
    ((*RUN, "--dtype", "tf32", "--device", "cpu"), "--dtype: found tf32 with the device cpu, wanted cuda"),
    ((*RUN, "--device", "meta"), "--device: found 'meta', wanted one of this machine: cpu"),
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
    (("train", "--editor", "identity", "--task", "zsre"), "editor identity: it is not trained"),
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("editors: identity\ntask: zsre\nlimt: 3\n", "run.yaml: limt: unknown field; did you mean 'limit'?"),
        ("task: zsre\ntask: fever\n", "run.yaml:2: the key 'task' appears twice"),
        ("editors: 5\ntask: zsre\n", "run.yaml: editors: found 5, wanted"),
        ("editors: [identity, 5]\ntask: zsre\n", "run.yaml: editors.1: found 5, wanted"),
        ("editors: identity\ntask: [zsre]\n", "run.yaml: task: found ['zsre'], wanted"),
        ("editors: identity\ntask: zsre\nlimit: few\n", "run.yaml: limit: found 'few', wanted"),
        ("editors: identity\ntask: zsre\nlimit: -2\n", "run.yaml: limit: found -2, wanted 0 (all) or more"),
        (
            "editors: identity\ntask: zsre\nretain: many\n",
            "run.yaml: --retain: found 'many', wanted a number or 'exact'",
        ),
        ("editors: identity\ntask: zsre\nprotocol: no\n", "run.yaml: protocol: found False, wanted"),
        ("- identity\n", "run.yaml: found list, wanted a mapping"),
        ("", "run.yaml: found NoneType, wanted a mapping"),
        ("editors: identity\n", "run.yaml: run: --task is missing"),
        ("editors: identity\ntask: no\n", "run.yaml: "),
        ("editors: identiti\ntask: zsre\n", "run.yaml: no editor named 'identiti'; did you mean"),
        ("editors: identity\ntask: zsr\n", "run.yaml: no task named 'zsr'; did you mean 'zsre'?"),
        ("editors: identity\ntask: zsre\npack: mino\n", "run.yaml: no pack named 'mino'"),
        ("editors: identity\ntask: zsre\nsettings: 5\n", "run.yaml: settings: found 5, wanted"),
        ("{", "run.yaml:1: "),
    ],
)
def test_a_mistake_in_a_config_file(content: str, said: str, kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(content)
    mistaken(kebench("run", "--config", tmp_path / "run.yaml"), said)


def test_a_name_that_is_too_long_is_one_line(kebench: Kebench, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    mistaken(kebench("data", "verify", long), "File name too long")
    mistaken(kebench("data", "import", "--format", "records", long, "--out", "p"), "File name too long")


def test_a_mistake_in_a_config_file_or_an_option_beside_it(kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("editors: identity\ntask: zsre\n")
    said = "run.yaml, or an option beside it: no pack named 'mino'"
    mistaken(kebench("run", "--config", tmp_path / "run.yaml", "--pack", "mino"), said)


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
    mistaken(kebench(*words, tmp_path / "file"), "file cannot be made (File exists)")
    assert kebench(*words, tmp_path / "run")[0] == 0
    mistaken(kebench(*words, tmp_path / "run", "--seed", "1"), "holds a run with another seed")
    mistaken(kebench(*words, tmp_path / "run", "--device", "cdua"), "--device: found 'cdua'")


def test_an_editor_that_writes_to_the_base(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    words = ("run", "--editor", "doubles:Scribbler", "--task", classifier.task, "--output", tmp_path)
    mistaken(kebench(*words), "): it changed the base model's weights: other weights in ")


def test_a_task_with_a_mistake(kebench: Kebench, tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(task_text("bert", traget=1))
    mistaken(kebench("run", "--editor", "identity", "--task", file), f"{file}: traget: unknown field")


def test_layers_that_are_not_there_are_one_line(classifier: World, kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "far.yaml").write_text(
        "editor: kebench.baselines.fine_tuning:FineTuning\nsettings: {layers: [99]}"
    )
    words = ("run", "--editor", tmp_path / "far.yaml", "--task", classifier.task, "--limit", "1")
    said = "layers: found (99,), wanted some with an editable weight matrix"
    mistaken(kebench(*words, "--output", tmp_path / "run"), said)


def test_leaderboard_of_broken_records(kebench: Kebench, tmp_path: Path) -> None:
    (tmp_path / "run" / "mine").mkdir(parents=True)
    (tmp_path / "run" / "mine" / "record.json").write_text("{}")
    words = ("leaderboard", tmp_path / "run", "--folder", tmp_path / "boards")
    mistaken(kebench(*words), "record.json: found format None, wanted 2")


@pytest.mark.parametrize(
    "words", [("rnu",), ("run", "--editor", "identiti", "--task", "zsre"), ("run", "--lmit", "3")]
)
def test_a_mistake_in_a_process_of_its_own(words: tuple[str, ...], tmp_path: Path) -> None:
    done = in_a_process(None, tmp_path, *words)
    mistaken((done.returncode, done.stdout, done.stderr), "kebench: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_bug_keeps_its_traceback(kebench: Kebench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise IndexError("a bug")

    monkeypatch.setattr("kebench.cli.ls._tasks", broken)
    with pytest.raises(IndexError, match="a bug"):
        CliRunner().invoke(cli, ["ls", "tasks"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("two\nlines", "two lines"), ("a\x1b[2Jb", r"a\x1b[2Jb"), ("tabs\tand  spaces", "tabs and spaces"),
     ("naïve «name» …", "naïve «name» …")],
)  # fmt: skip
def test_one_line_is_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
