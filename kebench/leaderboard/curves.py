"""A drawing of scores against the number of edits made, for runs that were asked at several times."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from kebench.leaderboard.escape import plain
from kebench.scoring.record import RunRecord
from kebench.scoring.regimes import FINAL, edits_made, edits_of_a_stream
from kebench.scoring.scores import Scores
from kebench.scoring.statistics import Estimate

MADE_BY = "kebench leaderboard, from records/"
"""What a drawing that was made here says of its source."""

_PANELS: tuple[tuple[str, Callable[[Scores], Estimate]], ...] = (
    ("success", lambda scores: scores.success_rate),
    ("equivalence", lambda scores: scores.equivalence_accuracy),
    ("retain", lambda scores: scores.retain_accuracy),
)
_MARKERS = "oDs^vPX*<>"


def can_draw() -> bool:
    """Whether matplotlib, an extra, is installed."""
    return find_spec("matplotlib") is not None


def curve_name(name: str) -> str:
    """The file name of a setting's drawing, from the name of its table."""
    return f"{name}--curve.svg"


def has_curve(records: Sequence[RunRecord]) -> bool:
    """Whether some record of a setting has scores after two different numbers of edits."""
    return any(len(points(record)) > 1 for record in records)


def curves(records: Sequence[RunRecord]) -> str:
    """The drawing as SVG: success, equivalence and retain against edits made, one line an editor.

    The same records give the same text, with the same version of matplotlib.

    Args:
        records: of one setting, with the scores of all times.
    """
    from matplotlib.figure import Figure
    from matplotlib.style import context

    rows = sorted(records, key=lambda row: (row.is_control, row.editor.casefold(), row.editor))
    style = {"svg.hashsalt": "kebench", "svg.fonttype": "none", "font.size": 9}
    with context(["default", style]):  # whatever the user's own style is
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        axes = figure.subplots(1, len(_PANELS), sharey=True)
        lines = []
        for place, row in enumerate(rows):
            found = sorted(points(row).items())
            look = {"color": f"C{place % 10}", "marker": _MARKERS[place % len(_MARKERS)], "markersize": 3}
            look["linestyle"] = "--" if row.is_control else "-"
            for panel, (_, estimate) in zip(axes, _PANELS, strict=True):
                values = [100 * estimate(scores).value for _, scores in found]
                (line,) = panel.plot([made for made, _ in found], values, **look)
            lines.append(line)
        for panel, (title, _) in zip(axes, _PANELS, strict=True):
            panel.set(title=title, xlabel="edits made", ylim=(-3, 103))
            panel.grid(color="0.9")
        axes[0].set_ylabel("%")
        # A label that begins with an underscore is left out of a legend.
        names = [f" {plain(row.editor)}" for row in rows]
        legend = figure.legend(lines, names, loc="outside lower center", ncols=4, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name with dollar signs is no formula
        drawn = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Source": MADE_BY}
        figure.savefig(drawn, format="svg", metadata=metadata)
    return drawn.getvalue()


def points(record: RunRecord) -> dict[int, Scores]:
    """The number of edits made in a stream → the scores then."""
    at_the_end = {edits_of_a_stream(record.setting.regime): record.at(FINAL).scores}
    made = {time: edits_made(time) for time in record.times}
    return at_the_end | {k: record.times[time] for time, k in made.items() if k is not None}
