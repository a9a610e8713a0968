"""Plug-ins that cannot be loaded, a limit on time, and what an editor's code is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bad_editors import BAD
from commands import Kebench
from worlds import World

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractMemoryEditor, AbstractWeightEditor, Carried, State
from kebench.edits.time_limit import EditTimeout, time_limit
from kebench.edits.versions import Route
from kebench.models.changes import Changes
from kebench.models.model import AbstractModel
from kebench.running.progress import Silent
from kebench.running.run import run, run_all

HEAD = """
from dataclasses import dataclass
from kebench import AbstractWeightEditor
"""
BODY = """
@dataclass(frozen=True)
class Mine(AbstractWeightEditor):
    citation = ""
    def update(self, state, start, batches, carried):
        return [{} for _ in batches], carried
"""
BAD_MODULES = {
    "a syntax error": (HEAD + "def f(:\n" + BODY, "failed (SyntaxError: "),
    "an error when imported": (HEAD + "1 / 0\n" + BODY, "failed (ZeroDivisionError: division by zero)"),
    "an exit when imported": (HEAD + "raise SystemExit(0)\n" + BODY, "failed (SystemExit: 0)"),
    "a module that is not there": ("import no_such_module\n" + BODY, "No module named 'no_such_module'"),
    "no such class": (HEAD, "has no attribute 'Mine'"),
    "no citation": (HEAD + BODY.replace('    citation = ""\n', ""), "Mine.citation: missing, wanted the"),
    "an unknown family": (HEAD + BODY + '    families = ("rnn",)\n', "Mine.families: "),
    "no update": (HEAD + BODY.partition("    def")[0], "wanted a dataclass that is not abstract"),
    "no dataclass": (HEAD + BODY.replace("@dataclass(frozen=True)", ""), "wanted a dataclass that is not"),
    "another class": (HEAD + "class Mine: pass", "wanted a subclass of AbstractEditor"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_MODULES)
def test_a_module_that_cannot_be_used_is_one_line(
    what: str, classifier: World, kebench: Kebench, tmp_path: Path
) -> None:
    code, said = BAD_MODULES[what]
    module = f"bad_module_{[*BAD_MODULES].index(what)}"
    (tmp_path / f"{module}.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(f"editor: {module}:Mine\n")
    words = (
        "run",
        "--editor",
        tmp_path / "mine.yaml",
        "--task",
        classifier.task,
        "--output",
        tmp_path / "run",
    )
    status, out, err = kebench(*words)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("kebench: ")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_the_command_goes_on_after_an_editor_that_is_stopped(
    seq2seq: World, kebench: Kebench, tmp_path: Path
) -> None:
    words = ("run", "--task", seq2seq.task, "--output", tmp_path, "--limit", "2", "--retain", "4")
    status, out, err = kebench(*words, "--editor", "doubles:Scribbler,identity")
    assert status == 2
    assert "identity" in out
    assert err.splitlines()[-1].startswith("kebench: doubles:Scribbler (")
    assert "Traceback" not in err


def test_the_command_says_where_every_edit_failed(seq2seq: World, kebench: Kebench, tmp_path: Path) -> None:
    words = ("run", "--task", seq2seq.task, "--output", tmp_path, "--limit", "2", "--retain", "4")
    status, out, err = kebench(*words, "--editor", "bad_editors:Misbehaving,identity")
    assert status == 2
    assert "identity" in out
    place = tmp_path / "Misbehaving" / "failures.jsonl"
    assert err.splitlines()[-1] == (f"kebench: every edit failed: Misbehaving (RuntimeError: 2; see {place})")
    assert "Traceback" not in err


# A limit on time -------------------------------------------------------------------------------------


def _sleep_on() -> None:
    """Sleeps for ever, and takes no notice of errors."""
    while True:
        with suppress(Exception):
            time.sleep(5)


def test_a_block_is_interrupted_and_no_later_one() -> None:
    with pytest.raises(EditTimeout, match=r"more than 0\.05 s"), time_limit(0.05):
        _sleep_on()
    with time_limit(None), time_limit(60):
        time.sleep(0.1)


def test_the_limit_is_in_the_record_only_when_set(seq2seq: World, tmp_path: Path) -> None:
    slow = {"slow": BAD["too slow"][1]}
    (record,) = run(
        seq2seq.settings(tmp_path / "slow", "slow", limit=2, retain=4, edit_timeout=0.2),
        editors=slow, progress=Silent(),
    )[1]  # fmt: skip
    assert record.scores.failures == {"edit timeout": 2}
    assert record.to_json()["setting"]["edit_timeout"] == 0.2
    (plain,) = run(seq2seq.settings(tmp_path / "plain", "identity", limit=2, retain=4), progress=Silent())[1]
    assert "edit_timeout" not in plain.to_json()["setting"]
    assert "edit_timeout" not in json.loads((tmp_path / "plain" / "run.json").read_text())["setting"]
    assert record.setting.key != plain.setting.key
    assert replace(record.setting, edit_timeout=None).key == plain.setting.key


# What an editor's code is told -----------------------------------------------------------------------

TOLD: list[Any] = []
"""Everything that the editors below were given, but for models and prompts to route."""


@dataclass(frozen=True)
class Listening(AbstractWeightEditor):
    citation: ClassVar[str] = "a paper"

    def begin(self, state: State, base: AbstractModel) -> Carried:
        TOLD.append(state)
        return Carried()

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        TOLD.append((state, batches, carried))
        return [{} for _ in batches], carried


@dataclass(frozen=True)
class Remembering(AbstractMemoryEditor):
    citation: ClassVar[str] = "a paper"

    def remember(
        self, state: State, base: AbstractModel, batches: Sequence[Batch], memories: Sequence[Carried]
    ) -> Sequence[Carried]:
        TOLD.append((state, batches, memories))
        return memories

    def route(
        self, state: State, base: AbstractModel, memory: Carried, prompts: Sequence[str]
    ) -> list[Route]:
        TOLD.append((state, memory))
        assert all(isinstance(prompt, str) for prompt in prompts)
        return [None for _ in prompts]


@pytest.mark.parametrize("kind", [Listening, Remembering])
def test_an_editor_is_told_of_no_answer_but_its_edits_own(
    kind: Callable[[], AbstractWeightEditor], seq2seq: World, tmp_path: Path
) -> None:
    TOLD.clear()
    for regime in ({}, {"regime": "sequential", "edits": 4, "batch": 2}):
        settings = seq2seq.settings(tmp_path / str(len(regime)), "spy", limit=4, retain=4, **regime)
        run_all(settings, editors={"spy": kind()}, progress=Silent())
    batches = [given[1] for given in TOLD if isinstance(given, tuple) and len(given) == 3]
    assert batches
    assert all(edit.paraphrases == () for some in batches for batch in some for edit in batch)
    own = {edit.id: (edit.prediction, edit.target) for some in batches for batch in some for edit in batch}
    rows = [json.loads(line) for line in (tmp_path / "0" / "spy" / "edits.jsonl").read_text().splitlines()]
    assert own == {row["id"]: (row["prediction"], row["target"]) for row in rows}
    others = repr([given if not isinstance(given, tuple) else (given[0], given[-1]) for given in TOLD])
    gold = {answer for record in seq2seq.pack.records("test") for answer in record.answers if len(answer) > 3}
    assert not [answer for answer in gold if answer in others]
