"""Whether a record's numbers can all be true at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace

from kebench.scoring.record import RunRecord
from kebench.scoring.scores import ALWAYS
from kebench.scoring.statistics import NO_ESTIMATE, Estimate

_RATES = (
    "no_op_share",
    "success_rate",
    "success_rate_teacher_forced",
    "equivalence_target",
    "equivalence_own",
    "equivalence_seen_wordings",
    "equivalence_held_out_wordings",
    "retain_accuracy",
    "retain_accuracy_gold",
    "accuracy_before",
)
_OF_HELD_OUT_EDITS = {
    "held_out_success_rate": "success_rate",
    "held_out_equivalence": "equivalence_target",
    "held_out_retain_accuracy": "retain_accuracy",
}
"""A score over held-out edits → the score over all edits that it is a part of."""
ONE_ANSWER_AN_EDIT = (
    "no_op_share",
    "success_rate",
    "success_rate_teacher_forced",
    "inflation_gap",
    "held_out_success_rate",
)
COUNTED = (*ONE_ANSWER_AN_EDIT, "accuracy_before")
"""The scores that are `hits / total` and tell `hits`; in scoring version 1 all scores tell `hits`."""
_NEAR = 1e-9


def contradictions(record: RunRecord) -> list[str]:
    """What in a record contradicts the rest of it, one line each; none in a record that `score` made.

    A score that was not measured contradicts nothing, and one that this version of kebench does not know must
    only be an estimate in itself.
    """
    found = _of_one_time(record)
    for time in record.times:
        found += [f"times.{time}: {problem}" for problem in _of_one_time(record.at(time))]
    return [*found, *_cost(record)]


def _of_one_time(record: RunRecord) -> list[str]:
    missing = [*_fields(record)]
    if missing:
        return missing
    return [*_counts(record), *_scores(record), *_wordings(record), *_held_out_edits(record)]


def _fields(record: RunRecord) -> Iterator[str]:
    """Fields that estimates of this scoring version must have, or must not have."""
    scores = record.scores
    first = scores.protocol.scoring == 1
    if first and scores.get("performance_deterioration_elsewhere") is not None:
        yield "performance_deterioration_elsewhere: scoring version 1"
    for name, estimate in scores.estimates().items():
        if name in ALWAYS and (estimate.hits is not None) != (first or name in COUNTED):
            yield f"{name}.hits: found {estimate.hits}"
        if (estimate.standard_error is None) != first:
            yield f"{name}.standard_error: found {estimate.standard_error}"


def _counts(record: RunRecord) -> Iterator[str]:
    setting, scores = record.setting, record.scores
    equal: dict[str, tuple[object, object]] = {
        "setting.protocol and scores.protocol": (dict(setting.protocol), scores.protocol.to_json())
    }
    if (no_ops := scores.get("no_op_share")) is not None:
        equal["no_ops and no_op_share.hits"] = (scores.no_ops, no_ops.hits)
        equal["edits and no_op_share.total"] = (scores.edits, no_ops.total)
    if (success := scores.get("success_rate")) is not None:
        left_out = 0 if scores.protocol.left_out_of_success == "nothing" else scores.no_ops
        name = "edits less those left out of success and success_rate.edits"
        equal[name] = (scores.edits - left_out, success.edits)
    for name in ("equivalence_target", "equivalence_own"):
        if (equivalence := scores.get(name)) is not None:
            equal[f"edits_with_paraphrases and {name}.edits"] = (
                scores.edits_with_paraphrases,
                equivalence.edits,
            )
    if scores.edits > setting.edits and (setting.stopping is not None or _some_may_lack(record)):
        yield f"edits: found {scores.edits}, of {setting.edits} at most"
    elif _some_may_lack(record):
        pass
    elif setting.stopping is None:
        equal["setting.edits and scores.edits"] = (setting.edits, scores.edits)
    elif scores.edits < setting.edits and not setting.stopping.reached(scores.retain_accuracy):
        yield f"edits: stopped after {scores.edits} of {setting.edits} without the precision of the setting"
    for names, (one, other) in equal.items():
        if one != other:
            yield f"{names} differ: {one} and {other}"
    if any(n < 1 for n in scores.failures.values()) or scores.n_failures > scores.edits:
        yield f"failures: found {dict(scores.failures)} of {scores.edits} edits"
    if not 0 <= scores.held_out_edits <= scores.edits:
        yield f"held_out_edits: found {scores.held_out_edits} of {scores.edits} edits"
    if (scores.success_rate.hits or 0) > scores.edits - scores.n_failures:
        yield "success_rate: more hits than edits that did not fail"


def _some_may_lack(record: RunRecord) -> bool:
    """Whether some edits of the setting may not be scored: not made yet, or replaced by a later edit."""
    return record.setting.regime != "single"


def _scores(record: RunRecord) -> Iterator[str]:
    scores = record.scores
    measured = scores.estimates()
    for name in _RATES:
        if name in measured:
            yield from _rate(name, measured[name], scores.edits)
    for name, estimate in scores.further().items():
        yield from _estimate(name, estimate, scores.edits, most=math.inf)
    yield from _estimate("inflation_gap", scores.inflation_gap, scores.edits, least=-1)
    if abs(scores.inflation_gap.hits or 0) > scores.inflation_gap.total:
        yield "inflation_gap: more hits than total"
    for name in ONE_ANSWER_AN_EDIT:
        estimate = measured.get(name, NO_ESTIMATE)
        if estimate.total != estimate.edits:
            yield f"{name}: total {estimate.total} of {estimate.edits} edits, one each"
        elif estimate.total and not _near(estimate.value, (estimate.hits or 0) / estimate.total):
            yield f"{name}: value {estimate.value} is not {estimate.hits} / {estimate.total}"
    yield from _deterioration(record)


def _wordings(record: RunRecord) -> Iterator[str]:
    """Where some wording is held out, each is seen, held out, or of a held-out relation."""
    scores = record.scores
    parts_of = ("equivalence_target", "equivalence_seen_wordings", "equivalence_held_out_wordings")
    if any(scores.get(name) is None for name in (*parts_of, "held_out_equivalence")):
        return
    whole, relations = scores.equivalence_target, scores.held_out_equivalence
    seen, kept = scores.equivalence_seen_wordings, scores.equivalence_held_out_wordings
    if not seen.total + kept.total:
        return
    parts = "seen wordings, held-out wordings and held-out relations"
    total = seen.total + kept.total + relations.total
    if total != whole.total:
        yield f"equivalence_target: {whole.total} answers, but {parts} have {total}"
    if whole.hits is not None:
        hits = sum(part.hits or 0 for part in (seen, kept, relations))
        if hits != whole.hits:
            yield f"equivalence_target: {whole.hits} hits, but {parts} have {hits}"
    least, most = max(seen.edits, kept.edits), seen.edits + kept.edits
    if not least <= whole.edits - relations.edits <= most:
        yield (
            f"equivalence_target: over {whole.edits} edits, but {parts} over {seen.edits}, {kept.edits} and "
            f"{relations.edits}"
        )


def _held_out_edits(record: RunRecord) -> Iterator[str]:
    scores = record.scores
    n_edits, success = scores.held_out_edits, scores.held_out_success_rate
    for name, whole_name in _OF_HELD_OUT_EDITS.items():
        part, whole = scores.get(name), scores.get(whole_name)
        if part is None or whole is None:
            continue
        yield from _rate(name, part, n_edits)
        if part.total > whole.total:
            yield f"{name}: {part.total} answers, but {whole_name} has {whole.total}"
        elif part.hits is None or whole.hits is None:
            pass
        elif part.hits > whole.hits or part.total - part.hits > whole.total - whole.hits:
            yield f"{name}: {part.hits} hits of {part.total}, but {whole_name} {whole.hits} of {whole.total}"
        if name == "held_out_retain_accuracy" and record.setting.stopping is not None:
            # Of the two, only the interval over all edits allows for the run having stopped.
            part = replace(part, low=whole.low, high=whole.high, standard_error=whole.standard_error)
        if n_edits == scores.edits and part.to_json() != whole.to_json():  # there NaN equals itself
            yield f"{name}: all edits are held out, but it is not {whole_name}"
    if scores.get("held_out_success_rate") is not None and success.edits < n_edits - scores.no_ops:
        yield f"held_out_success_rate: over {success.edits} of {n_edits} edits with {scores.no_ops} no-ops"


def _rate(name: str, rate: Estimate, n_edits: int) -> Iterator[str]:
    yield from _estimate(name, rate, n_edits, least=0)
    if (rate.total == 0) != math.isnan(rate.value):
        yield f"{name}: value {rate.value} of {rate.total} answers"
    if rate.hits is None:
        return
    if not 0 <= rate.hits <= rate.total:
        yield f"{name}: {rate.hits} hits of {rate.total}"
    # This holds however edits and questions are weighted.
    for hits, value in ((0, 0.0), (rate.total, 1.0)):
        if rate.total and rate.hits == hits and not _near(rate.value, value):
            yield f"{name}: value {rate.value} with {rate.hits} hits of {rate.total}"


def _estimate(
    name: str, estimate: Estimate, n_edits: int, *, least: float = -math.inf, most: float = 1
) -> Iterator[str]:
    if not 0 <= estimate.edits <= n_edits:
        yield f"{name}: over {estimate.edits} of {n_edits} edits"
    ends = (estimate.low, estimate.value, estimate.high)
    if math.isnan(estimate.value):
        if not (math.isnan(estimate.low) and math.isnan(estimate.high)):
            yield f"{name}: an interval of nothing"
        return
    if not estimate.low <= estimate.value <= estimate.high:
        yield f"{name}: value {estimate.value} is not within [{estimate.low}, {estimate.high}]"
    if not all(least <= end <= most for end in ends):
        found = f"{estimate.value} [{estimate.low}, {estimate.high}]"
        yield f"{name}: {found} is not within [{least:g}, {most:g}]"


def _deterioration(record: RunRecord) -> Iterator[str]:
    scores = record.scores
    loss, before, after = scores.performance_deterioration, scores.accuracy_before, scores.accuracy_after
    elsewhere = scores.performance_deterioration_elsewhere
    names = ("performance_deterioration", "accuracy_before", "accuracy_after")
    if any(scores.get(name) is None for name in names):
        return
    if scores.protocol.scoring == 1:
        yield from _estimate("performance_deterioration", loss, scores.edits)
        yield from _rate("accuracy_after", after, scores.edits)
        if (loss.hits, loss.total) != (after.hits, before.hits):
            wanted = f"{after.hits} after and {before.hits} before"
            yield f"performance_deterioration: hits and total are not {wanted}"
    else:  # an unbiased estimate from a sample is now and then a little above 1 where nearly all is lost
        yield from _estimate("performance_deterioration", loss, scores.edits, most=math.inf)
        yield from _estimate("performance_deterioration_elsewhere", elsewhere, scores.edits, most=math.inf)
        yield from _estimate("accuracy_after", after, scores.edits, most=math.inf)
        if loss.total != after.total:
            yield f"performance_deterioration: total is not {after.total}"
    if not before.edits == after.edits == loss.edits:
        yield "performance_deterioration: over other edits than the accuracies before and after"
        return
    ratio = 1 - after.value / before.value if before.value else math.nan
    if not (_near(loss.value, ratio) or (math.isnan(loss.value) and math.isnan(ratio))):
        yield f"performance_deterioration: value {loss.value}, but 1 - after / before is {ratio}"


def _cost(record: RunRecord) -> Iterator[str]:
    for name, number in asdict(record.cost).items():
        if number < 0 or math.isinf(number):
            yield f"cost.{name}: found {number}"


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_NEAR, abs_tol=_NEAR)
