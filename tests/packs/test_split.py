"""Facts, near duplicates and the split, against counts by hand and against brute force."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kebench.errors import BadSetting
from kebench.packs.facts import answer_clues, fact_keys
from kebench.packs.near_duplicates import content_words, near_duplicates, overlap_enough
from kebench.packs.paraphrases import distinct
from kebench.packs.record import Paraphrase, Record
from kebench.packs.split import crossings, linked, split_records

FRACTIONS = {"train": 0.5, "dev": 0.1, "test": 0.4}


def record(id_: str, prompt: str, *paraphrases: str, fact: str = "", subject: str | None = None) -> Record:
    kept = tuple(Paraphrase(text, "made up") for text in paraphrases)
    return Record(id_, fact or id_, prompt, ("x",), kept, subject=subject)


def test_fact_key_is_the_smallest_clue_of_a_chain() -> None:
    clues = {"1": {"c", "d"}, "2": {"b", "c"}, "3": {"a", "b"}, "4": {"z"}}
    assert fact_keys({id_: frozenset(each) for id_, each in clues.items()}) == {
        "1": "a",
        "2": "a",
        "3": "a",
        "4": "z",
    }


def test_questions_about_one_subject_with_one_answer_ask_one_fact() -> None:
    born = answer_clues("Where was Ina Holm born?", "Ina Holm", ["Osk", "the Osk"])
    town = answer_clues("Which is Ina Holm's native town?", "ina holm", ["OSK"])
    assert born == town == {"ina holm|osk"}
    assert answer_clues("Where was Ina Holm born?", None, ["Osk"]) == {"?where was ina holm born"}


def test_paraphrases_that_only_look_different_are_dropped() -> None:
    texts = ["The barn is red!", "red is the barn", "Red is a barn.", "the barn's red"]
    kept = distinct("The barn is red.", [Paraphrase(text, "s") for text in texts])
    assert [each.text for each in kept] == ["red is the barn", "the barn's red"]


def test_a_wording_kept_once_is_held_out_if_any_equal_to_it_is() -> None:
    texts = [
        ("Red is the barn.", False),
        ("A red barn", True),
        ("red is the barn", True),
        ("a red barn!", False),
    ]
    kept = distinct("The barn is red.", [Paraphrase(text, "s", held_out) for text, held_out in texts])
    assert kept == (Paraphrase("Red is the barn.", "s", True), Paraphrase("A red barn", "s", True))


NINE = "alder birch cedar dogwood elm fir ginkgo holly ivy"


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Who painted the barn?", "The barn was painted by whom", True),  # the same content words
        ("Tarn painted barns", "Tarn painted houses", False),  # 2 of 4
        ("In what constellation is NGC 1234?", "In what constellation is NGC 1235?", False),
        (NINE, f"{NINE} juniper", True),  # 9 of 10: the limit itself
        (f"{NINE} juniper", f"{NINE} kauri", False),  # 9 of 11
        ("What is it?", "Who was she?", False),  # no content: all words count
    ],
)
def test_near_duplicates_by_hand(one: str, other: str, near: bool) -> None:
    left, right = content_words(one), content_words(other)
    assert overlap_enough(left, right) is near
    assert bool(list(near_duplicates([left, right])) or left == right) is near


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.frozensets(st.integers(0, 13).map(str), min_size=1, max_size=14), max_size=30))
def test_near_duplicates_finds_what_all_pairs_find(sets: list[frozenset[str]]) -> None:
    every = {frozenset(pair) for pair in combinations(set(sets), 2) if overlap_enough(*pair)}
    found = [frozenset(pair) for pair in near_duplicates(sets)]
    assert set(found) == every
    assert len(found) == len(every)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (record("1", "a red barn", fact="f"), record("2", "a blue door", fact="f")),
        (record("1", "a red barn", subject="Osk"), record("2", "a blue door", subject="the osk")),
        (record("1", "a red barn"), record("2", "a blue door", "Red barn!")),
        (record("1", "a red barn", "tall house"), record("2", "a blue door", "house tall")),
    ],
    ids=["fact", "subject", "text", "near duplicate"],
)
def test_records_that_share_something_are_linked_and_a_planted_crossing_is_caught(
    one: Record, other: Record, request: pytest.FixtureRequest
) -> None:
    assert linked([other, one]) == [["1", "2"]]
    kind = request.node.callspec.id
    found = crossings({"train": [one], "test": [other]})
    assert [crossing.kind for crossing in found] == [kind]
    assert found[0].places == ("train/1", "test/2")
    assert str(found[0]).startswith(f"the {kind} '")
    assert crossings({"train": [one, other], "test": []}) == []


def test_a_crossing_between_near_duplicates_that_differ_in_a_word_is_caught() -> None:
    splits = {"train": [record("1", NINE)], "test": [record("2", f"{NINE} juniper")]}
    (crossing,) = crossings(splits)
    assert crossing.kind == "near duplicate"
    assert crossing.places == ("train/1", "test/2")


def test_questions_of_one_template_stay_apart() -> None:
    records = [
        record(str(n), f"What is the constellation of star {n}?", subject=f"star {n}") for n in range(9)
    ]
    assert len(linked(records)) == 9


def town(n: int, group: int) -> Record:
    return record(f"r{n:03}", f"question{n} about town{n}", fact=f"f{group}")


def test_fractions_hold_over_records_and_groups_stay_whole() -> None:
    records = [town(n, n // 3) for n in range(300)]  # 100 groups of three
    splits = split_records(records, FRACTIONS)
    sizes = {name: len(each) for name, each in splits.items()}
    assert sizes["train"] == pytest.approx(150, abs=3)
    assert sizes["dev"] == pytest.approx(30, abs=3)
    assert sizes["test"] == pytest.approx(120, abs=3)
    assert crossings(splits) == []


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(0, 3),
    st.randoms(),
)
def test_the_split_ignores_the_order_and_crosses_nothing(
    groups: list[tuple[int, int]], seed: int, order: random.Random
) -> None:
    records = [replace(town(n, group), held_out=die == 9) for n, (group, die) in enumerate(groups)]
    splits = split_records(records, FRACTIONS, seed)
    shuffled = records.copy()
    order.shuffle(shuffled)
    assert split_records(shuffled, FRACTIONS, seed) == splits
    assert sorted(each.id for part in splits.values() for each in part) == [each.id for each in records]
    assert crossings(splits) == []
    assert not any(each.held_out for name in ("train", "dev") for each in splits[name])


def test_held_out_records_go_to_test_with_all_that_is_linked_to_them() -> None:
    # 100 groups of three; the first record of every tenth group is held out.
    records = [replace(town(n, n // 3), held_out=n % 30 == 0) for n in range(300)]
    splits = split_records(records, FRACTIONS)
    test = {each.id for each in splits["test"]}
    assert all({records[n].id, records[n + 1].id, records[n + 2].id} <= test for n in range(0, 300, 30))
    # They count there: the fractions hold all the same.
    assert {name: len(each) for name, each in splits.items()} == pytest.approx(
        {"train": 150, "dev": 30, "test": 120}, abs=6
    )
    assert crossings(splits) == []


def test_more_held_out_than_test_may_have_is_all_in_test() -> None:
    records = [replace(town(n, n), held_out=n < 60) for n in range(100)]
    splits = split_records(records, FRACTIONS)
    assert {each.id for each in splits["test"]} >= {each.id for each in records[:60]}
    assert splits["train"] != ()


def test_the_seed_matters_and_an_empty_share_gets_nothing() -> None:
    records = [town(n, n) for n in range(100)]
    assert split_records(records, FRACTIONS, 0) != split_records(records, FRACTIONS, 1)
    assert split_records(records, {"test": 1.0}) == {"train": (), "dev": (), "test": tuple(records)}


def test_a_group_that_holds_much_of_the_pack_is_told(caplog: pytest.LogCaptureFixture) -> None:
    split_records([town(n, max(n, 50)) for n in range(1000)], FRACTIONS)  # 51 of 1,000
    assert caplog.messages == ["the largest group of linked records holds 51 of 1000"]
    caplog.clear()
    split_records([town(n, max(n, 49)) for n in range(1000)], FRACTIONS)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("fractions", "text"),
    [
        ({"train": 0.5, "tset": 0.5}, "no split named 'tset'; did you mean 'test'?"),
        ({"train": 1.5, "test": -0.5}, "the split test: found -0.5, wanted a fraction of at least 0"),
        ({"train": float("nan")}, "the split train: found nan, wanted a fraction of at least 0"),
        ({"train": 0.5}, "the split's fractions add up to 0.5, wanted 1"),
    ],
)
def test_fractions_that_are_no_split(fractions: dict[str, float], text: str) -> None:
    with pytest.raises(BadSetting) as error:
        split_records([], fractions)
    assert str(error.value) == text
