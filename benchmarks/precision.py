"""(c) Edits an hour for the same certainty of mean retain accuracy: samples of 200, or all 10,444 rows."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping

from benchmarks.evaluation import Costs, fever
from benchmarks.lines import Line, Target
from benchmarks.session import Session
from benchmarks.settings import Settings
from benchmarks.timing import Ratio
from benchmarks.worlds import World, mini
from kebench.answers import EditAnswers
from kebench.run_folder import EDITS_AT_ONCE
from kebench.statistics import draw_sample, strata
from kebench.trial import edit_and_ask

ROWS = 10_444
"""FEVER's dev set in KILT, which the paper asks after every edit."""
TARGET = Target("≥", cpu=100, cuda=100)


def lines(session: Session) -> list[Line]:
    """One line; the seconds are those of an edit with its sample, times the variance ratio."""
    session.timings("b FEVER")
    race = fever(session.settings)
    world = mini("fever", session.settings)
    more, said = variance_ratio(world, session.settings)
    size = world.plan.ground.task.retain_size

    def seconds(costs: Costs, rows: int) -> float:
        return costs.edit + (1 + rows) * costs.row

    pairs = zip(race.costs["original"][1:], race.costs["kebench"][1:], strict=True)
    ratios = [seconds(theirs, ROWS) / (more * seconds(ours, size)) for theirs, ours in pairs]
    ours, theirs = more * seconds(race.median("kebench"), size), seconds(race.median("original"), ROWS)
    floor = more * (1 + size) * session.floor("b FEVER")
    return [
        Line(
            "c",
            f"FEVER, BERT-base: edits/h at the same half-width of mean retain accuracy, samples of {size} /"
            f" all {ROWS:,} rows the original's way",
            Ratio.of(ratios),
            target=TARGET,
            seconds=ours,
            unit_of_seconds="edit",
            floor=floor,
            note=f"{3600 / ours:,.0f} against {3600 / theirs:,.1f} edits/h; {said}",
        )
    ]


def variance_ratio(world: World, settings: Settings) -> tuple[float, str]:
    """How many times as many edits a mean over samples needs: (σ_b² + σ_w²) / σ_b², and it in words.

    σ_b², the variance between edits of the retain accuracy over all rows; σ_w², the mean over edits of the
    variance of a stratified sample's mean, were it drawn from `ROWS` rows as kebench draws it:

        σ_w² = Σ_h (N_h/N)² · s_h²/n_h · (1 − n_h/N_h)      (Cochran 1977, Eq. 5.6)
    """
    size = world.plan.ground.task.retain_size
    places = strata([0.0] * ROWS)
    population = Counter(places)
    drawn = Counter(places[index] for index in draw_sample(places, size, seed=0, edit_id=""))
    retained: list[float] = []
    within: list[float] = []
    cases = world.plan.cases[: settings.mini_edits]
    for start in range(0, len(cases), EDITS_AT_ONCE):
        group = cases[start : start + EDITS_AT_ONCE]
        for trial in edit_and_ask(world.editor, world.state, world.plan, group):
            kept = kept_by_stratum(world, trial.answers)
            retained.append(sum(population[h] / ROWS * statistics.mean(kept[h]) for h in population))
            within.append(
                sum(
                    (population[h] / ROWS) ** 2
                    * statistics.variance(kept[h])
                    / drawn[h]
                    * (1 - drawn[h] / population[h])
                    for h in population
                )
            )
    between = statistics.variance(retained)
    ratio = 1 + statistics.mean(within) / between
    return ratio, (
        f"variance of samples {ratio:.3f} times that of all rows, over {len(retained)} edits of {world.name}"
        f" (mean retain {statistics.mean(retained):.1%}, sd between edits {between**0.5:.2%})"
    )


def kept_by_stratum(world: World, edit: EditAnswers) -> Mapping[int, list[float]]:
    """Whether each row of another fact kept its answer, 1 or 0, by stratum."""
    kept: defaultdict[int, list[float]] = defaultdict(list)
    for row in world.plan.base:
        if row.fact != edit.fact:
            kept[row.stratum].append(float(edit.sample[row.id] == row.answer))
    return kept
