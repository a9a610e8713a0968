from __future__ import annotations

from dataclasses import asdict

import pytest

from kebench.errors import NotFound
from kebench.scoring.protocols import DECAO2021, STRICT, Protocol, protocol


def test_text_protocols_are_the_constants() -> None:
    assert protocol("strict", labels=False) is STRICT
    assert protocol("decao2021", labels=False) is DECAO2021


def test_the_two_differ_in_every_choice_the_literature_differs_in() -> None:
    strict, decao = asdict(STRICT), asdict(DECAO2021)
    assert {name: (strict[name], decao[name]) for name in strict if strict[name] != decao[name]} == {
        "name": ("strict", "decao2021"),
        "headline_equivalence": ("target", "own_answer"),
        "paraphrases_equal_to_prompt": ("left_out", "kept"),
        "left_out_of_retain": ("fact", "row"),
        "success_equality": ("normalised", "decao2021"),
        "equivalence_equality": ("normalised", "raw"),
        "retain_equality": ("normalised", "raw"),
        "beams": (1, 5),
        "left_out_of_success": ("no_ops", "nothing"),
        "base_answers": ("own", "stored"),
        "alternatives": ("kebench", "decao2021"),
        "retain_over": ("all", "editable"),
        "stopping": ("argmax", "answer"),
    }


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", ["strict", "decao2021"])
def test_a_protocol_read_back_is_the_one_written(name: str, labels: bool) -> None:
    rules = protocol(name, labels=labels)
    assert Protocol.from_json(rules.to_json()) == rules


def test_a_decao2021_record_from_before_it_took_what_is_stored_keeps_its_rules_and_shares_no_table() -> None:
    earlier = {name: asdict(DECAO2021)[name] for name in FIRST_FIELDS} | {"left_out_of_success": "no_ops"}
    read = Protocol.from_json(earlier)
    assert (read.scoring, read.base_answers, read.retain_over, read.stopping) == (1, "own", "all", "argmax")
    assert read.to_json() == earlier
    assert read != DECAO2021


FIRST_FIELDS = (
    "name", "headline_equivalence", "paraphrases_equal_to_prompt", "left_out_of_retain", "success_equality",
    "equivalence_equality", "retain_equality", "gold_equality", "beams", "decoding", "averaging",
    "deterioration",
)  # fmt: skip
"""Of the records that were published first."""


@pytest.mark.parametrize("name", ["strict", "decao2021"])
def test_labels_are_compared_as_labels_and_not_decoded(name: str) -> None:
    rules = protocol(name, labels=True)
    assert {
        rules.success_equality,
        rules.equivalence_equality,
        rules.retain_equality,
        rules.gold_equality,
    } == {"label"}
    assert rules.beams == 1
    assert rules.headline_equivalence == protocol(name, labels=False).headline_equivalence


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(NotFound, match="no protocol named 'decao'; did you mean 'decao2021'\\?"):
        protocol("decao", labels=False)
