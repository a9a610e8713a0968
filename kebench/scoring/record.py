"""The result of one editor in one run, with everything needed to know what it may be compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kebench.errors import BadFile, BadSetting, shown
from kebench.files.checked import SHA256, is_sealed, sealed
from kebench.files.json import write_json
from kebench.files.names import unsafe
from kebench.scoring.protocols import SCORING
from kebench.scoring.regimes import FINAL, in_order
from kebench.scoring.scores import Scores
from kebench.scoring.statistics import Estimate
from kebench.scoring.stopping import Stopping
from kebench.scoring.table import Key

FORMAT = 3
"""The format of records that are written. Format 2, of scoring version 1, is read and shown too."""
_SCORING = {2: 1, FORMAT: SCORING}
"""Format → the version of the scoring rules that its scores are of."""


@dataclass(frozen=True)
class Setting:
    """What must be the same before two numbers may share a table.

    Attributes:
        task, task_version: the task.
        pack, pack_sha256: where its records come from, and a hash of their content.
        model, model_fingerprint: the base model, and a hash of its weights, tokenizer and configuration.
        protocol: what is compared with what: every field of the protocol.
        targets: `alternative` or `gold`.
        regime: how edits follow each other in a model, as `Regime` spells it. `single`: every edit starts
            from the base model.
        retain: `sample of N` or `exact`.
        seed: of the choice of edits, and of the intervals.
        edits: the number of edits; the largest number where there is a precision.
        edits_sha256: a hash of these edits: what is asked for, and which paraphrases count.
        test_sha256: a hash of the test set with the base model's answers and the strata.
        precision: the run stops when retain accuracy is known to this, in percentage points; None where the
            number of edits was fixed. Left out of the JSON when None, as in records older than the field.
        split: `test`; or `dev`, on which settings are chosen. Left out of the JSON when it is `test`.
        ask_after: the numbers of edits in a stream after which all edits so far were asked about, besides its
            end. Left out of the JSON when there are none.
        retain_seed: of the edits' samples. None, and left out of the JSON, in records older than the field,
            whose samples were drawn with `seed`.
        edit_timeout: the seconds that one edit could take at most, or it failed. Left out of the JSON when
            there was no limit.
    """

    task: str
    task_version: int
    pack: str
    pack_sha256: str
    model: str
    model_fingerprint: str
    protocol: Mapping[str, Any]
    targets: str
    regime: str
    retain: str
    seed: int
    edits: int
    edits_sha256: str
    test_sha256: str
    precision: float | None = None
    split: str = "test"
    retain_seed: int | None = None
    ask_after: tuple[int, ...] = ()
    edit_timeout: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ask_after", tuple(self.ask_after))  # JSON has lists

    @cached_property
    def key(self) -> str:
        """A short hash of the whole setting."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def stopping(self) -> Stopping | None:
        """The rule that stops the run; None where the number of edits is fixed."""
        return None if self.precision is None else Stopping(self.precision, self.edits)

    def to_json(self) -> dict[str, Any]:
        """The setting as JSON holds it."""
        fields = asdict(self)
        if self.precision is None:
            del fields["precision"]
        if self.split == "test":
            del fields["split"]
        if self.retain_seed is None:
            del fields["retain_seed"]
        if not self.ask_after:
            del fields["ask_after"]
        if self.edit_timeout is None:
            del fields["edit_timeout"]
        return fields


@dataclass(frozen=True)
class Cost:
    """What a run cost. This is not part of the scores, and differs from one run to the next.

    Attributes:
        edit_seconds_p50, edit_seconds_p95: seconds to make one edit, median and 95th percentile. Where many
            edits are made together, each counts its share.
        answer_seconds_p50, answer_seconds_p95: seconds to ask one edited model all its questions.
        prepare_seconds: seconds to train the editor, before the first edit; 0 if it learns nothing.
        peak_memory_bytes: of the process (CPU) or the device.
    """

    edit_seconds_p50: float
    edit_seconds_p95: float
    answer_seconds_p50: float
    answer_seconds_p95: float
    prepare_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class RunRecord:
    """One row of a leaderboard, with all that is needed to understand it.

    Attributes:
        format: of this file; one of `_SCORING`.
        setting: what it may be compared with.
        editor: what tables call the editor.
        editor_path: `module:Class`.
        editor_settings: resolved, every field.
        is_control: whether the editor is a control with a known score.
        citation: of the editor's paper.
        scores: the scores at the final time, when all edits have been made.
        base: facts about the base model's answers: accuracy, share of paraphrases set aside, …
        cost: what the run cost.
        versions: of Python, kebench and the packages that could change a number; the git commit if known.
        hardware: the device, the number type, and how often a batch did not fit since the run began.
        times: the scores at other times than the final one, by time: `immediate`, `after 10`, … Left out of
            the JSON when there are none.
        sha256: the checksum of the JSON without this field, which shows later changes. Empty, and left out of
            the JSON, in records older than the field.
    """

    format: int
    setting: Setting
    editor: str
    editor_path: str
    editor_settings: Mapping[str, Any]
    is_control: bool
    citation: str
    scores: Scores
    base: Mapping[str, Any]
    cost: Cost
    versions: Mapping[str, str]
    hardware: Mapping[str, str | int]
    times: Mapping[str, Scores] = field(default_factory=dict)
    sha256: str = field(default="", compare=False)

    def sealed(self) -> RunRecord:
        """The record with its checksum."""
        return replace(self, sha256=sealed(self.to_json())[SHA256])

    @property
    def results(self) -> dict[Key, Estimate]:
        """(score, time, slice) → the result, at all times; a key that is missing was not measured."""
        return {key: each for time in self.all_times for key, each in self.at(time).scores.values.items()}

    @property
    def all_times(self) -> list[str]:
        """The times at which there are scores, `final` last."""
        return in_order({*self.times, FINAL})

    def at(self, time: str) -> RunRecord:
        """The record with the scores of another time in place of the final ones.

        Raises:
            KeyError: nothing was scored at that time.
        """
        return self if time == FINAL else replace(self, scores=self.times[time], times={}, sha256="")

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        fields = {**self.__dict__}
        fields["setting"] = self.setting.to_json()
        fields["scores"] = self.scores.to_json()
        fields["cost"] = asdict(self.cost)
        fields["times"] = {time: self.times[time].to_json() for time in in_order(self.times)}
        if not self.times:
            del fields["times"]
        if not self.sha256:
            del fields["sha256"]
        return fields

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> RunRecord:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: a field is missing, unknown, or of another type, or was changed
                after the run.
        """
        if SHA256 in fields and not is_sealed(fields):
            raise ValueError("sha256: a field was changed after the run")
        times = {time: Scores.from_json(scores) for time, scores in fields.get("times", {}).items()}
        for time, scores in times.items():
            if time == FINAL or scores.time != time:
                raise ValueError(f"times.{time}: found scores of the time {scores.time}")
        final = Scores.from_json(fields["scores"])
        if final.time != FINAL:
            raise ValueError(f"scores: found scores of the time {final.time}")
        return RunRecord(
            **{
                **fields,
                "setting": Setting(**fields["setting"]),
                "scores": final,
                "cost": Cost(**fields["cost"]),
                "times": times,
            }
        )

    def write(self, path: Path) -> None:
        """Writes the record; an interrupted write leaves the old file."""
        write_json(self.to_json(), path)

    @staticmethod
    def read(path: Path) -> RunRecord:
        """Reads a record.

        Raises:
            BadFile: the file is not a record, has an unknown format, or its scores are of a version that does
                not go with its format.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if (found := fields.get("format")) not in _SCORING:
                raise BadFile(path, f"found format {found}, wanted {' or '.join(map(str, _SCORING))}")
            record = RunRecord.from_json(fields)
            if (version := record.scores.protocol.scoring) != _SCORING[found]:
                raise BadFile(path, f"format {found}: found scoring version {version}")
            return record
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadFile(path, f"not a run record ({error.__class__.__name__}: {error})") from None


def editor_folder(run: Path, editor: str) -> Path:
    """Where a run's folder keeps one editor's rows, scores and record.

    Raises:
        BadSetting: the editor's name cannot be that of a folder: it is empty, too long or only dots.
    """
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in editor).lstrip(".")
    if wanted := unsafe(name, longest=200):
        raise BadSetting(f"editor: found {shown(editor)}, wanted {wanted}")
    return run / name
