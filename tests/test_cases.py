from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kebench.base_answers import AnsweredParaphrase, AnsweredRecord
from kebench.cases import make_cases
from kebench.protocols import DECAO2021, STRICT


def record(name: str, **changes: object) -> AnsweredRecord:
    """Says Oslo, which is wrong; Rome or Bern could be asked for; one paraphrase of two agrees."""
    plain = AnsweredRecord(
        id=name, fact=f"fact {name}", prompt=f"{name}?", gold=("Lima", "Lima, Peru"), prediction="Oslo",
        correct=False, margin=1.0, alternatives=("Rome", "Bern"), target="Rome",
        paraphrases=(
            AnsweredParaphrase(f"{name}, say?", "toy", "the oslo."),
            AnsweredParaphrase(f"And {name}?", "toy", "Riga"),
        ),
        subject=name,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_an_edit_and_the_paraphrases_the_base_agrees_on() -> None:
    (case,) = make_cases([record("a")], STRICT, targets="alternative", seed=0).cases
    assert (case.edit.id, case.edit.prompt, case.edit.prediction, case.edit.target, case.edit.subject) == (
        "a", "a?", "Oslo", "Rome", "a",
    )  # fmt: skip
    assert case.fact == "fact a"
    assert case.paraphrases == ("a, say?",)
    assert case.edit.paraphrases == ()  # the editor is not told


def test_agreement_is_the_protocols_equality() -> None:
    # decao2021 compares as they stand: "the oslo." is not "Oslo".
    found = make_cases([record("a")], DECAO2021, targets="alternative", seed=0)
    assert found.cases == ()
    assert found.set_aside == {"no paraphrase the base model agrees on": 1}


def test_why_records_are_set_aside() -> None:
    rows = [
        record("kept"),
        record("no alternative", alternatives=(), target=None),
        record("unasked", paraphrases=()),
        record("odd", paraphrases=(AnsweredParaphrase("odd!", "toy", "Riga"),)),
        record("odd too", paraphrases=(AnsweredParaphrase("odd!!", "toy", "Riga"),)),
    ]
    found = make_cases(rows, STRICT, targets="alternative", seed=0)
    assert [case.edit.id for case in found.cases] == ["kept"]
    assert found.set_aside == {
        "no alternative answer": 1,
        "no paraphrase": 1,
        "no paraphrase the base model agrees on": 2,
    }
    assert list(found.set_aside) == sorted(found.set_aside)
    assert (found.paraphrases, found.disagreeing) == (6, 4)


def test_a_split_without_paraphrases_is_edited_all_the_same() -> None:
    found = make_cases([record(n, paraphrases=()) for n in "ab"], STRICT, targets="alternative", seed=0)
    assert len(found.cases) == 2
    assert (found.set_aside, found.paraphrases, found.disagreeing) == ({}, 0, 0)


def test_gold_targets_are_corrections() -> None:
    rows = [record("wrong", alternatives=(), target=None), record("right", prediction="Lima", correct=True)]
    found = make_cases(rows, STRICT, targets="gold", seed=0)
    assert [(case.edit.id, case.edit.target) for case in found.cases] == [("wrong", "Lima")]
    assert found.set_aside == {"already right": 1}


def test_the_order_is_the_seeds_and_nothing_elses() -> None:
    rows = [record(str(number)) for number in range(30)]
    shuffled = random.Random(0).sample(rows, k=30)

    def order(records: list[AnsweredRecord], seed: int) -> list[str]:
        return [c.edit.id for c in make_cases(records, STRICT, targets="alternative", seed=seed).cases]

    assert order(rows, 0) == order(shuffled, 0) != [row.id for row in rows]
    assert order(rows, 0) != order(rows, 1)
    assert sorted(order(rows, 1)) == sorted(row.id for row in rows)
    # Fewer records: those that are left keep their order, so a longer run begins as a shorter one.
    assert order(rows[:20], 0) == [name for name in order(rows, 0) if int(name) < 20]


def test_the_order_stays_what_it_was() -> None:
    rows = [record(name) for name in ("a", "b", "c", "d", "e")]
    found = [c.edit.id for c in make_cases(rows, STRICT, targets="alternative", seed=0).cases]
    assert found == ORDER  # sorted by sha256("0:<id>"), worked out with sha256sum


# for i in a b c d e; do echo $(printf 0:$i | sha256sum | cut -c1-8) $i; done | sort
ORDER = ["d", "a", "c", "b", "e"]


@pytest.mark.parametrize("targets", ["alternative", "gold"])
def test_nothing_in_nothing_out(targets: str) -> None:
    found = make_cases([], STRICT, targets=targets, seed=0)  # type: ignore[arg-type]
    assert (found.cases, found.set_aside, found.paraphrases) == ((), {}, 0)
