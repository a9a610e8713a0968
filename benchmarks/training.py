"""(d) Measures the training of the hypernetwork with sixteen edits in each step, compared with one.

Each edit has the same number of retain questions in both.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.floor import forward_operations
from benchmarks.lines import Line, Target
from benchmarks.session import Contests, Session
from benchmarks.settings import Settings
from benchmarks.timing import Contest, clock
from benchmarks.worlds import World, base_size, mini
from kebench.edits.editor import RetainQuestion, TrainingEdit, TrainingSet, Workspace
from kebench.models.base_logits import BLOCK

BATCHED = 16
STEPS = {BATCHED: 1, 1: 4}
"""Edits in each step → the number of timed steps in a run, after one warm-up step."""
FOREVER = 10**6
TARGET = Target("≥", cpu=4, cuda=8)


class Enough(Exception):
    """Ends a training from its progress report, before it validates or saves anything."""


def contest(world: World, settings: Settings) -> Contest:
    """Compares steps of `KnowledgeEditor.prepare`, which are timed with its progress reports."""
    training = training_set(world)

    def train(edits: int) -> float:
        seen: list[float] = []

        def report(_done: int, _steps: int, _words: str) -> None:
            seen.append(clock(settings.place))
            if len(seen) > STEPS[edits]:
                raise Enough

        editor = replace(world.editor, steps=FOREVER, validate_every=FOREVER, edits_per_step=edits)
        with tempfile.TemporaryDirectory() as folder:
            try:
                editor.prepare(world.model, training, Workspace(Path(folder), report))
            except Enough:
                return seen[-1] - seen[0]
        raise AssertionError("a training ended by itself")

    # The gradient and the edit loss: for each, a forward and a backward pass to the activations. A retain
    # question: a forward and a backward pass with the edit in force. The hypernetwork's products are few.
    passes = 4 + 2 * world.editor.retain_per_edit
    ways = {_way(edits): partial(train, edits) for edits in STEPS}
    units = {_way(edits): edits * steps for edits, steps in STEPS.items()}
    return Contest(ways, passes * forward_operations(world.model, world.prompts, world.answers), units)


def training_set(world: World) -> TrainingSet:
    """Returns the edits and test rows of a world as a training set."""
    edits = [TrainingEdit(case.fact, case.edit) for case in world.plan.cases]
    known = [
        RetainQuestion(row.fact, row.prompt, row.answer) for row in world.plan.base if row.answer.strip()
    ]
    known = known[: 2 * BLOCK]  # so few that the warm-up step uses all of them
    assert len(edits) >= BATCHED
    return TrainingSet(train=edits, dev=edits, known=known, unseen=known, dev_known=known)


CONTESTS: Contests = {
    "d BERT-base": lambda settings: contest(base_size("fever", settings.fever_rows, settings), settings),
    "d bert-mini": lambda settings: contest(mini("fever", settings), settings),
}


def lines(session: Session) -> list[Line]:
    """Returns one line for each model."""
    batched, single = _way(BATCHED), _way(1)
    what = f": training edits/s, {BATCHED} edits a step / 1"
    return [
        session.line(name, what, (single, batched), takes=batched, unit="edit", target=TARGET)
        for name in CONTESTS
    ]


def _way(edits: int) -> str:
    return f"{edits} a step"
