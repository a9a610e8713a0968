"""An edit: what an editor is asked to change, and all it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Make the model answer `target` to `prompt`.

    An editor sees this and the base model; never the retain sample, the test set, or the paraphrases
    the edit is evaluated on.

    Attributes:
        id: the record's id, from which every seed of this edit is derived.
        prompt: the input x.
        prediction: the base model's answer y to x.
        target: the wanted answer a.
        subject: what x is about, where the pack knows it; a substring of `prompt` or None.
        paraphrases: P^x. Given in training only; empty at evaluation, except to a control that says
            openly that it looks (`baselines/oracle`).
    """

    id: str
    prompt: str
    prediction: str
    target: str
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()


Batch = Sequence[Edit]
"""Edits that are put into one model at once."""
