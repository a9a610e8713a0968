"""Sentences that tables in Markdown and on a terminal share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kebench.leaderboard import printed
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.stopping import half_width

HELD_OUT = (
    "What no editor was trained on: held-out wordings of paraphrases (like seen wordings, of the edits whose "
    "relation is in training), and held-out relations, whose edits are part of the table above too; every "
    "equivalence here compares with the target."
)


def distinct(texts: Iterable[str]) -> str:
    """Each different text once, with `or` between them."""
    return " or ".join(sorted(set(texts)))


def precision_in_words(setting: Setting) -> str:
    """When the run stopped; empty where the number of edits was fixed."""
    if setting.precision is None:
        return ""
    return f"edits until retain is known to ± {setting.precision:g} points, {setting.edits} at most"


def unreached(rows: Sequence[RunRecord], harmless: Callable[[str], str]) -> str:
    """The editors whose retain accuracy is not known to the wanted precision after all edits; may be empty.

    Args:
        rows: of one table.
        harmless: makes an editor's name safe where it will be shown.
    """
    found = [
        f"{harmless(row.editor)} (± {printed.percent(half_width(row.scores.retain_accuracy))})"
        for row in rows
        if (stopping := row.setting.stopping) and not stopping.reached(row.scores.retain_accuracy)
    ]
    if not found:
        return ""
    return f"Precision not reached after all {rows[0].setting.edits} edits: {', '.join(found)}."
