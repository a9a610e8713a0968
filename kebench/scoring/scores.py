"""What was scored: the measures of one edit, and the scores of all edits, as they stand on file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

from kebench.scoring.answers import ALREADY_KNOWN, HELD_OUT_RELATION
from kebench.scoring.protocols import Protocol
from kebench.scoring.regimes import FINAL
from kebench.scoring.statistics import NO_ESTIMATE, NOTHING, Estimate, Measure
from kebench.scoring.table import ALL, HELD_OUT_RELATIONS, HELD_OUT_WORDINGS, SEEN_WORDINGS, Key

INTERVAL = "95 %, percentile bootstrap over facts, each with all its edits"
STOPPED_INTERVAL = (
    f"{INTERVAL}, but of retain accuracy a confidence sequence by betting, which holds at whatever number of "
    "edits the run stopped"
)

# One edit --------------------------------------------------------------------------------------------


class _OfEdit:
    """An attribute of `EditScores`: the measure of one row of the table in one slice."""

    def __init__(self, score: str, part: str = ALL.name) -> None:
        self.key = (score, part)

    @overload
    def __get__(self, scores: None, owner: type) -> _OfEdit: ...

    @overload
    def __get__(self, scores: EditScores, owner: type) -> Measure: ...

    def __get__(self, scores: EditScores | None, owner: type) -> Measure | _OfEdit:
        return self if scores is None else scores.measures.get(self.key, NOTHING)


@dataclass(frozen=True)
class EditScores:
    """What one edit scored: a row of the table that paired comparisons are made of.

    Each measure can also be read as an attribute, by the name that it has in `row`.

    Attributes:
        id: the edited record's.
        fact: its fact key.
        failure: why the edit failed, or None.
        tags: of the edit.
        measures: (row of the table of scores, slice) → what the edit scored.
    """

    id: str
    fact: str
    failure: str | None
    tags: frozenset[str]
    measures: Mapping[tuple[str, str], Measure]

    success = _OfEdit("success_rate")
    success_teacher_forced = _OfEdit("success_rate_teacher_forced")
    equivalence_target = _OfEdit("equivalence_target")
    equivalence_own = _OfEdit("equivalence_own")
    equivalence_seen_wordings = _OfEdit("equivalence_target", SEEN_WORDINGS.name)
    equivalence_held_out_wordings = _OfEdit("equivalence_target", HELD_OUT_WORDINGS.name)
    retain = _OfEdit("retain_accuracy")
    retain_gold = _OfEdit("retain_accuracy_gold")
    accuracy_loss = _OfEdit("accuracy_loss")
    accuracy_loss_elsewhere = _OfEdit("accuracy_loss_elsewhere")
    accuracy_elsewhere = _OfEdit("accuracy_elsewhere")

    @property
    def no_op(self) -> bool:
        """Whether the edit asks for what the base model says already."""
        return ALREADY_KNOWN in self.tags

    @property
    def held_out(self) -> bool:
        """Whether no editor is trained on its relation."""
        return HELD_OUT_RELATION in self.tags

    def row(self) -> dict[str, str | bool | float | int | None]:
        """The edit as one flat row: each measure `m` as `m`, `m_hits` and `m_total`.

        `m_hits` is there only where `m` is `m_hits / m_total`: not where questions are weighted.
        """
        row: dict[str, str | bool | float | int | None] = {
            "id": self.id,
            "fact": self.fact,
            "failure": self.failure,
            "no_op": self.no_op,
            "held_out": self.held_out,
        }
        shown = {name: self.measures.get(key, NOTHING) for name, key in _OF_EDIT.items()}
        further = self.measures.keys() - IN_ROW - _PARTS_ALONE
        shown |= {_written(*key): self.measures[key] for key in sorted(further)}
        for name, measure in shown.items():
            row[name] = measure.value
            if measure.hits is not None:
                row[f"{name}_hits"] = measure.hits
            row[f"{name}_total"] = measure.total
        return row


_OF_EDIT = {name: each.key for name, each in vars(EditScores).items() if isinstance(each, _OfEdit)}
"""The measures of an edit's row: name → (row of the table of scores, slice)."""
IN_ROW = frozenset(_OF_EDIT.values())
"""The keys of these, which every edit has, measured or not. Others are there if some edit measured them."""
_PARTS_ALONE = {("no_op_share", ALL.name), ("accuracy_before", ALL.name)}
"""The measures that are not in an edit's row: `no_op` says the first, and the second is the same in all."""

# All edits -------------------------------------------------------------------------------------------

_NAMES = {
    ("equivalence_target", SEEN_WORDINGS.name): "equivalence_seen_wordings",
    ("equivalence_target", HELD_OUT_WORDINGS.name): "equivalence_held_out_wordings",
    ("success_rate", HELD_OUT_RELATIONS.name): "held_out_success_rate",
    ("equivalence_target", HELD_OUT_RELATIONS.name): "held_out_equivalence",
    ("retain_accuracy", HELD_OUT_RELATIONS.name): "held_out_retain_accuracy",
}
"""(score, slice) → its name in JSON. Others are called `score`, or `score (slice)`."""
_KEYS = {name: key for key, name in _NAMES.items()}


def name_of(key: Key) -> str:
    """What a result is called in `scores.json`, whatever its time."""
    return _NAMES.get((key.score, key.slice)) or _written(key.score, key.slice)


def key_of(name: str, time: str = FINAL) -> Key:
    """The key of the result that `scores.json` calls so."""
    if name in _KEYS:
        score, part = _KEYS[name]
        return Key(score, time, part)
    score, bracket, rest = name.rpartition(" (")
    return Key(score, time, rest.removesuffix(")")) if bracket and rest.endswith(")") else Key(name, time)


def _written(score: str, part: str) -> str:
    return score if part == ALL.name else f"{score} ({part})"


class _Named:
    """An attribute of `Scores`: the result of that name; an estimate of nothing where there is none."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, scores: None, owner: type) -> _Named: ...

    @overload
    def __get__(self, scores: Scores, owner: type) -> Estimate: ...

    def __get__(self, scores: Scores | None, owner: type) -> Estimate | _Named:
        return self if scores is None else scores.get(self.name) or NO_ESTIMATE


@dataclass(frozen=True)
class Scores:
    """The scores of one editor on one task and model, under one protocol, at one time.

    `values` holds every score; a key that it lacks was not measured. The scores that kebench has always had
    can be read as attributes too, by their names in JSON; an attribute without a value is `NO_ESTIMATE`.
    `kebench.scoring.table` says how each is made, and docs/scores.md in words.

    Attributes:
        protocol: the rules.
        edits: how many edits were tried.
        failures: why edits failed → how many did. They are wrong in every score.
        no_ops: how many edits ask for what the base model says already.
        edits_with_paraphrases: how many edits equivalence is measured on.
        held_out_edits: how many edits are of relations that no editor is trained on.
        values: (score, time, slice) → the result. A score that this version of kebench does not know is kept.
        seed: of the intervals.
        resamples: of the intervals.
        interval: how the intervals were made.
        time: when the questions were asked: `final`, `immediate` or `after k`.
    """

    protocol: Protocol
    edits: int
    failures: Mapping[str, int]
    no_ops: int
    edits_with_paraphrases: int
    held_out_edits: int
    values: Mapping[Key, Estimate]
    seed: int
    resamples: int
    interval: str = INTERVAL
    time: str = FINAL

    no_op_share = _Named()
    success_rate = _Named()
    success_rate_teacher_forced = _Named()
    inflation_gap = _Named()
    equivalence_target = _Named()
    equivalence_own = _Named()
    equivalence_seen_wordings = _Named()
    equivalence_held_out_wordings = _Named()
    held_out_success_rate = _Named()
    held_out_equivalence = _Named()
    held_out_retain_accuracy = _Named()
    retain_accuracy = _Named()
    retain_accuracy_gold = _Named()
    accuracy_before = _Named()
    accuracy_after = _Named()
    performance_deterioration = _Named()
    performance_deterioration_elsewhere = _Named()

    @property
    def equivalence_accuracy(self) -> Estimate:
        """The equivalence that the protocol calls the headline."""
        if self.protocol.headline_equivalence == "target":
            return self.equivalence_target
        return self.equivalence_own

    @property
    def other_equivalence(self) -> Estimate:
        """The equivalence that is not the headline."""
        if self.protocol.headline_equivalence == "target":
            return self.equivalence_own
        return self.equivalence_target

    @property
    def n_failures(self) -> int:
        """How many edits failed, whatever the reason."""
        return sum(self.failures.values())

    def get(self, name: str) -> Estimate | None:
        """The result that JSON calls so, or None where it was not measured."""
        return self.values.get(key_of(name, self.time))

    def estimates(self) -> dict[str, Estimate]:
        """Name in JSON → the result, of every score that was measured."""
        return {name_of(key): estimate for key, estimate in self.values.items()}

    def further(self) -> dict[str, Estimate]:
        """The results that are no attributes: scores of newer rows of the table, and unknown scores."""
        return {name: each for name, each in self.estimates().items() if name not in ALWAYS}

    def with_estimates(self, **estimates: Estimate | None) -> Scores:
        """The same scores with some results replaced, by their names in JSON; None takes one away."""
        changed = {key_of(name, self.time): estimate for name, estimate in estimates.items()}
        values = {**self.values, **changed}
        return replace(self, values={key: each for key, each in values.items() if each is not None})

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON holds them, NaN as None: the same edits give the same bytes (see `score`).

        `time` is left out when it is `final`.
        """
        fields = {**self.__dict__, **self.estimates(), "protocol": self.protocol.to_json()}
        fields["failures"] = dict(self.failures)
        further = self.further()
        names = [*_FIRST, *further, *_LAST, *(() if self.time == FINAL else ("time",))]
        written = {name: fields[name] for name in names if name in fields}
        return {
            name: each.to_json() if isinstance(each, Estimate) else each for name, each in written.items()
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Scores:
        """Reads what `to_json` wrote, now or in another version: scores may be missing or unknown.

        Raises:
            ValueError, KeyError, TypeError: a field that is not a score is missing, or one is unknown.
        """
        fields = {name: content for name, content in saved.items() if name in _FIELDS}
        found = {name: content for name, content in saved.items() if name not in _FIELDS}
        time = str(saved.get("time", FINAL))
        for name, content in found.items():
            if not isinstance(content, Mapping):
                raise ValueError(f"scores.{name}: found {content!r}, wanted a score")
        values = {key_of(name, time): Estimate.from_json(content) for name, content in found.items()}
        return cls(**{**fields, "protocol": Protocol.from_json(saved["protocol"]), "values": values})


_FIRST = (
    "protocol",
    "edits",
    "failures",
    "no_ops",
    "no_op_share",
    "success_rate",
    "success_rate_teacher_forced",
    "inflation_gap",
    "equivalence_target",
    "equivalence_own",
    "edits_with_paraphrases",
    "equivalence_seen_wordings",
    "equivalence_held_out_wordings",
    "held_out_edits",
    "held_out_success_rate",
    "held_out_equivalence",
    "held_out_retain_accuracy",
    "retain_accuracy",
    "retain_accuracy_gold",
    "accuracy_before",
    "accuracy_after",
    "performance_deterioration",
    "performance_deterioration_elsewhere",
)
"""The order in JSON; scores that came later follow, then `_LAST`."""
_LAST = ("seed", "resamples", "interval")
ALWAYS = frozenset(name for name, each in vars(Scores).items() if isinstance(each, _Named))
"""The scores that every run has in its JSON, measured or not; others are there only where measured."""
_FIELDS = {*(name for name in (*_FIRST, *_LAST) if name not in ALWAYS), "time"}
"""What is not a score in the JSON."""
