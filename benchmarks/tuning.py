"""(e) Measures fine-tuning of eight edits in one call, compared with one call for each edit."""

from collections.abc import Sequence
from typing import Literal

from kebench.baselines.fine_tuning import FineTuning

from benchmarks.floor import forward_operations
from benchmarks.lines import Line
from benchmarks.session import Contests, Session
from benchmarks.settings import Settings
from benchmarks.timing import Contest, timed
from benchmarks.worlds import World, base_size, mini
from kebench.edits.edit import Edit
from kebench.edits.editor import Carried
from kebench.models.layers import editable, linear_maps
from kebench.models.model import AbstractModel

EDITS = 8
BATCHED, SINGLE = "8 in one call", "8 calls"
NEVER = 1e-12
"""A learning rate with which no edit succeeds, so that each edit takes all its steps."""


def contest(world: World, layers: Literal["all", "first"], settings: Settings) -> Contest:
    """Compares both ways on the same edits."""
    model = world.model
    editor = FineTuning(layers=layers, learning_rate=NEVER, max_steps=settings.tuning_steps)

    edits = world.edits(EDITS)

    def batched() -> float:
        return timed(settings.place, lambda: _tune(editor, model, edits))

    def single() -> float:
        return timed(settings.place, lambda: [_tune(editor, model, [edit]) for edit in edits])

    # Each step has a forward pass and a backward pass to the activations and the tuned weights; at the end
    # there is one more forward pass.
    tuned = sum(model.network.get_parameter(name).numel() for name in editable(model.network, layers))
    every = sum(model.network.get_parameter(name).numel() for name in linear_maps(model.network))
    passes = settings.tuning_steps * (2 + tuned / every) + 1
    operations = passes * forward_operations(model, [e.prompt for e in edits], [e.target for e in edits])
    return Contest({BATCHED: batched, SINGLE: single}, operations, {BATCHED: EDITS, SINGLE: EDITS})


def _tune(editor: FineTuning, model: AbstractModel, edits: Sequence[Edit]) -> object:
    """Fine-tunes for each edit independently."""
    return editor.update({}, model, [(edit,) for edit in edits], [Carried()] * len(edits))


CONTESTS: Contests = {
    "e BERT-base, first layer": lambda s: contest(base_size("fever", s.fever_rows, s), "first", s),
    "e BERT-base, all layers": lambda s: contest(base_size("fever", s.fever_rows, s), "all", s),
    "e bert-mini, all layers": lambda s: contest(mini("fever", s), "all", s),
}


def lines(session: Session) -> list[Line]:
    """Returns one line for each model and choice of layers."""
    what, note = (
        f": fine-tuned edits/s, {BATCHED} / {SINGLE}",
        f"{session.settings.tuning_steps} steps an edit",
    )
    return [
        session.line(name, what, (SINGLE, BATCHED), takes=BATCHED, unit="edit", note=note)
        for name in CONTESTS
    ]
