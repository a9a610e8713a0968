"""Defines an edit: what an editor is asked to change, and everything that it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A request to make the model answer `target` to `prompt`.

    An editor sees the edit and the base model. It never sees the retain sample, the test set, or the
    paraphrases that the edit is evaluated on.

    Attributes:
        id: the record's id. Every seed of this edit is derived from it.
        prompt: the input x.
        prediction: the base model's answer y to x.
        target: the wanted answer a.
        subject: what x is about, a substring of `prompt`; None if the pack does not say it.
        paraphrases: P^x in training. At evaluation it is empty, except for a control such as
            `baselines/oracle`.
    """

    id: str
    prompt: str
    prediction: str
    target: str
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()


Batch = Sequence[Edit]
"""Edits that are put into one model together."""
