"""(c) Compares edits in an hour, at equal precision of mean retain accuracy: with samples, with all rows."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.evaluation import Costs, Race, fever
from benchmarks.lines import Line, Target
from benchmarks.session import Session
from benchmarks.settings import Settings
from benchmarks.timing import Ratio
from benchmarks.worlds import World, mini
from kebench.running.shard import EDITS_AT_ONCE
from kebench.running.trial import edit_and_ask
from kebench.scoring.answers import EditAnswers
from kebench.scoring.statistics import draw_sample, strata

ROWS = 10_444
"""The size of FEVER's dev set in KILT. In the paper, each edited model answers all of it."""
SMALLER = 50
"""A second sample size, that of `--retain 50`; the first is the task's."""
TARGET = Target("≥", cpu=100, cuda=100)


def lines(session: Session) -> list[Line]:
    """Returns one line for each sample size. Its seconds are those of an edit and its sample, times V."""
    session.timings("b FEVER")
    race = fever(session.settings)
    variances = Variances.of(mini("fever", session.settings), session.settings)
    sizes = (race.world.plan.inputs.task.retain_size, SMALLER)
    return [line(race, variances, size, session.floor("b FEVER")) for size in sizes]


def line(race: Race, variances: "Variances", size: int, floor: float) -> Line:
    """Returns the line that compares samples of one size with the original's way."""
    more = variances.ratio(size)

    def seconds(costs: Costs, rows: int) -> float:
        return costs.edit + (1 + rows) * costs.row

    pairs = zip(race.costs["original"][1:], race.costs["kebench"][1:], strict=True)
    ratios = [seconds(theirs, ROWS) / (more * seconds(ours, size)) for theirs, ours in pairs]
    ours, theirs = more * seconds(race.median("kebench"), size), seconds(race.median("original"), ROWS)
    return Line(
        "c",
        f"FEVER, BERT-base: edits/h at equal half-width of mean retain, samples of {size} / all {ROWS:,}",
        Ratio.of(ratios),
        target=TARGET,
        seconds=ours,
        unit_of_seconds="edit",
        floor=more * (1 + size) * floor,
        note=f"{3600 / ours:,.0f} against {3600 / theirs:,.1f} edits/h; V = {more:.2f}; {variances.said}",
    )


@dataclass(frozen=True)
class Variances:
    """The variances that determine how precise the mean retain accuracy is.

    Attributes:
        between: σ_b², the variance between edits of the retain accuracy over all rows.
        within: the stratum h → s_h², the variance between its rows (1 if the answer is retained, otherwise
            0), as a mean over edits.
        said: a description of the edits on which they were measured.
    """

    between: float
    within: Mapping[int, float]
    said: str

    def ratio(self, size: int) -> float:
        """Returns V = (σ_b² + σ_w²) / σ_b². With samples, V times as many edits give the same precision.

        σ_w² is the variance of the mean of a stratified sample that kebench draws from `ROWS` rows:

            σ_w² = Σ_h (N_h/N)² · s_h²/n_h · (1 − n_h/N_h)      (Cochran 1977, Eq. 5.6)
        """
        places = strata([0.0] * ROWS)
        population = Counter(places)
        drawn = Counter(places[index] for index in draw_sample(places, size, seed=0, edit_id=""))
        variance = sum(
            (population[h] / ROWS) ** 2 * self.within[h] / drawn[h] * (1 - drawn[h] / population[h])
            for h in population
        )
        return 1 + variance / self.between

    @staticmethod
    def of(world: World, settings: Settings) -> "Variances":
        """Measures the variances on edits after which all test rows are answered."""
        population = Counter(strata([0.0] * ROWS))
        retained: list[float] = []
        within: dict[int, list[float]] = {h: [] for h in population}
        cases = world.plan.cases[: settings.mini_edits]
        for start in range(0, len(cases), EDITS_AT_ONCE):
            group = cases[start : start + EDITS_AT_ONCE]
            for trial in edit_and_ask(world.editor, world.state, world.plan, group):
                kept = kept_by_stratum(world, trial.answers)
                retained.append(sum(population[h] / ROWS * statistics.mean(kept[h]) for h in population))
                for h in population:
                    within[h].append(statistics.variance(kept[h]))
        between = statistics.variance(retained)
        return Variances(
            between,
            {h: statistics.mean(found) for h, found in within.items()},
            f"{len(retained)} edits of {world.name}: mean retain {statistics.mean(retained):.1%}, sd between"
            f" edits {between**0.5:.2%}",
        )


def kept_by_stratum(world: World, edit: EditAnswers) -> Mapping[int, list[float]]:
    """Returns each stratum → 1 or 0 for each row about another fact: whether its answer is retained."""
    kept: defaultdict[int, list[float]] = defaultdict(list)
    for row in world.plan.base:
        if row.fact != edit.fact:
            kept[row.stratum].append(float(edit.sample[row.id] == row.answer))
    return kept
