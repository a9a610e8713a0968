"""The records of one table as CSV, with everything as it was measured."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kebench.leaderboard.columns import further_names
from kebench.leaderboard.escape import csv_cell
from kebench.leaderboard.settings import by_setting
from kebench.leaderboard.tuning import tuned_by, tunings_of
from kebench.scoring.record import RunRecord
from kebench.scoring.regimes import FINAL
from kebench.scoring.scores import Scores
from kebench.scoring.statistics import Estimate
from kebench.scoring.tuning import Tuning

_ESTIMATES = (
    "success_rate",
    "success_rate_teacher_forced",
    "inflation_gap",
    "equivalence_accuracy",
    "equivalence_target",
    "equivalence_own",
    "equivalence_seen_wordings",
    "equivalence_held_out_wordings",
    "held_out_success_rate",
    "held_out_equivalence",
    "held_out_retain_accuracy",
    "retain_accuracy",
    "retain_accuracy_gold",
    "performance_deterioration",
    "performance_deterioration_elsewhere",
    "accuracy_before",
    "accuracy_after",
    "no_op_share",
)
"""The scores in their order; `equivalence_accuracy` repeats the one that the protocol calls the headline."""

_PARTS: tuple[tuple[str, Callable[[Estimate], float | int | None]], ...] = (
    ("", lambda estimate: estimate.value),
    ("_low", lambda estimate: estimate.low),
    ("_high", lambda estimate: estimate.high),
    ("_hits", lambda estimate: estimate.hits),
    ("_total", lambda estimate: estimate.total),
    ("_edits", lambda estimate: estimate.edits),
    ("_standard_error", lambda estimate: estimate.standard_error),
)
"""What is told of a score: (the end of the column's name, the number); None is no number."""


@dataclass(frozen=True)
class _Column:
    """A column: its name, record → its cell (None is empty), and whether an empty column is shown."""

    name: str
    cell: Callable[[RunRecord], str | int | None]
    always: bool = True


def csv_table(records: Sequence[RunRecord], tunings: Sequence[Tuning] = ()) -> str:
    """The table of one setting and time, with fractions, counts, seconds and bytes as they were measured.

    A cell is empty where nothing was measured.
    """
    (rows,) = by_setting(records)
    columns = [*_setting_columns(rows, tunings), *_score_columns(rows), *_COST_COLUMNS]
    cells = [[column.cell(row) for row in rows] for column in columns]
    shown = [
        (column.name, column_cells)
        for column, column_cells in zip(columns, cells, strict=True)
        if column.always or any(cell is not None for cell in column_cells)
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for name, _ in shown])
    writer.writerows(zip(*(column_cells for _, column_cells in shown), strict=True))
    return text.getvalue()


def _setting_columns(rows: Sequence[RunRecord], tunings: Sequence[Tuning]) -> list[_Column]:
    here = tunings_of(rows[0].setting, tunings)
    return [
        _Column("setting", lambda row: row.setting.key),
        _Column("task", lambda row: csv_cell(row.setting.task)),
        _Column("task_version", lambda row: row.setting.task_version),
        _Column("pack", lambda row: csv_cell(row.setting.pack)),
        _Column("pack_sha256", lambda row: csv_cell(row.setting.pack_sha256)),
        _Column("model", lambda row: csv_cell(row.setting.model)),
        _Column("model_fingerprint", lambda row: csv_cell(row.setting.model_fingerprint)),
        _Column("protocol", lambda row: csv_cell(row.scores.protocol.name)),
        _Column("headline_equivalence", lambda row: row.scores.protocol.headline_equivalence),
        _Column("targets", lambda row: csv_cell(row.setting.targets)),
        _Column("regime", lambda row: csv_cell(row.setting.regime)),
        _Column("time", lambda row: _unless(FINAL, row.scores.time), always=False),
        _Column("retain", lambda row: csv_cell(row.setting.retain)),
        _Column("split", lambda row: _unless("test", row.setting.split), always=False),
        _Column("precision", lambda row: _number(row.setting.precision), always=False),
        _Column("edit_timeout", lambda row: _number(row.setting.edit_timeout), always=False),
        _Column("seed", lambda row: row.setting.seed),
        _Column("retain_seed", lambda row: row.setting.retain_seed, always=False),
        _Column("scoring", lambda row: _later(row.scores.protocol.scoring), always=False),
        _Column("edits_sha256", lambda row: csv_cell(row.setting.edits_sha256)),
        _Column("test_sha256", lambda row: csv_cell(row.setting.test_sha256)),
        _Column("editor", lambda row: csv_cell(row.editor)),
        _Column("editor_path", lambda row: csv_cell(row.editor_path)),
        _Column("is_control", lambda row: int(row.is_control)),
        _Column("tuned_trials", lambda row: _tuned_trials(row, here), always=False),
        _Column("edits", lambda row: row.scores.edits),
        _Column("no_ops", lambda row: row.scores.no_ops),
        _Column("failures", lambda row: row.scores.n_failures),
        _Column("failures_by_reason", lambda row: csv_cell(failures_by_reason(row))),
        _Column("edits_with_paraphrases", lambda row: row.scores.edits_with_paraphrases),
        _Column("held_out_edits", lambda row: row.scores.held_out_edits),
    ]


def _score_columns(rows: Sequence[RunRecord]) -> list[_Column]:
    names = (*_ESTIMATES, *further_names(rows))
    return [
        _Column(f"{csv_cell(name)}{end}", _cell_of(name, number), always=False)
        for name in names
        for end, number in _PARTS
    ]


def _cell_of(
    name: str, number: Callable[[Estimate], float | int | None]
) -> Callable[[RunRecord], str | int | None]:
    """Record → one number of a score; None where the record does not have it, empty where it is NaN."""

    def cell(row: RunRecord) -> str | int | None:
        estimate = _estimate(row.scores, name)
        return None if estimate is None else _number(number(estimate))

    return cell


def _estimate(scores: Scores, name: str) -> Estimate | None:
    return scores.equivalence_accuracy if name == "equivalence_accuracy" else scores.get(name)


_COST_COLUMNS = (
    _Column("edit_seconds_p50", lambda row: _number(row.cost.edit_seconds_p50)),
    _Column("edit_seconds_p95", lambda row: _number(row.cost.edit_seconds_p95)),
    _Column("answer_seconds_p50", lambda row: _number(row.cost.answer_seconds_p50)),
    _Column("answer_seconds_p95", lambda row: _number(row.cost.answer_seconds_p95)),
    _Column("prepare_seconds", lambda row: _number(row.cost.prepare_seconds)),
    _Column("peak_memory_bytes", lambda row: row.cost.peak_memory_bytes),
)


def failures_by_reason(record: RunRecord) -> str:
    """How many edits failed for which reason, in words."""
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(record.scores.failures.items()))


def _tuned_trials(record: RunRecord, here: Sequence[Tuning]) -> str | int | None:
    """The number of trials that the settings were chosen from; None where no editor was tuned on the pack."""
    if not here:
        return None
    chosen_by = tuned_by(record, here)
    return "" if record.is_control else len(chosen_by.trials) if chosen_by else 0


def _unless(usual: str, text: str) -> str | None:
    return None if text == usual else csv_cell(text)


def _later(version: int) -> int | None:
    return None if version == 1 else version


def _number(number: float | int | None) -> str | int | None:
    """A number as it was measured; empty where it is NaN."""
    if isinstance(number, float):
        return "" if math.isnan(number) else repr(number)
    return number
