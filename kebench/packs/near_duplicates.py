"""Finds near-duplicate texts: pairs whose sets of content words have a Jaccard index of at least 0.9.

A text is represented by the set of its normalised words without function words. So word order, repetition,
"is"/"was" and "the"/"a" do not matter. Two sets A, B are near duplicates if |A ∩ B| / |A ∪ B| is at least
0.9: texts with fewer than ten content words must have equal sets, longer ones may differ in about one word in
ten. Whole words are compared, not letters. A similarity of letters would call two questions of one template,
about NGC 1234 and NGC 1235, duplicates, and would put all questions of the template into one group.

Candidates are found with an inverted index over the rarest words of each set (prefix filtering: two sets that
overlap so much share one of these words). The cost is nearly linear in the number of texts; comparing all
pairs would be quadratic.

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
    """Returns the words of `text` without function words; if no word is left, all words of `text`."""
    words = frozenset(normalise(text).split())
    return words - FUNCTION_WORDS or words


def overlap_enough(one: frozenset[str], other: frozenset[str]) -> bool:
    """Returns True if the Jaccard index is at least 0.9, computed in integers so that the limit is exact."""
    common = len(one & other)
    return 10 * common >= 9 * (len(one) + len(other) - common)


def near_duplicates(
    sets: Iterable[frozenset[str]],
) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Yields every unordered pair of different sets that are near duplicates, once.

    Equal sets are not a pair; the caller finds those itself.
    """
    distinct = set(sets)
    frequency = Counter(word for words in distinct for word in words)
    index: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    # Shorter sets first, so that no set in the index is longer than the one that is compared with it.
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
