from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kebench.errors import NotFound
from kebench.metric_modules import NAMES, path_of

# `evaluate` reads its settings when imported, hence a process of its own: offline, with an empty cache.
LOAD_AND_COMPUTE = """
import json, sys
sys.modules["transformers"] = None  # what evaluate imports for models, in seconds; its metrics do without
import evaluate
del sys.modules["transformers"]
from kebench.metric_modules import path_of

calls = json.load(sys.stdin)
loaded = {name: evaluate.load(path_of(name)) for name, _ in calls}
print(json.dumps([loaded[name].compute(**inputs) for name, inputs in calls]))
"""
NO_INTERVAL = {"resamples": 20}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", LOAD_AND_COMPUTE],
        input=json.dumps([(name, inputs | NO_INTERVAL) for name, inputs, _ in CALLS]),
        env={**os.environ, **offline, "HF_HOME": str(tmp_path_factory.mktemp("hf"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    computed: list[dict[str, Any]] = json.loads(finished.stdout)
    return computed


EQUIVALENCE = {
    "predictions": [["Nice", "paris", "Paris"], ["Nice"]],
    "paraphrases": [["the capital of France", "France's capital?", "Of France, the capital?"], ["q"]],
    "prompts": ["Capital of France?", "p"],
    "own_predictions": ["Paris", None],
    "references": ["Nice", "Nice"],
}
CALLS: list[tuple[str, dict[str, Any], tuple[float, int | None, int, int]]] = [
    # one taken, one failed; the third is a no-op and not asked
    (
        "success_rate",
        {
            "predictions": ["nice.", None, "Rome"],
            "references": ["Nice", "Basel", "rome"],
            "base_predictions": ["Paris", "Bern", "Rome"],
        },
        (1 / 2, 1, 2, 2),
    ),
    # the first edit's other two paraphrases are not the target; the second edit failed
    ("equivalence_accuracy", EQUIVALENCE, (0.0, None, 3, 2)),
    # own answer Paris, as it stands, in one of three; the second edit failed
    ("equivalence_accuracy", EQUIVALENCE | {"protocol": "decao2021"}, (1 / 6, None, 4, 2)),
    # 1 of 2, 1 of 1; the third was asked nothing
    (
        "retain_accuracy",
        {"predictions": [["oslo", None], ["Riga"], []], "references": [["Oslo", "Rome"], ["Riga"], []]},
        (3 / 4, None, 3, 2),
    ),
    # before (2/2 + 1/2) / 2 = 3/4, after (1/2 + 1/2) / 2 = 1/2
    (
        "performance_deterioration",
        {
            "predictions": [["Oslo", "x"], ["Riga", "x"]],
            "base_predictions": [["Kristiania", "Rome"], ["Riga", "x"]],
            "references": [[["Oslo", "Kristiania"], ["Rome"]], [["Riga"], ["Bern"]]],
        },
        (1 / 3, None, 4, 2),
    ),
    ("retain_accuracy", {"predictions": [["a"]], "references": [["A"]], "labels": True}, (0.0, None, 1, 1)),
]


@pytest.mark.parametrize("call", range(len(CALLS)))
def test_modules_load_offline_by_path_and_compute(results: list[dict[str, Any]], call: int) -> None:
    name, _, (value, hits, total, edits) = CALLS[call]
    result = results[call]
    assert result[name] == pytest.approx(value)
    assert (result.get("hits"), result["total"], result["edits"]) == (hits, total, edits)
    assert result["low"] <= result[name] <= result["high"]


def test_every_module_is_tried() -> None:
    assert {name for name, _, _ in CALLS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_paths_lead_to_modules_without_siblings(name: str) -> None:
    path = Path(path_of(name))
    assert path.is_file()
    assert "\nfrom ." not in path.read_text(encoding="utf-8")


def test_an_unknown_module_gets_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'retain_accuracy'\\?"):
        path_of("retain_acuracy")
