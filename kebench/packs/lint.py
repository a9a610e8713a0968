"""Checks the contents of a pack: what would make a score mean something else than it says.

| kind | what is found |
|---|---|
| `duplicate` | two records with the same prompt |
| `crossing` | two splits share a fact, a subject, a text or a near-duplicate text (`near_duplicates.py`) |
| `contradiction` | two records with the same prompt and no common answer; a label pack's record with two |
| `target` | a wrong answer that is a correct one, or that stands in the prompt |
| `paraphrase` | a paraphrase that holds no word; that equals the prompt or another one; that a record with other answers asks too; or that has another number than the prompt |
| `retain` | a question that must keep its answer, and equals the prompt or a paraphrase |
| `balance` | a label that makes up less than a tenth of a split; a test split without records or paraphrases |

Texts are compared normalised (`kebench.scoring.normalise`). A pack is taken for one of labels if each of its
records has one answer, and no more than ten different answers are given, each five times on average.
"""  # noqa: E501 - a table

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from kebench.errors import shown
from kebench.packs.pack import Pack
from kebench.packs.record import Record
from kebench.packs.split import crossings
from kebench.scoring.normalise import normalise

MOST_LABELS = 10
LEAST_SHARE = 0.1
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Finding:
    """Something in a pack that is probably wrong.

    Attributes:
        kind: the name of the check, in the table above.
        place: `split/record id`, or the name of a split.
        problem: what is wrong, in words.
    """

    kind: str
    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


def lint(pack: Pack) -> list[Finding]:
    """Returns what is probably wrong with the records of a pack, sorted by kind."""
    records = {f"{split}/{record.id}": record for split in pack.splits for record in pack.splits[split]}
    labels = labels_of(pack)
    found = [
        *_same_prompts(records, bool(labels)),
        *(Finding("crossing", each.places[0], str(each)) for each in crossings(pack.splits)),
        *_paraphrases(records),
        *_balance(pack, labels),
    ]
    if not labels:
        found += _targets(records)
    return sorted(found, key=lambda each: each.kind)


def labels_of(pack: Pack) -> tuple[str, ...]:
    """Returns the labels of a pack of labels, sorted; none for a pack of questions."""
    answers = [record.answers for records in pack.splits.values() for record in records]
    different = {each[0] for each in answers}
    few = len(different) <= min(MOST_LABELS, len(answers) / 5)
    return tuple(sorted(different)) if few and all(len(each) == 1 for each in answers) else ()


def _same_prompts(records: Mapping[str, Record], labels: bool) -> Iterator[Finding]:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for place, record in records.items():
        places[normalise(record.prompt)].append(place)
    for same in places.values():
        for one, other in pairwise(same):
            prompt = shown(records[other].prompt)
            yield Finding("duplicate", other, f"has the prompt of {one}: {prompt}")
            if _contradict(records[one], records[other]):
                answers = " and ".join(shown(records[place].answers[0]) for place in (one, other))
                yield Finding("contradiction", other, f"{one} has its prompt and other answers: {answers}")


def _contradict(one: Record, other: Record) -> bool:
    """Returns True if the two records have no common answer."""
    return {*map(normalise, one.answers)}.isdisjoint(map(normalise, other.answers))


def _targets(records: Mapping[str, Record]) -> Iterator[Finding]:
    for place, record in records.items():
        words = f" {normalise(record.prompt)} "
        gold = {*map(normalise, record.answers)}
        for target in record.alternatives:
            if normalise(target) in gold:
                yield Finding("target", place, f"the target {shown(target)} is a correct answer")
            elif f" {normalise(target)} " in words:
                yield Finding("target", place, f"the target {shown(target)} stands in the prompt")


def _paraphrases(records: Mapping[str, Record]) -> Iterator[Finding]:
    asked: defaultdict[str, list[str]] = defaultdict(list)
    for place, record in records.items():
        for text in {normalise(record.prompt), *(normalise(each.text) for each in record.paraphrases)}:
            asked[text].append(place)
    for place, record in records.items():
        seen = {normalise(record.prompt): "the prompt"}
        for paraphrase in record.paraphrases:
            text, quoted = normalise(paraphrase.text), shown(paraphrase.text)
            if not any(map(str.isalnum, text)):
                yield Finding("paraphrase", place, f"{quoted} holds no word")
                continue
            if text in seen:
                yield Finding("paraphrase", place, f"{quoted} equals {seen[text]}")
                continue
            seen[text] = "a paraphrase"
            others = (each for each in asked[text] if _contradict(record, records[each]))
            if (other := next(others, None)) is not None:
                yield Finding("paraphrase", place, f"{quoted} is asked by {other}, which has other answers")
            elif _other_numbers(paraphrase.text, record.prompt):
                yield Finding("paraphrase", place, f"{quoted} has another number than {shown(record.prompt)}")
        for question in record.further:
            if question.kind == "neighbourhood" and (text := normalise(question.prompt)) in seen:
                yield Finding(
                    "retain", place, f"{shown(question.prompt)} must change: it equals {seen[text]}"
                )


def _other_numbers(one: str, other: str) -> bool:
    """Returns True if each text has a number that the other lacks; 70 counts as in 1970, 4 as in 04."""
    here, there = {*_NUMBER.findall(one)}, {*_NUMBER.findall(other)}

    def is_new(number: str, numbers: set[str]) -> bool:
        return not any(number.endswith(each) or each.endswith(number) for each in numbers)

    return any(is_new(each, there) for each in here) and any(is_new(each, here) for each in there)


def _balance(pack: Pack, labels: tuple[str, ...]) -> Iterator[Finding]:
    test = pack.splits["test"]
    if not test:
        yield Finding("balance", "test", "found no records, so that a run has nothing to edit")
    elif not any(record.paraphrases for record in test):
        told = f"none of {len(test)} records has a paraphrase, so that none is edited"
        yield Finding("balance", "test", f"{told}, unless the task says paraphrases: all")
    for split, records in pack.splits.items():
        counts = Counter(record.answers[0] for record in records)
        for label in labels:
            if records and counts[label] < LEAST_SHARE * len(records):
                told = f"the label {shown(label)} is that of {counts[label]} of {len(records)} records"
                yield Finding("balance", split, told)
