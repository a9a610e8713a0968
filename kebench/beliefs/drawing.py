"""Plots beliefs as SVG. The same numbers always produce the same bytes."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from kebench.beliefs.beliefs import Belief, Kind
from kebench.errors import BadSetting
from kebench.files.writing import replacing

MARKS: dict[Kind, str] = {"retain": "C0o", "paraphrase": "C1^", "edit": "C3D"}
"""The marker of each kind. Shapes differ as well as colours, for readers who cannot tell the colours apart.

The kinds with the most points come first, so that the others are drawn over them.
"""


def needs_matplotlib() -> None:
    """Checks that matplotlib, an optional dependency, is installed.

    Raises:
        BadSetting: it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise BadSetting("a plot needs matplotlib: pip install 'kebench[plots]'")


def draw_beliefs(found: Sequence[Belief], title: str, path: Path) -> None:
    """Writes a scatter plot as SVG: log-odds before the edit on the x axis, after it on the y axis.

    A point on the diagonal did not change. Edits and paraphrases should lie above the line at 0, where the
    target is more likely than all other answers together; retain questions should not fall below it.

    Raises:
        BadSetting: matplotlib is not installed.
    """
    needs_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.style import context

    found = [belief for belief in found if math.isfinite(belief.before) and math.isfinite(belief.after)]
    ends = [value for belief in found for value in (belief.before, belief.after)]
    low, high = min(ends, default=-1.0) - 0.5, max(ends, default=1.0) + 0.5
    style = {"svg.hashsalt": "kebench", "svg.fonttype": "none", "font.size": 9}
    with context(["default", style]):  # independent of the user's own style
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        axes = figure.add_subplot(xlim=(low, high), ylim=(low, high), aspect="equal", title=title)
        axes.set_xlabel("log-odds of the answer before the edit, nats")
        axes.set_ylabel("after the edit, nats")
        axes.axline((0, 0), slope=1, color="0.7", linewidth=0.8)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.axvline(0, color="0.7", linewidth=0.8)
        for kind, mark in MARKS.items():
            points = [belief for belief in found if belief.kind == kind]
            axes.plot(
                [belief.before for belief in points],
                [belief.after for belief in points],
                mark,
                markersize=2.5 if kind != "edit" else 4,
                markeredgewidth=0,
                alpha=0.6,
                label=f"{kind} ({len(points):,})",
                gid=kind,
            )
        figure.legend(loc="outside lower center", ncols=len(MARKS), frameon=False, reverse=True)
        with replacing(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})
