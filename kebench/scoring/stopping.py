"""When a run may stop: the mean over edits, with an interval that may be checked after each edit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kebench.scoring.statistics import CONFIDENCE, NO_ESTIMATE, Estimate, Measure, mean

_EVIDENCE = math.log(2 / (1 - CONFIDENCE))  # each side of the interval may be wrong with probability 0.025
_STAKE = 0.75  # c: the largest share of the capital that one bet may lose
_HALVINGS = 40  # each end of the interval is within 2^-40 of the exact end, on its outer side


@dataclass(frozen=True)
class Stopping:
    """Edits are added until the mean of what they score is known to a precision.

    Attributes:
        precision: the wanted half-width of the mean's 95 % interval, in percentage points.
        most: the largest number of edits.
    """

    precision: float
    most: int

    def estimate(self, measures: Sequence[Measure]) -> Estimate:
        """The mean over the edits so far, with an interval that is valid whenever the run stops.

        The value is the plain mean, and has a small bias: a run that happens to meet few of the rare bad
        edits looks more precise and stops earlier, so that its mean is too high. In the simulations of
        `tests/scoring/test_stopping.py` the bias is about a tenth of the half-width where such edits decide
        the mean, and less than a twentieth where edits are much alike. The interval allows for it.

        Args:
            measures: one for each edit, in the order in which edits are made, which must not depend on their
                scores. Edits that measured nothing (NaN) are left out.
        """
        measured = [measure for measure in measures if not math.isnan(measure.value)]
        if not measured:
            return NO_ESTIMATE
        values = [measure.value for measure in measured]
        low, high = betting_interval(values, half_width=self.precision / 100, most=self.most)
        total = sum(measure.total for measure in measured)
        return Estimate(mean(values), low, high, None, total, len(measured), math.nan)

    def reached(self, estimate: Estimate) -> bool:
        """Whether an estimate is as precise as wanted; False where nothing was measured."""
        return half_width(estimate) <= self.precision / 100


def half_width(estimate: Estimate) -> float:
    """Half of the interval's width; NaN where nothing was measured."""
    return (estimate.high - estimate.low) / 2


def betting_interval(values: Sequence[float], *, half_width: float, most: int) -> tuple[float, float]:
    """A 95 % confidence sequence for the mean of values in [0, 1], after the last of them.

    With probability 0.95 the mean lies in *all* intervals of a growing sample. So it lies in the interval at
    which a run stopped, whatever the reason for stopping. The method only assumes independent values of one
    distribution on [0, 1]; if they are drawn without replacement, the interval is wider than it need be. In
    particular n values of 1 do not give an interval without width: a rare 0 may still come, and the ends
    stay 4.9 / n apart.

    The hypothesis that the mean is m is tested by betting. It is rejected once the capital of either bettor,
    1 at first, has been above 2 / 0.05; if the mean is m, this has probability 0.05 / 2 at most (Ville's
    inequality):

        K⁺_t(m) = Π_i≤t (1 + min(λ_i, c / m) · (x_i − m))
        K⁻_t(m) = Π_i≤t (1 − min(λ_i, c / (1 − m)) · (x_i − m))

    Any λ_i is valid that depends on x_1 … x_{i−1} alone. This one makes the capital grow fastest if the mean
    differs from m by d (WSR's *aGRAPA*). d is the wanted half-width, or the half-width that `most` values can
    give, if that is larger:

        λ_i = d / (s² + d²),  d = max(half_width, sqrt(2 log(2 / 0.05) s² / most))

    where s² is the variance of the values before x_i, shrunk towards 1/4 by one further observation.

    Args:
        values: in [0, 1], at least one, in the order in which they came.
        half_width: the width for which the bets are chosen. The interval is valid whatever it is.
        most: the largest number of values that there may be.

    Returns:
        Both ends. An interval is never wider than an earlier one, unless it has to contain the values' mean.

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
    """The largest m such that it and all smaller ones are rejected; the capital falls as m grows."""
    out, within = 0.0, 1.0
    for _ in range(_HALVINGS):
        m = (out + within) / 2
        log_capital = np.cumsum(np.log1p(np.minimum(bets, _STAKE / m) * (x - m)))
        if log_capital.max() >= _EVIDENCE:
            out = m
        else:
            within = m
    return out
