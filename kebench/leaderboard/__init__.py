"""Run records in, tables out: a pure function of files.

    leaderboards/<task>/records/<model>--<pack>--<protocol>--<setting key>--<editor>.json    kept
    leaderboards/<task>/tuning/<model>--<pack>--<key>--<editor>.json                         kept
    leaderboards/<task>/<model>--<pack>--<protocol>.md and .csv, README.md                   made from them

Results share a table only where their whole `Setting` agrees. Nothing is ranked: rows stand by name.
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
from kebench.leaderboard.settings import differences
from kebench.leaderboard.terminal import table_text
from kebench.leaderboard.tuning import trials_text, tuning_path

__all__ = [
    "add_records",
    "add_tunings",
    "check",
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
