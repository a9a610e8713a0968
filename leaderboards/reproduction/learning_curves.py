"""Draws learning_curves.svg: dev success and retain while the KnowledgeEditors of `mini` were trained.

    python leaderboards/reproduction/learning_curves.py

Each state that comes with kebench keeps the history of its training: every 50 steps, both rates on the dev
edits that checkpoints are chosen with, under teacher forcing.
"""

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.style import context

HERE = Path(__file__).parent
STATES = HERE.parents[1] / "tasks" / "mini" / "editors"


def draw() -> None:
    """Writes the drawing; the same histories give the same bytes."""
    with context(["default", {"svg.hashsalt": "kebench", "svg.fonttype": "none", "font.size": 9}]):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        for axes, task in zip(figure.subplots(1, 2, sharey=True), ("fever", "zsre"), strict=True):
            file = STATES / f"{task}--knowledge_editor" / "history.json"
            history = json.loads(file.read_text(encoding="utf-8"))["history"]
            steps, success, retain, *_ = zip(*history, strict=True)
            axes.plot(steps, [100 * rate for rate in success], "C3-D", markersize=3, label="success")
            axes.plot(steps, [100 * rate for rate in retain], "C0--o", markersize=3, label="retain")
            axes.set(title=f"{task} (mini)", xlabel="training steps", ylim=(60, 101))
            axes.grid(color="0.9")
        figure.axes[0].set_ylabel("% of dev, teacher-forced")
        figure.axes[0].legend(frameon=False, loc="lower right")
        figure.savefig(HERE / "learning_curves.svg", format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw()
