"""What a tuning found: the trials of one editor on one pack's dev split, and which settings were chosen.

    tuning.json    written by `kebench tune`, published in `leaderboards/<task>/tuning/`

The file holds the records of all trials (what they have in common is there once), and everything else in it
is computed from them. So a reader can check which settings were chosen, and `kebench leaderboard --check`
does.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from kebench.errors import BadFile
from kebench.scoring.record import RunRecord, Setting
from kebench.scoring.scores import Scores

FORMAT = 1
FILE = "tuning.json"
GRID = "grid.json"
"""The file with the settings to be tried, in a tuning's folder from the start; `FILE` is there at the end."""
CRITERION = (
    "harmonic mean of success, equivalence and retain over edits of the dev split; of success and retain "
    "where no edit has a paraphrase; ties go to the higher retain, then to the earlier trial; a failed trial "
    "has 0"
)
"""The criterion by which the settings of every editor are chosen, in words; `criterion` computes it."""


def criterion(scores: Scores) -> float:
    """The number by which trials are compared, in [0, 1].

        3 / (1 / success + 1 / equivalence + 1 / retain)

    The headline scores of the protocol. Where no edit has a paraphrase, equivalence is left out. 0 where one
    of them is 0 or was not measured.
    """
    rates = [scores.success_rate.value, scores.retain_accuracy.value]
    if scores.edits_with_paraphrases:
        rates.append(scores.equivalence_accuracy.value)
    return 0.0 if any(math.isnan(rate) for rate in rates) else float(harmonic_mean(rates))


@dataclass(frozen=True)
class Trial:
    """One choice of settings, and the record of its run.

    Attributes:
        name: the editor's, with what was changed.
        changes: the settings that were changed from the editor's file.
        settings: all settings, resolved, as a record holds them.
        record: of its run; None where the run failed.
        failure: why there is no record; empty where there is one.
    """

    name: str
    changes: Mapping[str, Any]
    settings: Mapping[str, Any]
    record: RunRecord | None
    failure: str = ""

    @property
    def criterion(self) -> float:
        """See `criterion`; 0 where the trial failed."""
        return 0.0 if self.record is None else criterion(self.record.scores)

    @property
    def rank(self) -> tuple[float, float]:
        """A higher rank is better; of two equal ones, the earlier trial is better."""
        if self.record is None:
            return 0.0, -1.0
        retain = self.record.scores.retain_accuracy.value
        return self.criterion, 0.0 if math.isnan(retain) else retain


@dataclass(frozen=True)
class Tuning:
    """The trials of one editor on one pack.

    Attributes:
        editor: what tables call it.
        editor_path: `module:Class`.
        setting: of every trial; its split is `dev`.
        trials: in the order of the grid.
    """

    editor: str
    editor_path: str
    setting: Setting
    trials: Sequence[Trial]

    @property
    def best_first(self) -> list[Trial]:
        """The trials by rank."""
        return sorted(self.trials, key=lambda trial: trial.rank, reverse=True)  # stable: the earlier first

    @property
    def chosen(self) -> Trial | None:
        """The best trial; None where all of them failed."""
        best = self.best_first[0]
        return None if best.record is None else best

    def to_json(self) -> dict[str, Any]:
        """What `tuning.json` holds."""
        records = {trial.name: trial.record.to_json() for trial in self.trials if trial.record is not None}
        shared = _shared(list(records.values()))
        return {
            "format": FORMAT,
            "editor": self.editor,
            "editor_path": self.editor_path,
            "task": self.setting.task,
            "pack": self.setting.pack,
            "pack_sha256": self.setting.pack_sha256,
            "model": self.setting.model,
            "model_fingerprint": self.setting.model_fingerprint,
            "criterion": CRITERION,
            "budget": len(self.trials),
            "dev_edits": self.setting.edits,
            "retain": self.setting.retain,
            "chosen": None if self.chosen is None else self.chosen.name,
            "trials": [_summary(trial) for trial in self.trials],
            "setting": self.setting.to_json(),
            "in_every_record": shared,
            "records": {
                name: {key: value for key, value in record.items() if key not in (*shared, *_IN_TRIAL)}
                for name, record in records.items()
            },
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Tuning:
        """Reads what `to_json` wrote; the fields that are computed from the records are ignored."""
        trials = []
        for each in found["trials"]:
            own = found["records"].get(each["name"])
            record = None
            if own is not None:
                whole = {
                    **found["in_every_record"],
                    **own,
                    "editor": each["name"],
                    "editor_settings": each["settings"],
                }
                known = {field.name for field in fields(RunRecord)}
                record = RunRecord.from_json({name: whole[name] for name in whole if name in known})
            failure = each.get("failure", "")
            trials.append(Trial(each["name"], each["changes"], each["settings"], record, failure))
        return Tuning(found["editor"], found["editor_path"], Setting(**found["setting"]), trials)

    @staticmethod
    def read(path: Path) -> Tuning:
        """Reads a tuning, and checks that all that it says follows from its records.

        Raises:
            BadFile: it is not a tuning, or something in it does not follow: the choice, a score, a count.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("format") != FORMAT:
                raise BadFile(path, f"found format {found.get('format')}, wanted {FORMAT}")
            tuning = Tuning.from_json(found)
            if not tuning.trials:
                raise BadFile(path, "holds no trial")
            wanted = json.loads(json.dumps(tuning.to_json(), allow_nan=False))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise BadFile(path, f"not a tuning ({error.__class__.__name__}: {error})") from None
        for problem in tuning.problems():
            raise BadFile(path, problem)
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise BadFile(path, f"{name}: {_difference(found.get(name), wanted.get(name))}")
        return tuning

    def problems(self) -> list[str]:
        """What no tuning can hold that `kebench tune` wrote."""
        found = []
        if self.setting.split != "dev":
            found.append(f"setting.split: found {self.setting.split}, wanted dev")
        counts = Counter(trial.name for trial in self.trials)
        found += [f"trials: found '{name}' {n} times" for name, n in counts.items() if n > 1]
        for number, trial in enumerate(self.trials):
            record = trial.record
            if any(trial.settings == earlier.settings for earlier in self.trials[:number]):
                found.append(f"trial {trial.name}: its settings were tried before")
            if any(trial.settings.get(name) != value for name, value in trial.changes.items()):
                found.append(f"trial {trial.name}: its changes are not in its settings")
            if (record is None) != bool(trial.failure):
                found.append(f"trial {trial.name}: wanted a record or the reason why there is none")
            if record is not None and record.setting != self.setting:
                found.append(f"trial {trial.name}: its record is of another setting")
            if record is not None and record.editor_path != self.editor_path:
                found.append(f"trial {trial.name}: its record is of {record.editor_path}")
        return found


_IN_TRIAL = ("editor", "editor_settings")
"""The fields of a record that are in its trial already."""


def _shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields that are the same in all records."""
    if not records:
        return {}
    return {
        key: value
        for key, value in records[0].items()
        if key not in _IN_TRIAL and all(key in record and record[key] == value for record in records)
    }


def _summary(trial: Trial) -> dict[str, Any]:
    """A trial without the rest of its record."""
    summary: dict[str, Any] = {
        "name": trial.name,
        "changes": dict(trial.changes),
        "settings": dict(trial.settings),
        "criterion": trial.criterion,
    }
    if trial.record is None:
        return {**summary, "failure": trial.failure}
    scores = trial.record.scores
    rates = {"success": scores.success_rate, "equivalence": scores.equivalence_accuracy}
    for name, rate in {**rates, "retain": scores.retain_accuracy}.items():
        ends = {"value": rate.value, "low": rate.low, "high": rate.high}
        summary[name] = {end: None if math.isnan(value) else value for end, value in ends.items()}
    summary["edit_seconds"] = trial.record.cost.edit_seconds_p50
    summary["prepare_seconds"] = trial.record.cost.prepare_seconds
    summary["record_sha256"] = record_sha256(trial.record)
    return summary


def record_sha256(record: RunRecord) -> str:
    """The hash of the file that `RunRecord.write` writes."""
    text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(f"{text}\n".encode()).hexdigest()


def _difference(found: Any, wanted: Any) -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in (*wanted, *found):
            if found.get(key) != wanted.get(key):
                return f"{key}: {_difference(found.get(key), wanted.get(key))}"
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if one != other:
                return f"{number}: {_difference(one, other)}"
    return f"found {found}, but by the trials' records it is {wanted}"
