"""A long run in one process: after 2,000 edits it holds as much memory as after 500.

Memory that was freed before hides the first few MiB of what a run keeps. So what is sure to be noticed is
an edited model that is kept of each edit, not a line of text."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from doubles import NoEdit
from kebench.baselines.fine_tuning import FineTuning
from worlds import World, make, with_records

from kebench import AbstractEditor, AbstractModel, AbstractWeightEditor, Batch, Carried, State
from kebench.models.changes import Changes
from kebench.packs.record import Paraphrase, Record
from kebench.running.progress import Silent
from kebench.running.run import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc"),
]

EDITS, A_BATCH = 2000, 8
KIB_AN_EDIT = 1.0
"""What an edit may take. Its id and its scores take 0.1 KiB, and the tiny model has 26 KiB of weights."""


class Resident(Silent):
    """Notes the resident memory of this process, in KiB, as the edits go on."""

    def __init__(self) -> None:
        super().__init__()
        self.kib: dict[float, float] = {}

    def stage(self, name: str) -> None:
        self.kib = {}

    def __call__(self, done: int, total: int, words: str = "") -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.kib.setdefault(done / total, pages * os.sysconf("SC_PAGE_SIZE") / 1024)


@dataclass(frozen=True)
class Hoarder(AbstractWeightEditor):
    """The double that must be found out: it keeps 32 KiB of each edit."""

    citation = ""
    is_control = True

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        for _ in batches:
            HOARD.append(mmap.mmap(-1, 32 * 1024))  # pages of its own, never those that were freed before
            HOARD[-1].write(os.urandom(32 * 1024))
        return NoEdit().update(state, start, batches, carried)


HOARD: list[mmap.mmap] = []


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A toy world of 2,000 claims."""
    records = [
        Record(
            f"r{number:04}", f"person {number}", f"person {number} was born in Rome", ("SUPPORTS",),
            (Paraphrase(f"Rome is where person {number} was born", "toy"),),
        )
        for number in range(EDITS + 6)
    ]  # fmt: skip
    return with_records(make("bert", tmp_path_factory.mktemp("many")), records, test=EDITS)


def grown_kib(editor: AbstractEditor, world: World, folder: Path, regime: Mapping[str, Any]) -> float:
    """Returns by how many KiB this process grows from edit 500 to the last batch but one."""
    memory = Resident()
    settings = world.settings(folder / "run", "it", limit=EDITS, **regime)
    _, (record,) = run(settings, editors={"it": editor}, progress=memory)
    assert (record.scores.edits, record.scores.failures) == (EDITS, {})
    sizes = [memory.kib[share] for share in sorted(memory.kib) if 0.25 <= share < 1]
    assert len(sizes) > 0.7 * EDITS / A_BATCH
    return sizes[-1] - sizes[0]


@pytest.mark.parametrize(
    "regime", [{}, {"regime": "sequential", "edits": EDITS, "batch": A_BATCH}], ids=["single", "sequential"]
)
def test_memory_stays_flat_over_2000_edits(
    regime: dict[str, Any],
    many: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(many.home))
    editor = FineTuning(layers="first", learning_rate=1e-2, max_steps=1)
    grown = grown_kib(editor, many, tmp_path, regime)
    with capsys.disabled():
        sys.stdout.write(f"\n{regime.get('regime', 'single')}: {grown:.0f} KiB from edit 500 to the last\n")
    assert grown < KIB_AN_EDIT * 0.75 * EDITS


def test_an_editor_that_keeps_32_kib_of_each_edit_would_be_noticed(
    many: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(many.home))
    grown = grown_kib(Hoarder(), many, tmp_path, {})
    HOARD.clear()
    assert grown > 16 * 0.75 * EDITS
