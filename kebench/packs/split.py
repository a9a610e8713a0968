"""Splits records into train, dev and test, so that related records are in the same split.

Two records are linked if they have the same fact key, the same subject, the same normalised text among their
prompts and paraphrases, or near-duplicate texts (`near_duplicates.py`). Each group of linked records goes to
one split. So an editor trained on `train` has seen neither the facts of `test` nor their wordings.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from kebench.errors import BadSetting, did_you_mean
from kebench.packs.components import Components
from kebench.packs.near_duplicates import content_words, near_duplicates
from kebench.packs.record import Record
from kebench.scoring.normalise import normalise

SPLITS = ("train", "dev", "test")
MUCH = 0.05
"""The largest share of records in one group without a warning: a larger group may be due to a wrong link."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crossing:
    """Something that two splits share but should not share.

    Attributes:
        kind: `fact`, `subject`, `text` or `near duplicate`.
        what: the fact key, subject or text; for a near duplicate, its content words.
        places: `split/record id` of one record in each split.
    """

    kind: str
    what: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        return f"the {self.kind} '{self.what}' is in {' and in '.join(self.places)}"


def texts_of(record: Record) -> tuple[str, ...]:
    """Returns the prompt and all paraphrases of a record."""
    return (record.prompt, *(paraphrase.text for paraphrase in record.paraphrases))


def marks(record: Record) -> Iterator[tuple[str, Hashable]]:
    """Yields the marks of a record, as (kind, value). Two records with an equal mark are linked."""
    yield "fact", record.fact
    if record.subject is not None:
        yield "subject", normalise(record.subject)
    for text in texts_of(record):
        yield "text", normalise(text)
        yield "near duplicate", content_words(text)


def linked(records: Iterable[Record]) -> list[list[str]]:
    """Returns the groups of linked records: each as sorted ids, in the order of their smallest ids."""
    components: Components[Hashable] = Components()
    word_sets = set()
    ids = []
    for record in records:
        ids.append(record.id)
        for mark in marks(record):
            components.link(("id", record.id), mark)
            if isinstance(mark[1], frozenset):
                word_sets.add(mark[1])
    for one, other in near_duplicates(word_sets):
        components.link(("near duplicate", one), ("near duplicate", other))
    groups: dict[Hashable, list[str]] = {}
    for id_ in sorted(ids):
        groups.setdefault(components.root(("id", id_)), []).append(id_)
    return list(groups.values())


def split_records(
    records: Sequence[Record], fractions: Mapping[str, float], seed: int = 0
) -> dict[str, tuple[Record, ...]]:
    """Splits records and returns the name of each split → its records, sorted by id.

    Groups of linked records are taken in the order of a hash of their smallest id and the seed. Each goes to
    the split that is furthest below its fraction. So the fractions are right to within the size of a group,
    large and small groups are spread evenly, and the order of records and files does not matter. A group with
    a record that is held out from training goes to `test`, and counts towards the fraction of `test`.

    Args:
        records: the records, with distinct ids.
        fractions: the fraction of records in `train`, `dev` and `test`; a split that is not given is empty.
        seed: another seed makes another split.

    Raises:
        BadSetting: the fractions name another split, are negative, or do not add up to 1.
    """
    check_fractions(fractions)
    groups = linked(records)
    largest = max(map(len, groups), default=0)
    _log.info("%d records in %d groups, the largest of %d", len(records), len(groups), largest)
    if len(records) >= 1000 and largest > MUCH * len(records):
        _log.warning("the largest group of linked records holds %d of %d", largest, len(records))
    groups.sort(key=lambda group: sha256(f"{seed}\n{group[0]}".encode()).digest())
    held_out = {record.id for record in records if record.held_out}
    counts = dict.fromkeys(SPLITS, 0)
    chosen: dict[str, str] = {}
    for group in groups:
        total = sum(counts.values()) + len(group)
        behind = {name: fractions.get(name, 0.0) * total - counts[name] for name in SPLITS}
        split = max((name for name in SPLITS if fractions.get(name, 0.0) > 0), key=behind.__getitem__)
        split = split if held_out.isdisjoint(group) else "test"
        counts[split] += len(group)
        chosen.update(dict.fromkeys(group, split))
    by_id = sorted(records, key=lambda record: record.id)
    return {name: tuple(record for record in by_id if chosen[record.id] == name) for name in SPLITS}


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Checks the fractions of a split.

    Raises:
        BadSetting: as for `split_records`.
    """
    for name, fraction in fractions.items():
        if name not in SPLITS:
            raise BadSetting(f"no split named '{name}'{did_you_mean(name, SPLITS)}")
        if not fraction >= 0:  # also refuses NaN
            raise BadSetting(f"the split {name}: found {fraction}, wanted a fraction of at least 0")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise BadSetting(f"the split's fractions add up to {sum(fractions.values()):g}, wanted 1")


def crossings(splits: Mapping[str, Sequence[Record]]) -> list[Crossing]:
    """Returns everything that two splits share but should not share; an empty list if the pack is correct."""
    seen: dict[tuple[str, Hashable], dict[str, str]] = {}
    for split, records in splits.items():
        for record in records:
            for mark in marks(record):
                seen.setdefault(mark, {}).setdefault(split, f"{split}/{record.id}")
    shared = {mark: places for mark, places in seen.items() if len(places) > 1}
    told = {content_words(str(what)) for kind, what in shared if kind == "text"}
    found = [
        Crossing(kind, _words(what), tuple(places.values()))
        for (kind, what), places in shared.items()
        if not (kind == "near duplicate" and what in told)  # already reported as an equal text
    ]
    for one, other in near_duplicates(what for _, what in seen if isinstance(what, frozenset)):
        here, there = seen["near duplicate", one], seen["near duplicate", other]
        apart = [(here[a], there[b]) for a in here for b in there if a != b]
        if apart:
            found.append(Crossing("near duplicate", _words(one), apart[0]))
    return found


def _words(what: Hashable) -> str:
    return " ".join(sorted(what)) if isinstance(what, frozenset) else str(what)
