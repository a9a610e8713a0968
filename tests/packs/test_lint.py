"""What `lint` finds in a pack: one record with each fault beside one without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kebench.files.shipped import shipped_root
from kebench.packs.lint import labels_of, lint
from kebench.packs.pack import Origin, Pack, read_pack, write_pack
from kebench.packs.record import OwnQuestion, Paraphrase, Record


def para(*texts: str) -> tuple[Paraphrase, ...]:
    return tuple(Paraphrase(text, "me") for text in texts)


SOUND = Record(
    "1", "f1", "Who is the founder of Holm?", ("Ina Holm",), para("Who founded Holm?"),
    alternatives=("Orvil Tarn",), further=(OwnQuestion("neighbourhood", "Who painted barns?"),),
)  # fmt: skip
OTHER = Record("2", "f2", "Where does Port Wessel lie in 1984?", ("Westland",))


def pack_of(folder: Path, *, train: tuple[Record, ...] = (), test: tuple[Record, ...]) -> Pack:
    origin = (Origin("records", "mine.jsonl", 2, split="rows"),)
    splits = {"train": train, "test": test}
    return write_pack(folder, splits, name="mine", licence="CC0", origin=origin, split={}, seed=0)


def told(pack: Pack) -> list[tuple[str, str]]:
    return [(finding.kind, str(finding)) for finding in lint(pack)]


def test_nothing_is_found_in_a_sound_pack(tmp_path: Path) -> None:
    assert told(pack_of(tmp_path, train=(OTHER,), test=(SOUND,))) == []


FAULTS = [
    (replace(OTHER, prompt="who is the founder of Holm", answers=("Ina Holm", "Ina")),
     [("duplicate", "test/2: has the prompt of test/1: 'who is the founder of Holm'")]),
    (replace(OTHER, prompt="Who is a founder of Holm?"),
     [("contradiction", "test/2: test/1 has its prompt and other answers: 'Ina Holm' and 'Westland'"),
      ("duplicate", "test/2: has the prompt of test/1: 'Who is a founder of Holm?'")]),
    (replace(OTHER, alternatives=("the Westland",)),
     [("target", "test/2: the target 'the Westland' is a correct answer")]),
    (replace(OTHER, alternatives=("Port Wessel",)),
     [("target", "test/2: the target 'Port Wessel' stands in the prompt")]),
    (replace(OTHER, paraphrases=para(OTHER.prompt.lower(), "In 1984 where?", "in 1984: where")),
     [("paraphrase", "test/2: 'where does port wessel lie in 1984?' equals the prompt"),
      ("paraphrase", "test/2: 'in 1984: where' equals a paraphrase")]),
    (replace(OTHER, paraphrases=para("Where did Port Wessel lie in 1985?", "And in '84?")),
     [("paraphrase", "test/2: 'Where did Port Wessel lie in 1985?' has another number than "
       "'Where does Port Wessel lie in 1984?'")]),
    (replace(OTHER, paraphrases=para(")")), [("paraphrase", "test/2: ')' holds no word")]),
    (replace(OTHER, paraphrases=para("Who founded Holm?")),
     [("paraphrase", "test/1: 'Who founded Holm?' is asked by test/2, which has other answers"),
      ("paraphrase", "test/2: 'Who founded Holm?' is asked by test/1, which has other answers")]),
    (replace(OTHER, further=(OwnQuestion("neighbourhood", OTHER.prompt.lower()),)),
     [("retain", f"test/2: {OTHER.prompt.lower()!r} must change: it equals the prompt")]),
]  # fmt: skip


@pytest.mark.parametrize(("faulty", "wanted"), FAULTS)
def test_each_fault_is_found(faulty: Record, wanted: list[tuple[str, str]], tmp_path: Path) -> None:
    assert told(pack_of(tmp_path, test=(SOUND, faulty))) == wanted


def test_what_crosses_the_splits_is_found_also_in_published_splits(tmp_path: Path) -> None:
    near = replace(OTHER, prompt="Of Holm the founder was who?", answers=SOUND.answers)
    (kind, found), *more = told(pack_of(tmp_path, train=(near,), test=(SOUND,)))
    assert not more
    assert kind == "crossing"
    assert "near duplicate 'founder holm' is in train/2 and in test/1" in found


def claims(n_true: int, n_false: int) -> tuple[Record, ...]:
    return tuple(
        Record(
            f"{n}", f"f{n}", f"Claim {n * 7} holds.", ("yes" if n < n_true else "no",), para(f"{n * 7} it is")
        )
        for n in range(n_true + n_false)
    )


def test_labels_that_are_rare_are_found(tmp_path: Path) -> None:
    assert told(pack_of(tmp_path / "even", test=claims(10, 10))) == []
    uneven = pack_of(tmp_path / "uneven", test=claims(19, 1))
    assert labels_of(uneven) == ("no", "yes")
    assert told(uneven) == [("balance", "test: the label 'no' is that of 1 of 20 records")]


def test_a_test_split_that_cannot_be_edited_is_found(tmp_path: Path) -> None:
    (found,) = told(pack_of(tmp_path / "a", train=(SOUND,), test=(OTHER,)))
    assert found[1].startswith("test: none of 1 records has a paraphrase")
    (found,) = told(pack_of(tmp_path / "b", train=(SOUND,), test=()))
    assert found == ("balance", "test: found no records, so that a run has nothing to edit")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["zsre", "fever"])
def test_nothing_is_found_in_what_comes_with_kebench(task: str) -> None:
    assert lint(read_pack(shipped_root() / "mini" / task)) == []
