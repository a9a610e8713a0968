"""Questions that belong to one edit are read with its record, asked after its edit alone, and scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import worlds

from kebench.edits.editor import load_editor
from kebench.errors import BadFile
from kebench.packs.jsonl import from_lines, to_lines
from kebench.packs.record import OwnQuestion, Record
from kebench.running.run import run
from kebench.scoring.rows import read_edits

LABELS = tiny.LABELS


def with_own(records: list[Record]) -> list[Record]:
    """Each record asks its neighbour's claim, and for each new label a claim that then has that label."""
    return [
        replace(
            record,
            further=(
                OwnQuestion("neighbourhood", records[place - 1].prompt, records[place - 1].answers),
                *(
                    OwnQuestion("portability", f"Indeed, {record.prompt}", (label,), label)
                    for label in LABELS
                ),
            ),
        )
        for place, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    made = worlds.make("bert", tmp_path_factory.mktemp("own"))
    # Replaces the pack that `make` wrote; the model is where the new pack's hash puts it.
    return worlds.with_records(made, with_own(worlds.records("bert")))


@pytest.fixture
def home(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> worlds.World:
    monkeypatch.setenv("KEBENCH_HOME", str(world.home))
    return world


def test_they_are_asked_after_their_edit_and_scored(home: worlds.World, tmp_path: Path) -> None:
    names = ("identity", "fine_tuning_all")
    editors = {name: load_editor(name)[1] for name in names}
    _, records = run(home.settings(tmp_path / "run", *names, limit=12), editors=editors)
    pack = {record.id: record for record in with_own(worlds.records("bert"))}
    for record in records:
        edits = read_edits(tmp_path / "run" / record.editor / "edits.jsonl")
        kept = followed = 0
        for edit in edits:
            neighbour, portable = edit.further  # of the two portability questions, the one of this target
            assert neighbour.question.prompt == pack[edit.id].further[0].prompt
            assert neighbour.question.references["gold"] == pack[edit.id].further[0].answers
            assert portable.question.references == {"target": (edit.target,)}
            kept += neighbour.text in neighbour.question.references["base answer"]
            followed += portable.text == edit.target
        further = record.scores.further()
        assert further["neighbourhood_accuracy"].value == pytest.approx(kept / len(edits))
        assert further["portability_accuracy"].value == pytest.approx(followed / len(edits))
    identity, tuned = (record.scores.further() for record in records)
    assert identity["neighbourhood_accuracy"].value == 1
    assert tuned["portability_accuracy"].value > identity["portability_accuracy"].value


def test_a_pack_keeps_them(tmp_path: Path) -> None:
    records = tuple(with_own(worlds.records("bert")))
    file = tmp_path / "test.jsonl"
    file.write_bytes(to_lines(records))
    assert from_lines(file) == records


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            '{"kind":"locality","prompt":"Who?"}',
            "kind: found 'locality', wanted neighbourhood",
        ),
        ('{"kind":"portability","prompt":"Who?","target":"Rome"}', "answers: found"),
        ('{"answers":["Rome"],"kind":"portability","prompt":"Who?"}', "target"),
        ('{"kind":"neighbourhood","prompt":"Who?","target":"Rome"}', "follows from no target"),
    ],
)
def test_one_that_cannot_be_scored_is_refused(own: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    row = f'{{"answers":["Oslo"],"fact":"f","further":[{own}],"id":"1","prompt":"Where?"}}\n'
    file.write_text(row, encoding="utf-8")
    with pytest.raises(BadFile, match=message):
        from_lines(file)
