"""The items of the table, by letter. Each is a module with `lines(session)`, and most have `CONTESTS` too."""

from collections.abc import Callable, Mapping

from benchmarks import (
    decoding,
    evaluation,
    memory,
    precision,
    rows,
    scoring,
    start,
    training,
    tuning,
    whole_cell,
)
from benchmarks.lines import Line
from benchmarks.session import Contests, Session

ITEMS: Mapping[str, Callable[[Session], list[Line]]] = {
    "a": rows.lines,
    "b": evaluation.lines,
    "c": precision.lines,
    "d": training.lines,
    "e": tuning.lines,
    "f": memory.lines,
    "g": decoding.lines,
    "h": whole_cell.lines,
    "i": start.lines,
    "j": scoring.lines,
}
CONTESTS: Contests = {
    **rows.CONTESTS,
    **evaluation.CONTESTS,
    **training.CONTESTS,
    **tuning.CONTESTS,
    **decoding.CONTESTS,
    **start.CONTESTS,
}
