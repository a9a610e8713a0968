"""The rows of a run: what was answered to each edit, one line each, and the scores that they give.

Every line carries a checksum of itself, of the run's setting and of the editor. So a line that was altered,
or copied from another run or editor, is noticed.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kebench.errors import BadFile
from kebench.files.checked import SHA256, is_sealed, sealed
from kebench.scoring.answers import BaseAnswer, EditAnswers
from kebench.scoring.protocols import Protocol
from kebench.scoring.questions import BaseAnswers
from kebench.scoring.record import Setting
from kebench.scoring.regimes import FINAL
from kebench.scoring.scorer import Tally
from kebench.scoring.scores import Scores

ROWS = "edits.jsonl"
"""The file in an editor's folder that holds its rows."""
BASE = "base.json"
"""The file in a run's folder that holds the test set, as the base model answers it."""
SHARED = "; the edits of one stream share a model, which the intervals do not allow for"
"""What is to be said of the intervals where edits are not independent of each other."""


@dataclass(frozen=True)
class Trial:
    """What a model answered to one edit's questions, and what it took.

    Attributes:
        answers: to the edit's questions.
        edit_seconds: to make the edit; edits made together share the seconds.
        answer_seconds: to ask its questions.
        time: when they were asked (`kebench.scoring.regimes`).
        details: of a failed edit, the traceback. It goes to the file of failures, not into the row.
    """

    answers: EditAnswers
    edit_seconds: float
    answer_seconds: float
    time: str = FINAL
    details: str = ""


def unversioned(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides the answers of a run: its setting without the version of the scoring rules.

    Samples were drawn with `seed` before there was a `retain_seed`.
    """
    rules = {name: rule for name, rule in setting["protocol"].items() if name != "scoring"}
    retain_seed = setting.get("retain_seed")
    return {
        **setting,
        "protocol": rules,
        "retain_seed": setting["seed"] if retain_seed is None else retain_seed,
    }


def rows_key(setting: Setting, editor: str, settings: Mapping[str, Any]) -> str:
    """Returns a hash of what the rows of one editor in one run belong to.

    Args:
        setting: the run's.
        editor: the path of the editor's class.
        settings: the editor's, as JSON holds them.
    """
    content = [unversioned(setting.to_json()), editor, dict(settings)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def to_line(trial: Trial, key: str, before: Sequence[str] = ()) -> str:
    """Returns a trial as one line of `edits.jsonl`.

    The time is left out when it is the final one. The facts that are in force too are told once: a line says
    how many of the line before stay (`also_edited_kept`), and which come after these (`also_edited`).

    Args:
        trial: what was answered.
        key: `rows_key` of the run and the editor.
        before: `also_edited` of the line before.
    """
    facts = trial.answers.also_edited
    kept = _in_common(before, facts)
    fields = replace(trial.answers, also_edited=facts[kept:]).to_json() | ({_KEPT: kept} if kept else {})
    fields |= {"edit_seconds": trial.edit_seconds, "answer_seconds": trial.answer_seconds}
    moment = {} if trial.time == FINAL else {"time": trial.time}
    return json.dumps(sealed({**fields, **moment}, key), ensure_ascii=True) + "\n"


_KEPT = "also_edited_kept"
"""The field of a line that says how many of the facts of the line before are in force in it too."""


def _in_common(before: Sequence[str], after: Sequence[str]) -> int:
    """How many facts two lists have in common from their beginning."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(before), len(after)))


def read_trials(
    rows: Path, key: str | None = None, *, first: int | None = None, older: bool = False
) -> Iterator[Trial]:
    """Reads the trials on file, one at a time.

    Args:
        rows: the file.
        key: `rows_key` of the run and the editor. None compares no checksum.
        first: how many lines to read; None reads all.
        older: whether the run is older than checksums, so that a line may have none.

    Raises:
        BadFile: a line is not what the run wrote.
    """
    facts: tuple[str, ...] = ()
    for number, line in enumerate(islice(_lines(rows), first), 1):
        try:
            fields = json.loads(line.decode())
            right = key is None or (older and SHA256 not in fields) or is_sealed(fields, key)
            fields.pop(SHA256, None)
            seconds = fields.pop("edit_seconds"), fields.pop("answer_seconds")
            moment = fields.pop("time", FINAL)
            kept, more = fields.pop(_KEPT, 0), fields.get("also_edited", ())
            follows = 0 <= kept <= len(facts)
            facts = (*facts[:kept], *more) if more or kept < len(facts) else facts
            trial = Trial(EditAnswers.from_json({**fields, "also_edited": facts}), *seconds, moment)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BadFile(rows, f"not an edit's answers; {REMEDY}", place=number) from None
        if not right:
            problem = "was altered, or is of another run or editor: its checksum is not right"
            raise BadFile(rows, f"{problem}; {REMEDY}", place=number)
        if not follows:
            raise BadFile(rows, f"does not follow from the line before it; {REMEDY}", place=number)
        yield trial


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as lines:
            yield from lines
    except OSError as error:
        raise BadFile(file, f"cannot be read ({type(error).__name__}); {REMEDY}") from None


def read_edits(rows: Path) -> list[EditAnswers]:
    """Reads the answers of one editor's finished run, without comparing checksums.

    Raises:
        BadFile: a line is not what a run writes.
    """
    return [trial.answers for trial in read_trials(rows)]


REMEDY = "remove the editor's folder to make its edits again"
"""What can be done about a damaged row."""


def read_base(folder: Path) -> list[BaseAnswer]:
    """Reads the test set of a run's folder, as the base model answers it.

    Raises:
        BadFile: the file is not what a run writes.
    """
    file = folder / BASE
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [BaseAnswer(**{**row, "gold": tuple(row["gold"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise BadFile(file, "not a run's base answers; the same run writes them again") from None


def digest_of(values: Iterable[Any]) -> str:
    """Returns the SHA-256 of a list of JSON values, as a setting holds those of its edits and test set."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


class RowsTally:
    """The scores and the seconds of an editor's rows, which are added one by one and not kept.

    Attributes:
        edit_seconds: time → the seconds that each edit took to make, of the rows asked at that time.
        answer_seconds: the seconds that each row took to ask.
    """

    def __init__(self, base: Sequence[BaseAnswer], setting: Setting) -> None:
        self.edit_seconds: dict[str, array[float]] = {}
        self.answer_seconds = array("d")
        self._setting = setting
        self._base = BaseAnswers(base)
        self._protocol = Protocol.from_json(setting.protocol)
        self._tallies: dict[str, Tally] = {}

    def add(self, trial: Trial) -> None:
        """Scores one row.

        Raises:
            ValueError: an edit was asked twice at one time, or a question is not in the test set.
        """
        if trial.time not in self._tallies:
            self._tallies[trial.time] = Tally(self._base, self._protocol)
            self.edit_seconds[trial.time] = array("d")
        self._tallies[trial.time].add(trial.answers)
        self.edit_seconds[trial.time].append(trial.edit_seconds)
        self.answer_seconds.append(trial.answer_seconds)

    def scores(self) -> dict[str, Scores]:
        """Returns time → the scores of what was asked then, in the order of the rows."""
        setting = self._setting
        of_stream = "" if setting.regime == "single" else SHARED
        found = {
            time: tally.scores(seed=setting.seed, stopping=setting.stopping, time=time)
            for time, tally in self._tallies.items()
        }
        return {
            time: replace(scores, interval=f"{scores.interval}{of_stream}") for time, scores in found.items()
        }
