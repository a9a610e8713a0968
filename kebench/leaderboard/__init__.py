"""Makes tables from run records. The tables depend on nothing but these files.

    leaderboards/<task>/records/<model>--<pack>--<protocol>--<setting key>--<editor>.json    kept
    leaderboards/<task>/tuning/<model>--<pack>--<key>--<editor>.json                         kept
    leaderboards/<task>/<model>--<pack>--<protocol>.md and .csv, README.md                   made from them
    leaderboards/<task>/<model>--<pack>--<protocol>--<time>.md and .csv, …--curve.svg        made from them

Results share a table only if their whole `Setting` and their time are the same. Nothing is ranked: rows are
in the order of their names.
"""

from kebench.leaderboard.contradictions import contradictions
from kebench.leaderboard.folder import (
    add_records,
    add_tunings,
    check,
    read_record,
    read_tuning,
    rebuild,
    record_path,
)
from kebench.leaderboard.runs import check_run
from kebench.leaderboard.settings import differences
from kebench.leaderboard.terminal import table_text
from kebench.leaderboard.tuning import trials_text, tuning_path

__all__ = [
    "add_records",
    "add_tunings",
    "check",
    "check_run",
    "contradictions",
    "differences",
    "read_record",
    "read_tuning",
    "rebuild",
    "record_path",
    "table_text",
    "trials_text",
    "tuning_path",
]
