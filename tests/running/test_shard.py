"""Shards: a run's rows follow from its shards alone, in whatever order these are computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kebench.baselines.fine_tuning import FineTuning
from worlds import World

from kebench.running.plan import Plan
from kebench.running.progress import Silent
from kebench.running.run import inputs_of, run
from kebench.running.shard import EDITS_AT_ONCE, Shard, rows_of, shards_of
from kebench.scoring.rows import read_trials

QUICK = FineTuning(layers="first", learning_rate=1e-2, max_steps=3)
REGIMES: dict[str, dict[str, Any]] = {
    "single": {},
    "batch": {"regime": "batch", "batch": 3},
    "sequential": {"regime": "sequential", "edits": 4, "batch": 2, "ask_after": (2,)},
}


@pytest.mark.parametrize("regime", REGIMES)
def test_the_rows_of_a_run_are_those_of_its_shards_in_any_order(
    regime: str, classifier: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(classifier.home))
    settings = classifier.settings(tmp_path, limit=12, **REGIMES[regime])
    run(settings, editors={"mine": QUICK}, progress=Silent())
    on_file = [(trial.answers, trial.time) for trial in read_trials(tmp_path / "mine" / "edits.jsonl")]

    plan = Plan.of(inputs_of(settings, Silent()), settings)
    shards = shards_of(plan, QUICK)
    assert len(shards) == {"single": -(-12 // EDITS_AT_ONCE), "batch": 4, "sequential": 3}[regime]
    rows = {}
    for shard in reversed(shards):
        sent = Shard.from_json(json.loads(json.dumps(shard.to_json())))  # as another process gets it
        assert sent.key == shard.key
        made = [trial for _, trials in rows_of(sent, QUICK, {}, plan) for trial in trials]
        rows[shard.first] = [(trial.answers, trial.time) for trial in made]
    assert [row for first in sorted(rows) for row in rows[first]] == on_file


def test_another_key_for_whatever_the_rows_depend_on(
    classifier: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEBENCH_HOME", str(classifier.home))
    settings = classifier.settings(tmp_path, limit=9)
    inputs = inputs_of(settings, Silent())
    plan = Plan.of(inputs, settings)
    others = [
        *shards_of(plan, QUICK),
        shards_of(plan, replace(QUICK, max_steps=4))[0],
        shards_of(Plan.of(inputs, replace(settings, limit=10)), QUICK)[0],
        shards_of(Plan.of(inputs, replace(settings, retain_seed=1)), QUICK)[0],
        shards_of(Plan.of(inputs, replace(settings, limit=9, regime="batch", batch=9)), QUICK)[0],
    ]
    assert len({shard.key for shard in others}) == len(others)
