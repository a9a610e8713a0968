from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kebench.scoring.normalise import normalise, normalise_decao2021


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("an apple a day", "apple day"),
        ("\tNew\n York ", "new york"),
        ("well-known", "wellknown"),
        ("“Guernica”…", "guernica"),  # quotes and an ellipsis that ASCII does not have
        ("1914\u20131918", "19141918"),  # en dash, as with a hyphen
        ("1914-1918", "19141918"),
        ("$5 + 5", "5 5"),
        ("caf\u0065\u0301", "caf\u00e9"),  # decomposed accent
        ("Athens", "athens"),  # 'a' and 'the' only as whole words
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("A", "a"), ("The The", "the the"), ("?!", "?!"), ("+", "+")])
def test_a_step_that_leaves_nothing_is_not_taken(text: str, expected: str) -> None:
    assert normalise(text) == expected


@settings(deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@settings(deadline=None)
@given(st.text())
def test_only_blank_text_normalises_to_nothing(text: str) -> None:
    assert (normalise(text) == "") == (not text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("New York.", "newyork"),
        ("The Beatles", "thebeatles"),  # articles stay
        ("“Guernica”", "“guernica”"),  # punctuation is ASCII's only
        ("?!", ""),
    ],
)
def test_normalise_decao2021(text: str, expected: str) -> None:
    assert normalise_decao2021(text) == expected
