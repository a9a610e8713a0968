"""Divides the work of one editor in a run into shards, which do not depend on each other.

A shard is plain data, so it can be computed in any process and in any order. Its rows depend only on the
shard, the model, the answers of the base model and the editor's state.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kebench.edits.editor import AbstractEditor, State, editor_path, settings_of
from kebench.models.numerics import numerics
from kebench.running.plan import Plan
from kebench.running.streams import Position, run_stream
from kebench.running.trial import edit_and_ask
from kebench.scoring.rows import Trial

EDITS_AT_ONCE = 8
"""The number of edits of the regime `single` that are made and asked together."""


@dataclass(frozen=True)
class Shard:
    """A part of an editor's work in a run: a group of edits in the regime `single`, one stream in the others.

    Attributes:
        setting: the key of the run's setting, which has the model, task, pack, protocol, seeds and regime.
        editor: the path of the editor's class.
        settings: the editor's settings, as JSON.
        first: the place of its first edit among the edits of the run.
        edits: the ids of its edits, in order.
    """

    setting: str
    editor: str
    settings: Mapping[str, Any]
    first: int
    edits: tuple[str, ...]

    @property
    def end(self) -> int:
        """The place after its last edit."""
        return self.first + len(self.edits)

    @property
    def key(self) -> str:
        """A hash of all fields. Equal keys mean equal rows."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Returns the shard as JSON."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Shard":
        """Returns the shard from what `to_json` returned."""
        return Shard(**{**fields, "edits": tuple(fields["edits"])})


def shards_of(plan: Plan, editor: AbstractEditor) -> list[Shard]:
    """Returns the shards of one editor in a run, in the order of its rows."""
    size = EDITS_AT_ONCE if plan.regime.name == "single" else plan.regime.edits
    settings = json.loads(json.dumps(settings_of(editor)))
    return [
        Shard(
            setting=plan.setting.key,
            editor=editor_path(editor),
            settings=settings,
            first=first,
            edits=tuple(case.edit.id for case in plan.cases[first : first + size]),
        )
        for first in range(0, len(plan.cases), size)
    ]


def rows_of(
    shard: Shard,
    editor: AbstractEditor,
    state: State,
    plan: Plan,
    position: Position | None = None,
    *,
    check: bool = False,
) -> Iterator[tuple[Position, list[Trial]]]:
    """Makes and asks the edits of a shard, and yields its rows, each time with the position of the run.

    Args:
        shard: a part of this editor's work in this plan.
        editor: the editor.
        state: its state.
        plan: the run.
        position: where an interrupted shard continues; by default at its beginning.
        check: if True, some edits are made again, each alone, and compared, in the regime `single` only.

    Raises:
        BrokenEditor: the editor broke a rule.
    """
    before = shard.first // plan.regime.batch
    position = position or Position(batches=before)
    cases = plan.cases[shard.first : shard.end]
    if plan.regime.name != "single":
        yield from run_stream(editor, state, plan, before, cases, position)
        return
    base = plan.inputs.model
    with numerics(base.device, tf32=base.tf32):
        trials = edit_and_ask(editor, state, plan, cases, check=check)
    yield Position(batches=shard.end, rows=position.rows + len(trials)), trials
