"""(b) Compares a whole evaluation, with all test rows after each edit: kebench and the original."""

import statistics
from dataclasses import dataclass
from functools import cache

from benchmarks import naive
from benchmarks.floor import forward_operations
from benchmarks.lines import Line, Target
from benchmarks.session import Contests, Session
from benchmarks.settings import Settings
from benchmarks.timing import Contest, timed
from benchmarks.worlds import World, base_size
from kebench.running.shard import EDITS_AT_ONCE
from kebench.running.trial import edit_and_ask
from kebench.scoring.rows import Trial
from kebench.scoring.scorer import per_edit, score

NEAR = 1e-4
"""A classifier's label may differ between both ways if its margin is smaller, because of rounding."""
TARGETS = {
    "b FEVER": ("BERT-base", Target("≥", cpu=2.3, cuda=10)),
    "b zsRE": ("BART-base", Target("≥", cpu=6, cuda=30)),
}


@dataclass(frozen=True)
class Costs:
    """Seconds to make an edit, and seconds for an edited model to answer one row, including the scores."""

    edit: float
    row: float


class Race:
    """Evaluates one world with kebench and in the original's way.

    Attributes:
        costs: `kebench` or `original` → the costs of each run; the first run is the warm-up.
    """

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self.settings = settings
        self.cases = world.plan.cases[: settings.edits]
        self.costs: dict[str, list[Costs]] = {"kebench": [], "original": []}
        self._trials: list[Trial] = []
        self._naive: list[naive.Answered] = []

    @property
    def rows(self) -> int:
        """The number of answers in a run: each edit's x and all test rows."""
        return len(self.cases) * (1 + len(self.world.plan.base))

    def contest(self) -> Contest:
        """Returns the contest between both ways; its unit is one answer."""
        return Contest(
            {"kebench": self.kebench, "original": self.original},
            forward_operations(self.world.model, self.world.prompts, self.world.answers),
            {"kebench": self.rows, "original": self.rows},
            self.agreement,
        )

    def kebench(self) -> float:
        """Evaluates as `kebench run --retain exact` does, with scores computed at the end."""
        plan = self.world.plan
        seconds = timed(self.settings.place, self._run)
        answers = [trial.answers for trial in self._trials]
        # Only the part of scoring that grows with the rows: intervals are computed once in a run.
        scoring = timed(self.settings.place, lambda: per_edit(answers, plan.base, plan.inputs.protocol))
        self._keep(
            "kebench",
            sum(trial.edit_seconds for trial in self._trials),
            sum(trial.answer_seconds for trial in self._trials) + scoring,
        )
        return seconds

    def original(self) -> float:
        """Evaluates as the original does."""
        seconds = timed(self.settings.place, self._run_naive)
        self._keep(
            "original",
            sum(found.edit_seconds for found in self._naive),
            sum(found.answer_seconds for found in self._naive),
        )
        return seconds

    def median(self, way: str) -> Costs:
        """Returns the median costs over all runs after the warm-up."""
        costs = self.costs[way][1:]
        return Costs(statistics.median(c.edit for c in costs), statistics.median(c.row for c in costs))

    def _run(self) -> None:
        world, plan = self.world, self.world.plan
        groups = range(0, len(self.cases), EDITS_AT_ONCE)
        self._trials = [
            trial
            for start in groups
            for trial in edit_and_ask(
                world.editor, world.state, plan, self.cases[start : start + EDITS_AT_ONCE]
            )
        ]
        score([trial.answers for trial in self._trials], plan.base, plan.inputs.protocol)

    def _run_naive(self) -> None:
        self._naive = naive.evaluate(self.world, self.cases)

    def _keep(self, way: str, edit_seconds: float, answer_seconds: float) -> None:
        self.costs[way].append(Costs(edit_seconds / len(self.cases), answer_seconds / self.rows))

    def agreement(self) -> str:
        """Returns in words how many answers of both ways are the same.

        Answers of a generative model can differ, because kebench decodes greedily and the original with 5
        beams.

        Raises:
            RuntimeError: a classifier's answers differ in float32.
        """
        same = differing = kept = 0
        for trial, other in zip(self._trials, self._naive, strict=True):
            rows = self.world.plan.base
            mine = [trial.answers.answer, *(trial.answers.sample[row.id] for row in rows)]
            kept += sum(answer == row.answer for answer, row in zip(mine[1:], rows, strict=True))
            margins = other.margins or [0.0] * len(mine)
            for answer, theirs, margin in zip(mine, other.answers, margins, strict=True):
                same += answer == theirs
                differing += answer != theirs and abs(margin) > NEAR
        if self.world.model.family == "classifier" and self.settings.type == "float32" and differing:
            raise RuntimeError(f"{differing} of {self.rows} answers are not those of the original's way")
        share = kept / (self.rows - len(self.cases))
        return f"{same:,} of {self.rows:,} answers agree; {share:.1%} are the base model's"


@cache
def fever(settings: Settings) -> Race:
    """Returns the race of BERT-base on claims. It has costs after `b FEVER` was timed."""
    return Race(base_size("fever", settings.fever_rows, settings), settings)


@cache
def zsre(settings: Settings) -> Race:
    """Returns the race of BART-base on questions."""
    return Race(base_size("zsre", settings.zsre_rows, settings), settings)


CONTESTS: Contests = {
    "b FEVER": lambda settings: fever(settings).contest(),
    "b zsRE": lambda settings: zsre(settings).contest(),
}


def lines(session: Session) -> list[Line]:
    """Returns one line for each task."""
    return [
        session.line(
            name,
            f", {model}: the original's seconds / kebench's",
            ("original", "kebench"),
            takes="kebench",
            unit="row",
            target=target,
        )
        for name, (model, target) in TARGETS.items()
    ]
