"""Records of one task as tables in Markdown. Text in, text out: `folder` reads and writes the files."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from kebench.leaderboard.columns import HELD_OUT_COLUMNS, Column, holds_out, main_columns
from kebench.leaderboard.curves import curve_name, has_curve
from kebench.leaderboard.escape import markdown
from kebench.leaderboard.how_to_read import how_to_read
from kebench.leaderboard.settings import Neighbours, by_setting, table_name
from kebench.leaderboard.spreadsheet import failures_by_reason
from kebench.leaderboard.tuning import how_tuned, tunings_of
from kebench.leaderboard.what_was_run import what_was_run
from kebench.leaderboard.words import HELD_OUT, unreached
from kebench.scoring.record import RunRecord
from kebench.scoring.regimes import FINAL
from kebench.scoring.tuning import Tuning

MARK = "<!-- Made by `kebench leaderboard` from records/. Changes here are lost. -->\n"
"""The first line of each Markdown table made here, by which it is told from one written by hand."""


def markdown_table(
    records: Sequence[RunRecord],
    others: Neighbours | Sequence[RunRecord] = (),
    tunings: Sequence[Tuning] = (),
) -> str:
    """A file with the table of one setting and one time.

    Args:
        records: of one setting, with scores of one time (`by_setting` makes such lists).
        others: all records of the task, to say what differs in those whose table has the same name; as
            `Neighbours` where many tables are made.
        tunings: of the task; the column Tuned says which rows were tuned on the table's pack and model.
    """
    others = others if isinstance(others, Neighbours) else Neighbours([*others, *records])
    return f"{MARK}\n{_section(records, others, tunings, '#')}\n{how_to_read(records)}"


def markdown_page(records: Sequence[RunRecord], tunings: Sequence[Tuning] = ()) -> str:
    """A file with all tables of one task."""
    task = markdown(records[0].setting.task)
    others = Neighbours(records)
    sections = "\n".join(_section(rows, others, tunings, "##", linked=True) for rows in by_setting(records))
    return f"{MARK}\n# {task}\n\n{sections}\n## How to read the tables\n\n{how_to_read(records)}"


def _section(
    records: Sequence[RunRecord],
    others: Neighbours,
    tunings: Sequence[Tuning],
    level: str,
    *,
    linked: bool = False,
) -> str:
    """A heading, what was run, the table, and the edits that failed."""
    (rows,) = by_setting(records)
    setting, scores = rows[0].setting, rows[0].scores
    apart = others.apart_by(setting)
    has_times = any(other.times for other in others.by_key[setting.key])
    time = f", {markdown(scores.time)}" if scores.time != FINAL or has_times else ""
    here = tunings_of(setting, tunings)
    parts = [
        f"{level} {markdown(setting.task)} version {setting.task_version}: {markdown(setting.model)} on "
        f"{markdown(setting.pack)}, {markdown(scores.protocol.name)} protocol{time}"
        f"{f' ({setting.key})' if apart else ''}\n",
        what_was_run(rows, apart),
        _pipe_table(rows, main_columns(rows, here)),
        how_tuned(rows, here),
    ]
    if holds_out(rows):
        parts += [f"{HELD_OUT}\n", _pipe_table(rows, HELD_OUT_COLUMNS)]
    failed = [row for row in rows if row.scores.n_failures]
    if missed := unreached(rows, markdown):
        parts.append(f"{missed}\n")
    if failed:
        parts.append("Failed edits, wrong in every score above:\n")
        parts.append(
            "".join(f"- {markdown(row.editor)}: {markdown(failures_by_reason(row))}\n" for row in failed)
        )
    name = others.names[setting.key]
    if scores.time == FINAL and has_curve(others.by_key[setting.key]):
        parts.append(f"![Scores against edits made]({curve_name(name)})\n")
    if linked:
        alone = table_name(name, scores.time)
        parts.append(f"This table alone: [Markdown]({alone}.md), [CSV]({alone}.csv).\n")
    return "\n".join(parts)


def _pipe_table(rows: Sequence[RunRecord], columns: Sequence[Column]) -> str:
    """The editors' rows, then the controls' rows below a line that says so."""
    lines = [
        [markdown(row.editor), *(column.cell(row) for column in columns)]
        for row in rows
        if not row.is_control
    ]
    controls = [
        [f"{markdown(row.editor)} (control)", *(column.cell(row) for column in columns)]
        for row in rows
        if row.is_control
    ]
    if controls:
        lines += [["**Controls**", *[""] * len(columns)], *controls]
    table = tabulate(
        lines,
        headers=["Editor", *(column.heading for column in columns)],
        tablefmt="pipe",
        colalign=("left", *["right"] * len(columns)),
        disable_numparse=True,
    )
    return f"{table}\n"
