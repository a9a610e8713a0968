"""Logits that are not finite are no answer: an edit that has them failed, a base model is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from dense_reference import really_edited
from kebench.baselines.fine_tuning import FineTuning
from random_updates import random_low_rank
from worlds import World

from kebench.edits.versions import Versions
from kebench.errors import BadSetting
from kebench.models.changes import Changes, Dense, LowRank
from kebench.models.layers import editable, linear_maps, map_shape
from kebench.models.model import AbstractModel
from kebench.models.rows import is_finite
from kebench.running.progress import Silent
from kebench.running.run import run

KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])
HUGE = 1e30
"""Finite itself, and in float32 its square is not."""


def overflowing(base: AbstractModel, form: str) -> Changes:
    """A finite change of every editable matrix that makes hidden states overflow."""
    maps, update = linear_maps(base.network), {}
    for name in editable(base.network):
        d_out, d_in = map_shape(maps[name])
        update[name] = LowRank(torch.full((d_out, 1), HUGE), torch.ones(1, d_in))
    if form == "dense":
        return {name: Dense(torch.full_like(base.network.get_parameter(name), HUGE)) for name in update}
    return update


@KINDS
@pytest.mark.parametrize("form", ["low rank", "dense"])
@pytest.mark.parametrize("beams", [1, 3])
def test_an_edit_whose_logits_overflow_fails_and_spoils_no_other(kind: str, form: str, beams: int) -> None:
    base = tiny.model(kind)
    good = random_low_rank(base, 1)
    prompts = tiny.prompts(kind, 6)
    which = [0, 1, 1, 0, 1, 0]
    for ask in ("answer", "prefers", "says", "log_odds"):
        edited = Versions(base, [overflowing(base, form), good])
        assert edited.failures == {}
        targets = base.answer(prompts) if kind == "bert" else ["Rome"] * 6
        options = {"beams": beams} if ask == "answer" else {}
        found = getattr(edited, ask)(prompts, which, targets, **options)
        assert edited.failures == {0: "logits not finite"}, ask
        alone = really_edited(base, good)
        asked = [prompts[row] for row in (1, 2, 4)]
        if ask == "answer":
            assert [found[row] for row in (1, 2, 4)] == alone.answer(asked, beams=beams)


@KINDS
def test_a_base_model_without_logits_is_refused(kind: str) -> None:
    base = tiny.model(kind)
    with torch.no_grad():
        base.network.get_parameter(editable(base.network)[-1])[0, 0] = float("nan")
    prompts = tiny.prompts(kind, 3)
    answers = ["SUPPORTS" if kind == "bert" else "Rome"] * 3
    said = rf"model tiny-{kind}: found logits that are not finite \(for the prompt '.*'\), wanted numbers"
    for ask in (
        lambda: base.answer(prompts),
        lambda: base.answer(prompts, guesses=answers),
        lambda: base.hypotheses(prompts, 2),
        lambda: base.prefers(prompts, answers),
        lambda: base.margins(prompts, answers),
    ):
        with pytest.raises(BadSetting, match=said) as error:
            ask()
        assert "\n" not in str(error.value)


def test_what_is_finite() -> None:
    nan, inf = float("nan"), float("inf")
    rows = [[0.0, nan], [nan, nan], [inf, 0.0], [-inf, -inf], [-inf, 3.0], [-1.0, 1e38]]
    assert is_finite(torch.tensor(rows)).tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize("world", ["classifier", "seq2seq"])
def test_fine_tuning_at_a_rate_that_overflows_has_no_success(
    world: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    there: World = request.getfixturevalue(world)
    editor = FineTuning(learning_rate=1e20, max_steps=1)
    settings = there.settings(tmp_path, "tuned", limit=4)
    (record,) = run(settings, editors={"tuned": editor}, progress=Silent())[1]
    assert record.scores.failures == {"logits not finite": 4}
    assert record.scores.success_rate.value == record.scores.retain_accuracy.value == 0
