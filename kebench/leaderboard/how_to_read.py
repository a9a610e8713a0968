"""The text below tables in Markdown: how to read their numbers and intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kebench.leaderboard import printed
from kebench.leaderboard.columns import not_of_version_1
from kebench.leaderboard.escape import markdown
from kebench.leaderboard.words import distinct
from kebench.scoring.record import RunRecord
from kebench.scoring.statistics import least_rate

_INTERVALS = (
    "Where all facts scored the same, resampling gives no width; there the interval supposes that of n facts "
    "a share of 0.05^(1/n) scores so, the least at 95 % confidence, and the others anything. A deterioration "
    "below the smallest detectable one, 2.8 standard errors of the bootstrap, is more often missed than one "
    "time in five (two-sided at 95 %); a dash there says that the standard error is unknown. Deterioration "
    "is over the whole test set and counts the change that was asked for; elsewhere, it is over the retain "
    "questions."
)


def how_to_read(records: Sequence[RunRecord]) -> str:
    """The text for tables of these records."""
    first = [row for row in records if not not_of_version_1([row])]
    later = [row for row in records if not_of_version_1([row])]
    counted = any(row.scores.protocol.left_out_of_success == "nothing" for row in records)
    but = " (but counts them under decao2021)" if counted else ""
    parts = [
        "Scores, gap and deterioration are in percent, `value [low, high]`; the seconds are the median over "
        f"edits; {printed.NOTHING} stands where nothing was measured. Success leaves no-ops out{but}; failed "
        "edits count as wrong everywhere.",
        *([_intervals_of_version_1(first)] if first else []),
        *([f"Intervals: {_made(later)}. {_INTERVALS}"] if later else []),
        "Rows stand by the editor's name, which ranks nothing; controls, whose score is known beforehand, "
        "stand below. Tables are made from `records/` by `kebench leaderboard`, and "
        "`kebench leaderboard --check` says whether they still agree.",
    ]
    return "\n\n".join(parts) + "\n"


def _made(records: Sequence[RunRecord]) -> str:
    """How the intervals were made."""
    return markdown(
        distinct(
            f"{row.scores.interval}, {row.scores.resamples} resamples, seed {row.scores.seed}"
            for row in records
        )
    )


def _intervals_of_version_1(records: Sequence[RunRecord]) -> str:
    """How to read the intervals of scoring version 1."""
    sizes = sorted({n for row in records for n in _numbers_of_edits(row) if n})
    bounds = "; ".join(f"n = {n}: {printed.percent(least_rate(n))} %" for n in sizes)
    rule = (
        " Where all of n independent edits score 100 %, the true rate is with 95 % confidence at least "
        f"0.05^(1/n), Clopper and Pearson's one-sided limit ({bounds}); where all score 0 %, at most 100 % "
        "less that."
    )
    return (
        f"Intervals: {_made(records)}. One without width says that all edits scored the same, not that the "
        f"number is certain.{rule if sizes else ''}"
    )


def _numbers_of_edits(record: RunRecord) -> Iterable[int]:
    """The number of edits that each of the rates in a table is over."""
    scores = record.scores
    rates = (
        scores.success_rate,
        scores.equivalence_accuracy,
        scores.retain_accuracy,
        scores.equivalence_seen_wordings,
        scores.equivalence_held_out_wordings,
        scores.held_out_success_rate,
        scores.held_out_equivalence,
        scores.held_out_retain_accuracy,
    )
    return (rate.edits for rate in rates)
