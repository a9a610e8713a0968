"""When two answers count as the same words."""

from __future__ import annotations

import string
import unicodedata
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
_ASCII_PUNCTUATION = frozenset(string.punctuation)
_SPACES_AND_ASCII_PUNCTUATION = str.maketrans("", "", " " + string.punctuation)


_LONGEST_KEPT = 200
"""Answers are short and come again and again. Long prompts do not, and would fill the memory."""


def normalise(text: str) -> str:
    """The text in lower case, without punctuation, articles or extra space, as SQuAD compares answers.

    Punctuation is ASCII's (with its symbols, `$` and `+`) and every character Unicode calls punctuation;
    it is deleted, not replaced, so 'well-known' becomes 'wellknown'. Composed and decomposed accents are
    the same (NFC).

    A step that would leave nothing is not taken: 'A' stays 'a', 'The The' stays 'the the', '?' stays '?'.
    Such answers are then different from each other and from the empty one.
    """
    return _normalised_once(text) if len(text) <= _LONGEST_KEPT else _normalised(text)


def _normalised(text: str) -> str:
    lowered = unicodedata.normalize("NFC", text).lower()
    kept = "".join(character for character in lowered if not _is_punctuation(character))
    # Deleting may bring an accent next to its letter, hence NFC again.
    words = unicodedata.normalize("NFC", kept).split() or unicodedata.normalize("NFC", lowered).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


_normalised_once = lru_cache(maxsize=1 << 14)(_normalised)


def normalise_decao2021(text: str) -> str:
    """The text in lower case, without any space or ASCII punctuation: De Cao et al.'s own rule.

    Articles stay, and 'New York' equals 'newyork'. Text of nothing but punctuation becomes empty.
    """
    return text.lower().translate(_SPACES_AND_ASCII_PUNCTUATION)


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")
