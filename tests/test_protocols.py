from __future__ import annotations

from dataclasses import asdict

import pytest

from kebench.errors import NotFound
from kebench.protocols import DECAO2021, STRICT, protocol


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
    }


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
