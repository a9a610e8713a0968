from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import doubles
import pytest
import tiny

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractEditor, Carried, State
from kebench.edits.versions import Version
from kebench.models.model import AbstractModel
from kebench.packs.paraphrases import AS_PUBLISHED
from kebench.running.base_answers import AnsweredParaphrase, AnsweredRecord
from kebench.running.cases import make_cases
from kebench.running.trial import edit_and_ask
from kebench.scoring.answers import ParaphraseAnswer
from kebench.scoring.protocols import DECAO2021, STRICT


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


def flagged() -> AnsweredRecord:
    """A record of a held-out relation; the base agrees on two paraphrases, one of them held out."""
    return record(
        "a",
        held_out=True,
        paraphrases=(
            AnsweredParaphrase("a, say?", "toy", "the oslo."),
            AnsweredParaphrase("Now, a?", "toy", "Oslo", held_out=True),
            AnsweredParaphrase("And a?", "toy", "Riga", held_out=True),
        ),
    )


def test_what_is_held_out_stays_marked() -> None:
    rows = [flagged(), record("b")]
    held_out, plain = sorted(
        make_cases(rows, STRICT, targets="alternative", seed=0).cases, key=lambda case: case.edit.id
    )
    assert (held_out.held_out, held_out.paraphrases) == (True, ("a, say?", "Now, a?"))
    assert held_out.held_out_wordings == {"Now, a?"}  # not the one set aside
    assert (plain.held_out, plain.held_out_wordings) == (False, frozenset())


@dataclass(frozen=True)
class TooBig(AbstractEditor):
    """Every edit runs out of memory."""

    citation: ClassVar[str] = ""

    def edit(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Version], list[Carried]]:
        raise MemoryError


@pytest.mark.parametrize(("editor", "said"), [(doubles.Vandal(), doubles.NONSENSE), (TooBig(), None)])
def test_a_trial_marks_what_is_held_out_failed_edits_too(editor: AbstractEditor, said: str | None) -> None:
    cases = make_cases([flagged(), record("b")], STRICT, targets="alternative", seed=0).cases
    inputs = SimpleNamespace(model=tiny.model("bart"), protocol=STRICT)
    setting = SimpleNamespace(edit_timeout=None)
    plan: Any = SimpleNamespace(inputs=inputs, setting=setting, fail_fast=False, sample=lambda case: ())
    answers = {trial.answers.id: trial.answers for trial in edit_and_ask(editor, {}, plan, cases)}
    assert answers["a"].held_out
    assert answers["a"].paraphrases == (
        ParaphraseAnswer("a, say?", said),
        ParaphraseAnswer("Now, a?", said, held_out=True),
    )
    assert (answers["a"].failure is None) == (said is not None)
    assert not answers["b"].held_out
    assert answers["b"].paraphrases == (ParaphraseAnswer("b, say?", said),)


def test_agreement_is_the_protocols_equality() -> None:
    # decao2021 keeps articles: "the oslo." is not "Oslo".
    found = make_cases([record("a")], DECAO2021, targets="alternative", seed=0)
    assert found.cases == ()
    assert found.set_aside == {"no paraphrase the base model agrees on": 1}


def listed(own: str | None) -> AnsweredRecord:
    """Its authors' list has x, a text twice, and one that this model answers otherwise; one is not in it."""
    texts = (("a?", "Oslo"), ("a, say?", "Riga"), ("a, say?", "Riga"), ("Which a?", "oslo."))
    paraphrases = [AnsweredParaphrase(text, AS_PUBLISHED, said) for text, said in texts]
    return record("a", own=own, paraphrases=(*paraphrases, AnsweredParaphrase("And a?", "rephrases", "Oslo")))


def test_a_list_that_the_packs_authors_filtered_is_taken_whole_with_their_prediction() -> None:
    (case,) = make_cases([listed("Riga")], DECAO2021, targets="alternative", seed=0).cases
    assert case.edit.prediction == "Oslo"  # theirs, whatever this model says
    assert case.paraphrases == ("a?", "a, say?", "a, say?", "Which a?")


def test_without_a_stored_prediction_the_model_filters_all_lists() -> None:
    (case,) = make_cases([listed(None)], DECAO2021, targets="alternative", seed=0).cases
    assert case.paraphrases == ("a?", "Which a?", "And a?")
    (case,) = make_cases([listed(None)], STRICT, targets="alternative", seed=0).cases
    assert case.paraphrases == ("Which a?", "And a?")  # not x again


def test_in_strict_a_paraphrase_counts_once() -> None:
    twice = replace(listed(None), prediction="Riga")
    (case,) = make_cases([twice], STRICT, targets="alternative", seed=0).cases
    assert case.paraphrases == ("a, say?",)


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


def test_a_task_may_ask_all_paraphrases() -> None:
    """Also those that the base model answers otherwise; then no record needs an agreeing one."""
    rows = [record("a"), record("b", paraphrases=(AnsweredParaphrase("And b?", "toy", "Riga"),))]
    found = make_cases(rows, STRICT, targets="alternative", seed=0, paraphrases="all")
    assert {case.edit.id: case.paraphrases for case in found.cases} == {
        "a": ("a, say?", "And a?"),
        "b": ("And b?",),
    }
    assert (found.disagreeing, found.set_aside) == (0, {})
    agreeing = make_cases(rows, STRICT, targets="alternative", seed=0)
    assert [case.edit.id for case in agreeing.cases] == ["a"]
