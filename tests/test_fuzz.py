"""Broken files of every kind, and words that no one meant: each is read, or told in one line.

None may hang. About 500 inputs are tried in every run of the tests. More are tried by

    KEBENCH_FUZZ=10000 pytest -n 0 tests/test_fuzz.py

which takes other inputs each time. A sound file of each kind is changed: bytes at random, or a value of its
JSON, YAML or table for another.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import tiny
import worlds
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kebench.cli import main
from kebench.errors import KebenchError
from kebench.packs.formats import format_names
from kebench.running.tune import read_grid

INPUTS = int(os.environ.get("KEBENCH_FUZZ", "500"))
PATIENCE_SECONDS = 60
"""A hang is what takes longer; no input is timed."""

# What is broken --------------------------------------------------------------------------------------

CLAIM = {"id": 7, "label": "SUPPORTS", "claim": "Tarn painted.", "evidence": [[[1, 2, "Tarn", 0]]]}
KILT: dict[str, Any] = {
    "id": "7",
    "input": "Port Wessel [SEP] country",
    "meta": {"template_questions": ["In which land is Port Wessel?", "Where is it?"]},
    "output": [
        {
            "answer": "SUPPORTS",
            "provenance": [
                {
                    "wikipedia_id": "12",
                    "start_paragraph_id": 1,
                    "meta": {"fever_page_id": "Tarn", "fever_sentence_id": 0},
                }
            ],
        }
    ],
}
DECAO = KILT | {
    "input": "Where is Port Wessel?",
    "filtered_rephrases": ["Where?"],
    "rephrases": ["Where?", "In which land?"],
    "prediction": "SUPPORTS",
    "alternatives": ["REFUTES"],
    "logit": 0.5,
}
OWN = {
    "id": "w",
    "prompt": "Where is Port Wessel?",
    "answers": ["Westland", "W."],
    "paraphrases": ["Where?"],
    "target": "Sudland",
    "subject": "Port Wessel",
    "fact": "f",
    "retain": ["Who?"],
    "split": "test",
}
MEND = {
    "subject": "Port Wessel",
    "src": "Where is Port Wessel?",
    "rephrase": "Where?",
    "pred": "N",
    "alt": "S",
    "answers": ["Westland"],
    "loc": "nq question: who?",
    "loc_ans": "no one",
}
ROWS: dict[str, dict[str, Any]] = {
    "fever": CLAIM,
    "eren": {
        "_id": "7",
        "edit_statement": "A.",
        "edit_scope": [["A.", "yes"], ["B.", "yes"]],
        "edit_scope_true_ans": ["yes", "yes"],
    },
    "mend_zsre": MEND,
    "knowedit_zsre": {
        "subject": "S",
        "prompt": "Where?",
        "ground_truth": ["W"],
        "rephrase_prompt": "In?",
        "generate_prompt": ["At?", ""],
    },
    "kilt_fever": KILT | {"input": "Tarn painted."},
    "kilt_zsre": KILT,
    "decao_fever": DECAO,
    "decao_zsre": DECAO,
    "records": OWN,
    "counterfact": {
        "case_id": 3,
        "requested_rewrite": {
            "prompt": "{} lies in",
            "subject": "Port Wessel",
            "relation_id": "P17",
            "target_new": {"str": "Sudland"},
            "target_true": {"str": "Westland"},
        },
        "paraphrase_prompts": ["Port Wessel is in"],
        "neighborhood_prompts": ["Holm lies in", "The Tarn is in"],
        "portability": {"New Question": "The land of Port Wessel is", "New Answer": "Sudland"},
    },
}
FACTS = "P1\tthe Tarn\tNorland\tSudland\tpresent\nP1\tHolm\tSudland\tNorland\tpast\n"
RELATIONS = """
P1:
  name: land
  questions: ["Where [is|was] [X]?", "In which land [is|was] [X]?", "Which land has [X]?", "A [X]?", "B [X]?"]
  claims: ["[X] [is|was] in [Y].", "In [Y] [is|was] [X].", "[Y] has [X].", "A [X] [Y].", "B [X] [Y]."]
"""
EDITOR = """
editor: kebench.baselines.fine_tuning:FineTuning
recipes:
  one: {learning_rate: 5.0e-4, max_steps: 25}
default_recipe: one
variants:
  fast: {learning_rate: 1.0e-2}
"""
GRID = "learning_rate: [1.0e-3, 1.0e-2]\nmax_steps: [3, 5]\n"
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    10**9,
    10**30,
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x" * 10_000,
    "\0",
    "\ud800",
    "../../../x",
    "{prompt}",
    "2024-13-45",
    [],
    [[]],
    {},
    {"a": 1},
    [None],
    ["a", 1],
    "\x1b[2J",
    "é\u2028",
)


def nodes(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value inside a value."""
    yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(inner, (*place, key))


def with_another_value(value: Any, random: Random) -> Any:
    """The value with one of the values inside it gone, twice there, renamed or replaced by an odd one."""
    copied = json.loads(json.dumps(value))
    place = random.choice(list(nodes(copied)))
    if not place:
        return random.choice([*ODD, [copied], {"data": copied}, [copied, copied]])
    parent = copied
    for key in place[:-1]:
        parent = parent[key]
    match random.randrange(6):
        case 0:
            del parent[place[-1]]
        case 1 if isinstance(parent, dict):
            parent[random.choice(["x", "", "id", f"{place[-1]}s"])] = parent.pop(place[-1])
        case 2:
            parent[place[-1]] = [parent[place[-1]]] * random.choice([1, 2, 50])
        case _:
            parent[place[-1]] = random.choice(ODD)
    return copied


def with_other_bytes(content: bytes, random: Random) -> bytes:
    """The bytes with a few gone, added, changed or moved."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(changed) + 1)
        stop = min(len(changed), start + random.choice([1, 1, 2, 8, 50]))
        match random.randrange(5):
            case 0:
                del changed[start:stop]
            case 1:
                changed[start:start] = bytes(random.randrange(256) for _ in range(random.randint(1, 4)))
            case 2:
                changed[start:stop] = bytes(random.randrange(256) for _ in range(stop - start))
            case 3:
                changed[start:start] = random.choice(
                    [b"[" * 3000, b'{"a":' * 3000, b"\0", b"\n\n", b"&a *a", b"- " * 3000]
                )
            case _:
                changed[start:] = changed[:start] if random.random() < 0.2 else changed[start:stop]
    return bytes(changed)


def broken(content: bytes, suffix: str, random: Random) -> bytes:
    """A sound file's content with something wrong in it."""
    if random.random() < 0.4:
        return with_other_bytes(content, random)
    try:
        if suffix == ".yaml":
            return yaml.safe_dump(with_another_value(yaml.safe_load(content), random)).encode(
                "utf-8", "surrogatepass"
            )
        if suffix == ".json":
            return json.dumps(with_another_value(json.loads(content), random)).encode()
        if suffix == ".jsonl":
            lines = content.decode().splitlines()
            number = random.randrange(len(lines))
            lines[number] = json.dumps(with_another_value(json.loads(lines[number]), random))
            return "\n".join(lines).encode()
        if suffix == ".parquet":
            rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
            rows[0] = with_another_value(rows[0], random)
            file = io.BytesIO()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
            return file.getvalue()
    except (
        ValueError,
        TypeError,
        AttributeError,
        pyarrow.ArrowException,
        UnicodeError,
        OverflowError,
        yaml.YAMLError,
    ):
        pass  # the odd value does not go into such a file
    return with_other_bytes(content, random)


# What is done with it --------------------------------------------------------------------------------


def command(*words: str | Path) -> None:
    """Runs a command; it must end with 0, or with one line on standard error.

    `lint` ends with 1 where it finds something.
    """
    out, err = io.StringIO(), io.StringIO()
    before, path = sys.argv, list(sys.path)
    sys.argv = ["kebench", *map(str, words)]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        sys.argv, sys.path[:] = before, path
    status = ended.value.code
    assert "Traceback" not in err.getvalue()
    if status not in (0, None) and not (status == 1 and "lint" in words):
        assert status == 2
        told = [line for line in err.getvalue().splitlines() if line.startswith("kebench: ")]
        assert len(told) == 1 or err.getvalue().startswith("Usage: "), err.getvalue()


def call(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function; it must return, or tell what is wrong in one line."""
    try:
        function(*arguments)
    except KebenchError as error:
        told = str(error)
    else:
        return
    assert told
    assert "\n" not in told


@dataclass(frozen=True)
class Kind:
    """A kind of file: a sound folder, the files in it that are broken, and what is done with the folder."""

    make: Callable[[Path], None]
    files: tuple[str, ...]
    use: Callable[[Path], None]
    share: float = 1.0


def written(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def source(format: str, suffix: str) -> Kind:
    def make(folder: Path) -> None:
        row = ROWS[format]
        rows = [row, json.loads(json.dumps(row).replace("7", "8").replace("Where", "Why"))]
        path = folder / f"source{suffix}"
        if suffix == ".jsonl":
            path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
        elif suffix == ".json":
            path.write_text(json.dumps({"data": rows}))
        elif suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text('prompt,answers,paraphrases,split\nWho?,X,"[""Whom?""]",test\n"A, b?",Y,,train\n')

    name = f"source{suffix}"
    return Kind(
        make,
        (name,),
        lambda folder: command("data", "import", "--format", format, folder / name, "--out", folder / "pack"),
    )


def toy_pack(folder: Path) -> None:
    shutil.copytree(worlds_home() / "packs" / "toy--toy", folder, dirs_exist_ok=True)


def use_pack(folder: Path) -> None:
    command("data", "verify", folder)
    command("data", "lint", folder)


def toy_task(folder: Path) -> None:
    row = {"prompt": "Who?", "answers": "X"}
    written(folder, toy__jsonl=f"{json.dumps(row)}\n")
    text = worlds.task_text("bert").replace("format: fever", "format: records")
    written(folder, toy__yaml=text, sound__yaml=text)


def use_task(folder: Path) -> None:
    command("data", "build", folder / "toy.yaml", "--from", folder, "--out", folder / "pack")


def toy_config(folder: Path) -> None:
    toy_task(folder)
    fields = {
        "editors": ["identity", "fine_tuning_all"],
        "task": str(folder / "sound.yaml"),
        "pack": "toy",
        "limit": 3,
        "retain": 4,
        "precision": 1.5,
        "regime": "sequential",
        "settings": {"max_steps": 3},
    }
    written(folder, run__yaml=yaml.safe_dump(fields))


def use_editor(folder: Path) -> None:
    from kebench.edits.editor import load_editor

    for name in ("editor.yaml", "editor.yaml@one+fast"):
        call(load_editor, str(folder / name))


def use_facts(folder: Path) -> None:
    command("data", "import", "--format", "mini_zsre", folder / "facts.tsv", "--out", folder / "pack")
    command("data", "import", "--format", "mini_fever", folder / "facts.tsv", "--out", folder / "pack")


def use_model(folder: Path) -> None:
    from kebench.models.load import load_model

    call(lambda: load_model(str(folder), tiny.task("bart")).answer(["Where?"]))


KINDS: dict[str, Kind] = {
    **{format: source(format, ".jsonl") for format in ROWS},
    "fever array": source("fever", ".json"),
    "records table": source("records", ".csv"),
    "records parquet": source("records", ".parquet"),
    "kilt parquet": source("kilt_zsre", ".parquet"),
    "facts": Kind(
        lambda folder: written(folder, facts__tsv=FACTS, relations__yaml=RELATIONS),
        ("facts.tsv", "relations.yaml"),
        use_facts,
    ),
    "pack": Kind(toy_pack, ("pack.lock", "test.jsonl", "train.jsonl"), use_pack),
    "task": Kind(toy_task, ("toy.yaml",), use_task, 2),
    "config": Kind(
        toy_config, ("run.yaml",), lambda folder: command("run", "--config", folder / "run.yaml"), 2
    ),
    "editor": Kind(lambda folder: written(folder, editor__yaml=EDITOR), ("editor.yaml",), use_editor, 2),
    "grid": Kind(
        lambda folder: written(folder, grid__yaml=GRID),
        ("grid.yaml",),
        lambda folder: call(read_grid, folder / "grid.yaml"),
    ),
    "model": Kind(
        lambda folder: void(tiny.save("bart", folder)),
        (
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ),
        use_model,
        2,
    ),
}


def void(_: object) -> None:
    """Drops a value."""


@cache
def worlds_home() -> Path:
    return worlds.make("bert", Path(tempfile.mkdtemp())).home


@cache
def sound(name: str) -> dict[str, bytes]:
    """The content of every file of a sound folder."""
    with tempfile.TemporaryDirectory() as folder:
        KINDS[name].make(Path(folder))
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }


SUFFIX = {"pack.lock": ".json"}
WORDS_SHARE = 4.0
WHOLE = sum(kind.share for kind in KINDS.values()) + WORDS_SHARE


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Ends what hangs."""

    def give_up(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"nothing came in {PATIENCE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzzed(share: float) -> settings:
    return settings(
        max_examples=max(1, round(INPUTS * share / WHOLE)),
        deadline=None,
        database=None,
        derandomize="KEBENCH_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )


def test_the_kinds_hold_every_format() -> None:
    mini = {"mini_fever", "mini_zsre", "mini_counterfact"}  # in the kind `facts`
    assert {*ROWS} | mini == {*format_names()}


@pytest.mark.parametrize("name", KINDS)
def test_a_sound_file_is_read(name: str, tmp_path: Path) -> None:
    for file, content in sound(name).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    with patience():
        KINDS[name].use(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_a_broken_file_is_read_or_told_in_one_line(name: str) -> None:
    kind = KINDS[name]

    @fuzzed(kind.share)
    @given(st.sampled_from(kind.files), st.integers(0, 2**64))
    def try_it(file: str, seed: int) -> None:
        suffix = SUFFIX.get(file, Path(file).suffix)
        with tempfile.TemporaryDirectory() as folder:
            for each, content in sound(name).items():
                path = Path(folder, each)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(broken(content, suffix, Random(seed)) if each == file else content)
            with patience():
                kind.use(Path(folder))

    try_it()


COMMANDS = (
    "run",
    "train",
    "tune",
    "beliefs",
    "edit",
    "export",
    "data",
    "import",
    "build",
    "verify",
    "lint",
    "formats",
    "leaderboard",
    "ls",
    "-v",
    "--help",
)
FLAGS = (
    "--editor",
    "--task",
    "--model",
    "--pack",
    "--limit",
    "--retain",
    "--seed",
    "--device",
    "-s",
    "--config",
    "--out",
    "--grid",
    "--prompt",
    "--target",
    "--also",
    "--save",
    "--lora",
    "--rank",
    "--edit",
    "--format",
    "--train",
    "--test",
    "--answers-are",
    "--revision",
    "--from",
    "--folder",
    "--check",
    "--replace",
    "--base",
    "--reproduce",
    "--regime",
    "--batch",
    "--ask-after",
    "--precision",
    "--protocol",
    "--dtype",
    "--batch-size",
    "--output",
    "--split",
    "--show",
)
VALUES = (
    "nothing",
    "",
    " ",
    ".",
    "..",
    "/",
    "../../x",
    "1",
    "-1",
    "1e9",
    "nan",
    "x=1",
    "x=[1",
    "=",
    "records",
    "toy.csv",
    "a.yaml",
    ",",
    "a,b",
    "x" * 300,
    "\x1b[2J",
    "\udcff",
    "{prompt}",
    "no:thing",
    "json:loads",
    "package:no/x",
    "-",
    "--",
)


def test_words_that_no_one_meant_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, toy__csv="prompt,answers\nWho?,X\n", a__yaml="a: 1\n")
    words = st.lists(st.sampled_from(FLAGS) | st.sampled_from(VALUES) | st.text(max_size=5), max_size=7)

    @fuzzed(WORDS_SHARE)
    @given(st.sampled_from(COMMANDS), words)
    def try_it(first: str, others: list[str]) -> None:
        with patience():
            command(first, *others)

    try_it()
