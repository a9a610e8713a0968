"""A run's result for one editor, with everything needed to know what it may be compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kebench.errors import BadFile
from kebench.files.json import write_json
from kebench.scoring.protocols import SCORING
from kebench.scoring.scorer import Scores
from kebench.scoring.stopping import Stopping

FORMAT = 3
"""Of records that are written. Format 2, of scoring version 1, is read and shown too."""
_SCORING = {2: 1, FORMAT: SCORING}
"""Format → the version of the scoring rules."""


@dataclass(frozen=True)
class Setting:
    """What must agree before two numbers may share a table.

    Attributes:
        task, task_version: the task.
        pack, pack_sha256: where its records come from, and their content.
        model, model_fingerprint: the base model, and a hash of its weights, tokenizer and configuration.
        protocol: what is compared with what, every field of it.
        targets: `alternative` or `gold`.
        regime: how edits follow each other, as `Regime` spells it; `single`: each starts from the base model.
        retain: `sample of N` or `exact`.
        seed: of the choice of edits, and of the intervals.
        edits: how many; at most how many where there is a precision.
        edits_sha256: over these edits: what is asked for, and of which paraphrases.
        test_sha256: over the test set with the base model's answers and the strata.
        precision: edits stop when retain accuracy is known to this, in percentage points; None where their
            number was fixed. Not in the JSON then, so that records older than it stay what they are.
        split: `test`, and then not in the JSON either; or `dev`, on which settings are chosen.
        ask_after: after how many edits of a stream all edits so far were asked about, besides its end. Not in
            the JSON where there are none.
        retain_seed: of the edits' samples. None, and not in the JSON, in records older than it, whose samples
            were drawn with `seed`.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "ask_after", tuple(self.ask_after))  # JSON has lists

    @property
    def key(self) -> str:
        """A short hash of all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def stopping(self) -> Stopping | None:
        """When edits stop, unless after a fixed number."""
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
        return fields


@dataclass(frozen=True)
class Cost:
    """What it took. Not part of the scores, and not the same from one run to the next.

    Attributes:
        edit_seconds_p50, edit_seconds_p95: to make one edit (many are made together; each counts its share).
        answer_seconds_p50, answer_seconds_p95: to ask one edited model everything.
        prepare_seconds: to train the editor, before the first edit; 0 when nothing was to be learnt.
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
    """One row of a leaderboard, complete in itself.

    Attributes:
        format: of this file; one of `_SCORING`.
        setting: what it may be compared with.
        editor: what tables call the editor.
        editor_path: `module:Class`.
        editor_settings: resolved, every field.
        is_control: whether the editor is a control with a known score.
        citation: of the editor's paper.
        scores: the scores.
        base: facts about the base model's answers: accuracy, share of paraphrases set aside, …
        cost: what it took.
        versions: of Python, kebench and the packages that could move a number; git commit where known.
        hardware: what it ran on and in, and how often a batch did not fit since the run began.
        times: the scores at other times than the end of each stream (`kebench.scoring.regimes`), by the
            time's name; not in the JSON where there are none.
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

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        fields = {**self.__dict__}
        fields["setting"] = self.setting.to_json()
        fields["scores"] = self.scores.to_json()
        fields["cost"] = asdict(self.cost)
        fields["times"] = {moment: scores.to_json() for moment, scores in self.times.items()}
        return fields if self.times else {name: fields[name] for name in fields if name != "times"}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> RunRecord:
        """Reads what `to_json` wrote."""
        return RunRecord(
            **{
                **fields,
                "setting": Setting(**fields["setting"]),
                "scores": Scores.from_json(fields["scores"]),
                "cost": Cost(**fields["cost"]),
                "times": {time: Scores.from_json(each) for time, each in fields.get("times", {}).items()},
            }
        )

    def write(self, path: Path) -> None:
        """Writes the record, all or nothing."""
        write_json(self.to_json(), path)

    @staticmethod
    def read(path: Path) -> RunRecord:
        """Reads a record.

        Raises:
            BadFile: it is no record, one of another format, or its scores are not of its format's version.
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
    """Where a run's folder keeps one editor's rows, scores and record."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in editor)
    return run / name.lstrip(".")
