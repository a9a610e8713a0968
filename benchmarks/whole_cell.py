"""(h) Projects from (b) the time of one cell of the paper's table, with all rows answered after each edit."""

from benchmarks.evaluation import fever
from benchmarks.lines import Line, Target
from benchmarks.precision import ROWS
from benchmarks.session import Session
from benchmarks.timing import Ratio

TARGET = Target("≤", cuda=1 / 3)
HOUR = 3600


def lines(session: Session) -> list[Line]:
    """Returns one line, in hours. Its note gives the time of the original's way."""
    session.timings("b FEVER")
    costs = fever(session.settings).costs
    hours = {
        way: Ratio.of([ROWS * (each.edit + (1 + ROWS) * each.row) / HOUR for each in found[1:]])
        for way, found in costs.items()
    }
    return [
        Line(
            "h",
            f"FEVER, BERT-base: all {ROWS:,} edits x {ROWS:,} rows, projected",
            hours["kebench"],
            unit="h",
            target=TARGET,
            seconds=hours["kebench"].value * HOUR,
            floor=ROWS * (1 + ROWS) * session.floor("b FEVER"),
            note=f"{hours['original'].value:,.0f} h the original's way",
        )
    ]
