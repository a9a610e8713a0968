"""When edits have told enough: the mean over edits with an interval that may be looked at after each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kebench.scoring.statistics import CONFIDENCE, NO_ESTIMATE, Estimate, Measure, mean

_EVIDENCE = math.log(2 / (1 - CONFIDENCE))  # either side of the interval takes half of what may go wrong
_STAKE = 0.75  # c: the largest share of the capital that one bet may lose
_HALVINGS = 40  # an end of the interval lies within 2^-40 of where it would be exactly, and outside of it


@dataclass(frozen=True)
class Stopping:
    """Edits are added until the mean of what they score is known to a precision.

    Attributes:
        precision: the wanted half-width of its 95 % interval, in percentage points.
        most: how many edits there are, at most.
    """

    precision: float
    most: int

    def estimate(self, measures: Sequence[Measure]) -> Estimate:
        """The mean over the edits so far, with an interval that holds whenever they stop.

        The value is the plain mean, and not quite unbiased any more: edits that happen to hold few of the
        rare bad ones look more precise and stop earlier, so that where such edits decide the mean it comes
        out too high, by about a tenth of the half-width in the simulations of
        `tests/scoring/test_stopping.py`, and by less than a twentieth where edits are much alike.
        The interval allows for it.

        Args:
            measures: one an edit, in the order of asking, which must not depend on what they score. Those
                that measured nothing (NaN) are left out.
        """
        measured = [measure for measure in measures if not math.isnan(measure.value)]
        if not measured:
            return NO_ESTIMATE
        values = [measure.value for measure in measured]
        low, high = betting_interval(values, half_width=self.precision / 100, most=self.most)
        total = sum(measure.total for measure in measured)
        return Estimate(mean(values), low, high, None, total, len(measured), math.nan)

    def reached(self, estimate: Estimate) -> bool:
        """Whether an estimate is as precise as was wanted; never where nothing was measured."""
        return half_width(estimate) <= self.precision / 100


def half_width(estimate: Estimate) -> float:
    """Half of the interval's width; NaN where nothing was measured."""
    return (estimate.high - estimate.low) / 2


def betting_interval(values: Sequence[float], *, half_width: float, most: int) -> tuple[float, float]:
    """A 95 % confidence sequence for the mean of values in [0, 1], after the last of them.

    With probability 0.95 the mean lies in *all* intervals of a growing sample, so it does in the one at
    which somebody stopped, whatever made them stop. Nothing is assumed but independent values of one
    distribution on [0, 1]; drawn without replacement, they tell more than that. In particular n values of 1
    do not make an interval without width: a rare 0 may be still to come, and the ends stay 4.9 / n apart.

    Whether the mean is m is put to a bet, and m is out once the capital of either bettor, 1 at first, has
    been above 2 / 0.05, which has probability 0.05 / 2 at most if the mean is m (Ville's inequality):

        K⁺_t(m) = Π_i≤t (1 + min(λ_i, c / m) · (x_i − m))
        K⁻_t(m) = Π_i≤t (1 − min(λ_i, c / (1 − m)) · (x_i − m))

    Any λ_i is valid that depends on x_1 … x_{i−1} alone. Here it is what lets the capital grow fastest where
    the mean is off by d (WSR's *aGRAPA*), with d what is to be told apart: the wanted half-width, or, if
    `most` values cannot give that, what they can:

        λ_i = d / (s² + d²),  d = max(half_width, sqrt(2 log(2 / 0.05) s² / most))

    where s² is the variance of the values before x_i, drawn towards 1/4 by one further observation.

    Args:
        values: in [0, 1], at least one, in the order in which they came.
        half_width: to which the interval should shrink soonest. It is valid whatever this is.
        most: values there may be, at most.

    Returns:
        Both ends. No interval is wider than an earlier one, unless to hold the mean of the values.

    Source: Waudby-Smith and Ramdas 2024 (WSR), "Estimating means of bounded random variables by betting",
    JRSS B 86(1), arXiv 2010.09686: the hedged capital confidence sequence (Theorem 3), θ = 1/2, c = 3/4.
    Their asymptotic one (with Arbour, Sinha and Kennedy, arXiv 2103.06476) needs fewer values, but where a
    few in a thousand are 0 and the others 1 it covered 40 to 50 % when tried.
    """
    x = np.asarray(values, dtype=np.float64)
    counts = np.arange(1, len(x) + 1)
    sums = np.cumsum(x)
    variances = (0.25 + np.cumsum(x * x) - sums * sums / counts) / (counts + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    apart = np.maximum(half_width, np.sqrt(2 * _EVIDENCE * before / most))
    bets = apart / (before + apart * apart)
    value = mean(values)
    return min(_low_end(x, bets), value), max(1 - _low_end(1 - x, bets), value)


def _low_end(x: NDArray[np.float64], bets: NDArray[np.float64]) -> float:
    """The largest m such that it and all below are out; the capital falls as m grows."""
    out, within = 0.0, 1.0
    for _ in range(_HALVINGS):
        m = (out + within) / 2
        log_capital = np.cumsum(np.log1p(np.minimum(bets, _STAKE / m) * (x - m)))
        if log_capital.max() >= _EVIDENCE:
            out = m
        else:
            within = m
    return out
