"""Records as plain text for a terminal: a table for each setting and time, in percent."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from kebench.leaderboard import printed
from kebench.leaderboard.columns import holds_out
from kebench.leaderboard.escape import plain
from kebench.leaderboard.settings import by_setting, headline
from kebench.leaderboard.words import HELD_OUT, distinct, precision_in_words, unreached
from kebench.scoring.record import RunRecord
from kebench.scoring.regimes import FINAL
from kebench.scoring.scores import Scores
from kebench.scoring.statistics import Estimate

_WIDTH = 100


@dataclass(frozen=True)
class _Column:
    """A column: its heading, and the score in it."""

    heading: str
    estimate: Callable[[Scores], Estimate]


def table_text(records: Sequence[RunRecord]) -> str:
    """Plain text for a terminal, in percent: each score has its interval on the line below it."""
    return "\n".join(_text(rows) for rows in by_setting(records))


def _text(rows: Sequence[RunRecord]) -> str:
    setting, protocol, time = rows[0].setting, rows[0].scores.protocol, rows[0].scores.time
    edits = precision_in_words(setting) or f"{setting.edits} edits"
    split = "" if setting.split == "test" else f", {setting.split} split"
    when = "" if time == FINAL else f", {time}"
    told = (
        f"{setting.task} version {setting.task_version}: {setting.model} on {setting.pack}, {protocol.name} "
        f"protocol{when}; {edits}, {setting.targets} targets, {setting.regime}, retain: "
        f"{setting.retain}, seed {setting.seed}{split}. In percent, 95 % intervals below."
    )
    compared, _ = headline(protocol)
    columns = (
        _Column("success", lambda scores: scores.success_rate),
        _Column("inflation\ngap", lambda scores: scores.inflation_gap),
        _Column(f"equivalence\n({compared})", lambda scores: scores.equivalence_accuracy),
        _Column("retain", lambda scores: scores.retain_accuracy),
        _Column("deterioration", lambda scores: scores.performance_deterioration),
    )
    lines = [*textwrap.wrap(plain(told), _WIDTH), "", *_table(rows, columns, _aside)]
    if missed := unreached(rows, plain):
        lines += ["", *textwrap.wrap(missed, _WIDTH)]
    if holds_out(rows):
        n_edits = distinct(str(row.scores.held_out_edits) for row in rows)
        told = f"{HELD_OUT} Edits of held-out relations: {n_edits}."
        table = _table(rows, _HELD_OUT_COLUMNS, lambda row: "")
        lines += ["", *textwrap.wrap(told, _WIDTH), "", *table]
    return "\n".join(lines) + "\n"


_HELD_OUT_COLUMNS = (
    _Column("equivalence,\nseen\nwordings", lambda scores: scores.equivalence_seen_wordings),
    _Column("equivalence,\nheld-out\nwordings", lambda scores: scores.equivalence_held_out_wordings),
    _Column("success,\nheld-out\nrelations", lambda scores: scores.held_out_success_rate),
    _Column("equivalence,\nheld-out\nrelations", lambda scores: scores.held_out_equivalence),
    _Column("retain,\nheld-out\nrelations", lambda scores: scores.held_out_retain_accuracy),
)


def _aside(record: RunRecord) -> str:
    """What stands below an editor's name: how many edits, how many failed, and the seconds an edit."""
    scores = record.scores
    failed = f"{scores.n_failures} failed, " if scores.n_failures else ""
    edits = "" if record.setting.precision is None else f"{scores.edits} edits, "
    return f"· {edits}{failed}{printed.seconds(record.cost.edit_seconds_p50)} s/edit"


def _table(
    rows: Sequence[RunRecord], columns: Sequence[_Column], aside: Callable[[RunRecord], str]
) -> list[str]:
    """The table's lines: two for each editor, with the controls below.

    Where the table is too wide for a terminal, a name too long for the first column has its own line.
    """
    cells = [line for row in rows if not row.is_control for line in _two_lines(row, columns, aside)]
    controls = [line for row in rows if row.is_control for line in _two_lines(row, columns, aside)]
    if controls:
        cells += [["controls:", *[""] * len(columns)], *controls]
    rule = _tabulated(cells, columns).splitlines()[-len(cells) - 1]
    room = _WIDTH - len(rule) + rule.index(" ")  # for the first column
    long = [first if len(first) > room else "" for first, *_ in cells]
    fitting = [["" if name else first, *rest] for name, (first, *rest) in zip(long, cells, strict=True)]
    table = _tabulated(fitting, columns).splitlines()
    body = [part for pair in zip(long, table[-len(cells) :], strict=True) for part in pair if part.strip()]
    return [line.rstrip() for line in (*table[: -len(cells)], *body)]


def _tabulated(lines: Sequence[Sequence[str]], columns: Sequence[_Column]) -> str:
    return tabulate(
        lines,
        headers=["editor", *(column.heading for column in columns)],
        tablefmt="simple",
        colalign=("left", *["right"] * len(columns)),
        disable_numparse=True,
    )


def _two_lines(
    record: RunRecord, columns: Sequence[_Column], aside: Callable[[RunRecord], str]
) -> tuple[list[str], list[str]]:
    """An editor's numbers, and the line with their intervals."""
    estimates = [column.estimate(record.scores) for column in columns]
    intervals = (printed.interval(estimate).replace(", ", ",") for estimate in estimates)
    return (
        [plain(record.editor), *(printed.percent(estimate.value) for estimate in estimates)],
        [aside(record), *intervals],
    )
