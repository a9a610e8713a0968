"""Numbers as tables print them: the only place where any is rounded."""

from __future__ import annotations

import math
from typing import Any

from kebench.scoring.statistics import Estimate

NOTHING = "\N{EN DASH}"
"""What a table shows where nothing was measured."""

_UNITS = ("seconds", "bytes", "nats", "bits")


def percent(fraction: float) -> str:
    """A fraction in percent to two decimals, without the sign; never `-0.00`."""
    return NOTHING if math.isnan(fraction) else f"{100 * fraction:z.2f}"


def interval(estimate: Estimate) -> str:
    """`[lo, hi]` in percent; nothing where nothing was measured."""
    if math.isnan(estimate.value):
        return ""
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def with_interval(estimate: Estimate) -> str:
    """`value [lo, hi]` in percent."""
    return f"{percent(estimate.value)} {interval(estimate)}".rstrip()


def seconds(duration: float) -> str:
    """A duration in seconds, to the millisecond, without the unit."""
    return NOTHING if math.isnan(duration) else f"{duration:z.3f}"


def memory(n_bytes: int) -> str:
    """A size in MiB, or in GiB from one upwards, with the unit."""
    mebibytes = n_bytes / 2**20
    return f"{mebibytes:.1f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.2f} GiB"


def fact(name: str, value: Any) -> str:
    """A fact about the base model: fractions in percent, counts and quantities with a unit unchanged.

    A fraction is a float in [0, 1] whose name does not end in a unit.
    """
    if value is None:
        return NOTHING
    if isinstance(value, float):
        if name.rsplit("_", 1)[-1] not in _UNITS and 0 <= value <= 1:
            return f"{percent(value)} %"
        return NOTHING if math.isnan(value) else f"{value:.4g}"
    return str(value)
