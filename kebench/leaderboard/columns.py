"""The columns of the tables: each is a heading, what stands in a cell, and when the column is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kebench.leaderboard import printed
from kebench.leaderboard.escape import markdown
from kebench.leaderboard.settings import headline
from kebench.leaderboard.tuning import in_words as tuned_in_words
from kebench.scoring.record import RunRecord
from kebench.scoring.scores import Scores
from kebench.scoring.statistics import NO_ESTIMATE, Estimate
from kebench.scoring.tuning import Tuning


@dataclass(frozen=True)
class Column:
    """A column of a table in which each record is a row.

    Attributes:
        heading: its first cell.
        cell: record → the text of its cell.
        shown: the rows of the table → whether the table has the column.
    """

    heading: str
    cell: Callable[[RunRecord], str]
    shown: Callable[[Sequence[RunRecord]], bool] = lambda rows: True


def score_column(
    heading: str,
    estimate: Callable[[Scores], Estimate],
    shown: Callable[[Sequence[RunRecord]], bool] = lambda rows: True,
) -> Column:
    """A column with a score and its interval, in percent; a dash where it was not measured."""
    return Column(heading, lambda row: printed.with_interval(estimate(row.scores)), shown)


def main_columns(rows: Sequence[RunRecord], tunings: Sequence[Tuning]) -> list[Column]:
    """The columns of a table in Markdown, after the editor's name.

    Args:
        rows: of one table.
        tunings: on its task, pack and model.
    """
    compared, otherwise = headline(rows[0].scores.protocol)
    columns = [
        Column("Tuned", lambda row: tuned_in_words(row, tunings)),
        score_column("Success", lambda scores: scores.success_rate),
        score_column("Teacher-forced success", lambda scores: scores.success_rate_teacher_forced),
        score_column("Inflation gap", lambda scores: scores.inflation_gap),
        score_column(f"Equivalence ({compared})", lambda scores: scores.equivalence_accuracy),
        score_column(f"Other equivalence ({otherwise})", lambda scores: scores.other_equivalence),
        score_column("Retain", lambda scores: scores.retain_accuracy),
        score_column("Retain vs gold", lambda scores: scores.retain_accuracy_gold),
        score_column("Performance deterioration", lambda scores: scores.performance_deterioration),
        Column(
            "Smallest detectable deterioration",
            lambda row: printed.percent(row.scores.performance_deterioration.smallest_detectable),
            shown=not_of_version_1,
        ),
        score_column(
            "Deterioration elsewhere",
            lambda scores: scores.performance_deterioration_elsewhere,
            shown=not_of_version_1,
        ),
        *(_further_column(name) for name in further_names(rows)),
        Column("No-ops", lambda row: str(row.scores.no_ops)),
        Column("Failures", lambda row: str(row.scores.n_failures)),
        Column("Edits", lambda row: str(row.scores.edits)),
        Column("Seconds per edit", lambda row: printed.seconds(row.cost.edit_seconds_p50)),
        Column("Peak memory", lambda row: printed.memory(row.cost.peak_memory_bytes)),
    ]
    return [column for column in columns if column.shown(rows)]


HELD_OUT_COLUMNS = (
    score_column("Equivalence, seen wordings", lambda scores: scores.equivalence_seen_wordings),
    score_column("Equivalence, held-out wordings", lambda scores: scores.equivalence_held_out_wordings),
    Column("Held-out relations: edits", lambda row: str(row.scores.held_out_edits)),
    score_column("their success", lambda scores: scores.held_out_success_rate),
    score_column("their equivalence", lambda scores: scores.held_out_equivalence),
    score_column("their retain", lambda scores: scores.held_out_retain_accuracy),
)
"""The columns of the table of what no editor was trained on."""


def holds_out(rows: Sequence[RunRecord]) -> bool:
    """Whether anything was kept from every editor's training, and measured."""
    return any(row.scores.held_out_edits or row.scores.equivalence_held_out_wordings.edits for row in rows)


def not_of_version_1(rows: Sequence[RunRecord]) -> bool:
    """Whether the rows of one setting are of a later scoring version than 1, which has fewer scores."""
    return rows[0].scores.protocol.scoring != 1


def further_names(rows: Sequence[RunRecord]) -> list[str]:
    """The scores of any of the rows that have no column of their own, by name: new ones and unknown ones."""
    return sorted({name for row in rows for name in row.scores.further()})


def _further_column(name: str) -> Column:
    heading = markdown(name[:1].upper() + name[1:].replace("_", " "))
    return score_column(heading, lambda scores: scores.get(name) or NO_ESTIMATE)
