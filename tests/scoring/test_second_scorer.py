"""The second scorer, written from `docs/scores.md` alone, gives what `scores.json` holds."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import second_scorer
from second_scorer import rows_of, second_scores
from worlds import World

from kebench.leaderboard import contradictions
from kebench.packs.pack import Origin, write_pack
from kebench.running.progress import Silent
from kebench.running.run import run
from kebench.scoring.protocols import Protocol
from kebench.scoring.record import RunRecord
from kebench.scoring.rows import read_base, read_edits
from kebench.scoring.scorer import score

PAGE = Path(__file__).parents[2] / "docs" / "scores.md"
NOT_SCORED = {"protocol", "seed", "resamples", "interval", "time"}


def read(folder: Path, editor: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The edits, the base answers and the setting of a run."""
    lines = (folder / editor / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    base = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    return (
        rows_of(lines),
        base,
        json.loads((folder / "run.json").read_text())["setting"],
    )


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Where two scorers disagree by more than 1e-12."""
    different = []
    assert found.keys() == expected.keys() - NOT_SCORED
    for name, theirs in found.items():
        ours = expected[name]
        if not isinstance(theirs, dict) or name == "failures":
            different += [] if theirs == ours else [name]
            continue
        assert theirs.keys() == ours.keys(), name
        for field, number in theirs.items():
            other = math.nan if ours[field] is None else ours[field]
            agree = math.isnan(number) == math.isnan(other)
            if not agree or abs(number - other) > 1e-12:
                different.append(f"{name}.{field}: {number} and {other}")
    return different


def compared(folder: Path, editor: str) -> list[str]:
    edits, base, setting = read(folder, editor)
    expected = json.loads((folder / editor / "scores.json").read_text())
    return differences(second_scores(edits, base, setting, expected["seed"], expected["resamples"]), expected)


@pytest.fixture(scope="module")
def folder(make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a pack in which facts have several questions, and wordings and relations are held out."""
    place = tmp_path_factory.mktemp("second")
    world = make_world("bart")
    shuffled = random.Random(0)
    test = [
        replace(
            record,
            fact=record.fact.split()[0],
            held_out=index % 3 == 0,
            paraphrases=tuple(replace(p, held_out=shuffled.random() < 0.5) for p in record.paraphrases),
        )
        for index, record in enumerate(world.pack.records("test"))
    ]
    write_pack(
        place / "pack", {**world.pack.splits, "test": test}, name="shared", licence="CC0",
        origin=(Origin("toy", "toy", 24),), split=world.pack.lock.split, seed=0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEBENCH_HOME", str(world.home))
        for protocol in ("strict", "decao2021"):
            names = ("doubles:Oracle", "doubles:Failing")
            settings = world.settings(
                place / protocol,
                *names,
                protocol=protocol,
                pack=str(place / "pack"),
                model=str(world.model),
                retain=4,
            )
            run(settings, progress=Silent())
        settings = world.settings(place / "precise", "doubles:Failing", precision=40)
        run(settings, progress=Silent())
        in_sequence = {"regime": "sequential", "edits": 6, "batch": 2, "ask_after": (2, 4)}
        settings = world.settings(
            place / "sequence",
            "doubles:Oracle",
            pack=str(place / "pack"),
            model=str(world.model),
            **in_sequence,
        )
        run(settings, progress=Silent())
    return place


BOTH = pytest.mark.parametrize("protocol", ["strict", "decao2021"])


@BOTH
def test_the_runs_hold_what_scorers_may_differ_in(protocol: str, folder: Path) -> None:
    edits, base, _ = read(folder / protocol, "Failing")
    facts = Counter(edit["fact"] for edit in edits)
    assert max(facts.values()) > 1
    assert any(edit["failure"] for edit in edits)
    assert 0 < sum(edit["held_out"] for edit in edits) < len(edits)
    assert {p["held_out"] for edit in edits for p in edit["paraphrases"]} == {True, False}
    assert len(edits[0]["sample"]) < len(base)


@BOTH
@pytest.mark.parametrize("editor", ["Oracle", "Failing"])
def test_it_gives_the_scores_on_file(protocol: str, editor: str, folder: Path) -> None:
    assert compared(folder / protocol, editor) == []


def test_it_gives_the_interval_of_a_run_that_stopped(folder: Path) -> None:
    assert compared(folder / "precise", "Failing") == []


@pytest.mark.parametrize("time", ["immediate", "after 2", "after 4", "final"])
def test_it_gives_the_scores_of_a_stream_at_every_time(time: str, folder: Path) -> None:
    edits, base, setting = read(folder / "sequence", "Oracle")
    record = RunRecord.read(folder / "sequence" / "Oracle" / "record.json")
    assert contradictions(record) == []
    asked = [edit for edit in edits if edit.get("time", "final") == time]
    # The first two edits are about one fact, so that after them no other fact is edited.
    assert any(edit.get("also_edited") for edit in asked) == (time != "after 2")
    expected = record.at(time).scores.to_json()
    found = second_scores(asked, base, setting, expected["seed"], expected["resamples"])
    assert differences(found, expected) == []


OWN = (("neighbourhood", "base answer"), ("portability", "target"), ("neighbourhood", "base answer"))


def own_question(
    kind: str, compared_with: str, said: Callable[[str | None, str], str | None]
) -> dict[str, Any]:
    """A question that belongs to one edit, with an answer to it."""
    return {
        "id": f"{kind} question", "kind": kind, "prompt": "?", "fact": "", "tags": [],
        "references": {compared_with: ["Rome", "Riga"]}, "answer": said("Rome", "riga"),
    }  # fmt: skip


def of_every_kind(edits: list[dict[str, Any]], base: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """A run's rows made into no-ops, failures, other spellings, edits without a sample or paraphrases."""
    generator = random.Random(seed)
    said = [q["answer"] for q in base] + ["The Paris.", "paris", "New York", "newyork", "?"]
    kinds: list[dict[str, Any]] = [
        {}, {}, {"failure": "NonFiniteWeights"}, {"answer": None}, {"sample": {}}, {"paraphrases": []},
    ]  # fmt: skip

    def maybe(answer: str | None, target: str) -> str | None:
        return generator.choice([answer, answer, target, f"the {target}.", generator.choice(said)])

    made = []
    for index, edit in enumerate(edits):
        target = generator.choice([edit["target"], edit["target"], f"{edit['prediction']}."])
        paraphrases = [{**p, "answer": maybe(p["answer"], target)} for p in edit["paraphrases"]]
        again = {"text": f"the {edit['prompt']}", "answer": maybe(None, target), "held_out": True}
        made.append(
            {
                **edit,
                "target": target,
                "answer": maybe(edit["answer"], target),
                "forced": generator.choice([True, False, None]),
                "sample": {id_: maybe(answer, target) for id_, answer in edit["sample"].items()},
                "paraphrases": [*paraphrases, again],
                "also_edited": generator.sample([q["fact"] for q in base], index % 3),
                "further": [own_question(*each, maybe) for each in OWN[: (index + seed) % (len(OWN) + 1)]],
                **kinds[(index + seed) % len(kinds)],
            }
        )
    return made


def kebench_scores(
    edits: list[dict[str, Any]], folder: Path, setting: dict[str, Any], rows: Path
) -> dict[str, Any]:
    rows.write_text("".join(f"{json.dumps(edit)}\n" for edit in edits))
    rules = Protocol.from_json(setting["protocol"])
    return score(read_edits(rows), read_base(folder), rules, seed=3, resamples=300).to_json()


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_it_gives_the_scores_of_edits_of_every_kind(
    protocol: str, seed: int, folder: Path, tmp_path: Path
) -> None:
    rows, base, setting = read(folder / protocol, "Oracle")
    edits = of_every_kind(rows, base, seed)
    ours = kebench_scores(edits, folder / protocol, setting, tmp_path / "edits.jsonl")
    assert ours["failures"]
    assert differences(second_scores(edits, base, setting, 3, 300), ours) == []


WRONG: dict[str, tuple[object, str, object]] = {
    "weights": (second_scorer, "weighted", lambda values, *_: second_scorer.mean(values.values())),
    "normalisation": (second_scorer.FORMS, "normalised", second_scorer.plain),
    "x again": (second_scorer, "normal", str),
}


@pytest.mark.parametrize("wrong", [*WRONG, "facts", "no-ops", "also_edited", "further"])
def test_it_would_see_a_rule_that_is_ignored(
    wrong: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, base, setting = read(folder / "strict", "Oracle")
    edits = of_every_kind(rows, base, 0)
    ours = kebench_scores(edits, folder / "strict", setting, tmp_path / "edits.jsonl")
    if wrong == "facts":  # each fact has one edit
        edits = [{**edit, "fact": edit["id"]} for edit in edits]
        base = [{**question, "fact": question["id"]} for question in base]
    elif wrong == "no-ops":
        edits = [{**edit, "prediction": ""} for edit in edits]
    elif wrong == "also_edited":
        edits = [{**edit, wrong: []} for edit in edits]
    elif wrong == "further":
        edits = [{**edit, wrong: [{**each, "answer": None} for each in edit[wrong]]} for edit in edits]
    else:
        place, name, other = WRONG[wrong]
        set_to = monkeypatch.setitem if isinstance(place, dict) else monkeypatch.setattr
        set_to(place, name, other)
    assert differences(second_scores(edits, base, setting, 3, 300), ours)


def test_the_example_of_the_page(folder: Path) -> None:
    block = PAGE.read_text(encoding="utf-8").partition("<!-- test: worked example -->\n```json\n")[2]
    example = json.loads(block.partition("```")[0])
    _, _, setting = read(folder / "strict", "Oracle")
    found = second_scores(example["edits"], example["base"], {**setting, "precision": None}, 0, 20)
    for name, (top, bottom) in example["scores"].items():
        assert found[name]["value"] == pytest.approx(top / bottom, abs=1e-12), name
