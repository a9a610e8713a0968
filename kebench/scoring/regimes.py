"""Regimes: how the edits of a run follow each other in a model, and when questions are asked.

A *batch* is a list of edits that are put into one model at once. A *stream* is an ordered list of batches;
the model carries each on to the next.

| regime                  | streams        | batches a stream | edits a batch |
|-------------------------|----------------|------------------|---------------|
| `single`                | one an edit    | 1                | 1             |
| `batch(k)`              | n / k          | 1                | k             |
| `sequential(n, batch=b)`| as many as fit | n / b            | b             |

In `single` and `batch` every question is asked once, after the stream's only batch. In `sequential` a time
says when: `immediate`, an edit's own questions right after its batch; `after k`, the questions of all edits
so far once k are made; `final`, those of all edits at the end of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from kebench.errors import BadSetting

RegimeName = Literal["single", "batch", "sequential"]
IMMEDIATE = "immediate"
"""The time at which each edit's own questions are asked, right after its batch."""
FINAL = "final"
"""The time at which all edits of a stream are made."""
T = TypeVar("T")


_AFTER = "after "


def after(edits: int) -> str:
    """The name of the time at which so many edits of a stream are made."""
    return f"{_AFTER}{edits}"


def edits_made(time: str) -> int | None:
    """The number of edits that are made at the time `after k`; None for any other time."""
    k = time.removeprefix(_AFTER)
    return int(k) if time.startswith(_AFTER) and re.fullmatch("[1-9][0-9]{0,11}", k) else None


def in_order(times: Iterable[str]) -> list[str]:
    """Times in the order in which tables show them: `immediate`, `after k` by k, any others, `final`."""

    def place(time: str) -> tuple[int, int, str]:
        k = edits_made(time)
        return {IMMEDIATE: 0, FINAL: 3}.get(time, 2 if k is None else 1), k or 0, time

    return sorted(times, key=place)


def edits_of_a_stream(regime: str) -> int:
    """How many edits a stream of a regime has, from how records spell the regime; 1 where it is unknown."""
    found = re.fullmatch(r"(?:batch|sequential)\(([1-9][0-9]{0,11})(?:, batch=[0-9]+)?\)", regime)
    return int(found[1]) if found else 1


@dataclass(frozen=True)
class Regime:
    """How edits follow each other.

    Attributes:
        name: `single`, `batch` or `sequential`.
        edits: how many edits a stream has.
        batch: how many of them are put into the model at once.
        ask_after: the numbers of edits after which the questions of all edits so far are asked. Each is the
            end of a batch, and less than `edits`.
    """

    name: RegimeName = "single"
    edits: int = 1
    batch: int = 1
    ask_after: tuple[int, ...] = ()

    @staticmethod
    def of(
        name: str = "single",
        *,
        edits: int | None = None,
        batch: int | None = None,
        ask_after: Sequence[int] = (),
    ) -> Regime:
        """The regime that settings mean.

        A number of `ask_after` within a batch means the end of that batch, as the model is not there before.

        Raises:
            BadSetting: a number is missing, not wanted, or does not go with the others.
        """
        if name == "single":
            if edits is not None or batch is not None or ask_after:
                raise BadSetting(
                    "regime: found single with edits, batch or ask-after, wanted batch or sequential"
                )
            return Regime()
        if name == "batch":
            if batch is None or batch < 1 or edits is not None or ask_after:
                raise BadSetting(
                    "regime batch: wanted --batch, the number of edits put in at once, and that alone"
                )
            return Regime("batch", batch, batch)
        if name != "sequential":
            raise BadSetting(f"regime: found '{name}', wanted {', '.join(get_args(RegimeName))}")
        batch = 1 if batch is None else batch
        if edits is None or batch < 1 or edits < batch or edits % batch:
            raise BadSetting(
                f"regime sequential: found {edits} edits in batches of {batch}, wanted --edits, the length of"
                " a stream, to be a multiple of --batch"
            )
        if any(not 1 <= number <= edits for number in ask_after):
            raise BadSetting(f"ask-after: found {list(ask_after)}, wanted numbers from 1 to {edits}")
        ends = sorted({-(-number // batch) * batch for number in ask_after} - {edits})
        return Regime("sequential", edits, batch, tuple(ends))

    def __str__(self) -> str:
        """As records spell it, without `ask_after`."""
        if self.name == "sequential":
            return f"sequential({self.edits}, batch={self.batch})"
        return f"batch({self.batch})" if self.name == "batch" else "single"

    def streams(self, edits: Sequence[T]) -> list[list[Sequence[T]]]:
        """The edits as streams of batches; those that fill no whole stream are left out."""
        whole = len(edits) - len(edits) % self.edits
        return [
            [edits[place : place + self.batch] for place in range(start, start + self.edits, self.batch)]
            for start in range(0, whole, self.edits)
        ]
