"""Texts that say nearly the same: pairs whose sets of content words overlap by nine tenths or more.

A text is taken as the set of its normalised words without function words, so word order, repetition,
"is"/"was" and "the"/"a" do not count. Two sets A, B are near duplicates when their Jaccard index
|A ∩ B| / |A ∪ B| is at least 0.9: below ten content words they must be equal, and longer texts may differ by
about one word in ten. Whole words are compared, not letters: a letter-based ratio would call questions of
one template about NGC 1234 and NGC 1235 duplicates, and chain a template's questions into one group.

Candidates come from an inverted index over each set's rarest words (prefix filtering: sets that overlap
that much must share one of them), which keeps this near linear where all pairs would be quadratic.

Source of the filter: Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity Search".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from kebench.scoring.normalise import normalise

FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an the this that these those it its he his him she her they their them there",
        "is are was were be been being am do does did has have had having will would can could",
        "of in on at by for from to with as into about and or",
        "what which who whom whose when where why how",
    )
    for word in line.split()
)


def content_words(text: str) -> frozenset[str]:
    """The words of `text` that carry its content; all of its words where none does."""
    words = frozenset(normalise(text).split())
    return words - FUNCTION_WORDS or words


def overlap_enough(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether the Jaccard index is at least 0.9; in integers, for an exact limit."""
    common = len(one & other)
    return 10 * common >= 9 * (len(one) + len(other) - common)


def near_duplicates(
    sets: Iterable[frozenset[str]],
) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Every unordered pair of different sets that overlap enough, once each.

    Equal sets make no pair: the caller sees those by equality.
    """
    distinct = set(sets)
    frequency = Counter(word for words in distinct for word in words)
    index: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    # Shorter first, so that an indexed set is never longer than the one that looks for it.
    for words in sorted(distinct, key=lambda words: (len(words), sorted(words))):
        rarest = sorted(words, key=lambda word: (frequency[word], word))
        shortest = (9 * len(words) + 9) // 10  # a shorter set cannot reach 0.9
        candidates: set[frozenset[str]] = set()
        for word in rarest[: len(words) - shortest + 1]:
            candidates.update(other for other in index[word] if len(other) >= shortest)
            index[word].append(words)
        for other in candidates:
            if overlap_enough(words, other):
                yield other, words
