"""Edit requests: which records are edited, to say what, and which of their paraphrases count."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kebench.edits.edit import Edit
from kebench.packs.paraphrases import AS_PUBLISHED
from kebench.scoring.metrics import same
from kebench.scoring.normalise import normalise
from kebench.scoring.protocols import Protocol, Targets

if TYPE_CHECKING:
    from kebench.running.base_answers import AnsweredParaphrase, AnsweredRecord


@dataclass(frozen=True)
class Case:
    """One edit, and what the harness alone knows of it.

    Attributes:
        edit: what the editor is told.
        fact: the record's fact key.
        paraphrases: P^x: those which the base model answers as it answers x (the paper's *filtered*); where
            the protocol takes what the pack's authors stored, those that they filtered.
        held_out: whether its relation is kept from every editor's training.
        held_out_wordings: those of the paraphrases whose wording is kept from every editor's training.
    """

    edit: Edit
    fact: str
    paraphrases: tuple[str, ...]
    held_out: bool = False
    held_out_wordings: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cases:
    """The edits of a split, and what was set aside on the way.

    Attributes:
        cases: in their seeded order.
        set_aside: why a record is not edited → how many are not.
        paraphrases: of the records considered.
        disagreeing: those of them the base model answers otherwise than x, and which are set aside.
    """

    cases: tuple[Case, ...]
    set_aside: Mapping[str, int]
    paraphrases: int
    disagreeing: int


def make_cases(
    records: Sequence[AnsweredRecord], protocol: Protocol, *, targets: Targets, seed: int
) -> Cases:
    """Every record that can be edited: it has a target, and a paraphrase the base model agrees on.

    A split without a single paraphrase (KILT's) is edited all the same; its equivalence is NaN.
    """
    need_paraphrase = any(record.paraphrases for record in records)
    cases: list[Case] = []
    set_aside: Counter[str] = Counter()
    n_paraphrases = disagreeing = 0
    for record in sorted(records, key=lambda each: hashlib.sha256(f"{seed}:{each.id}".encode()).digest()):
        agreeing = _agreeing(record, protocol)
        n_paraphrases += len(record.paraphrases)
        disagreeing += len(record.paraphrases) - len(agreeing)
        target = _target(record, targets)
        if target is None:
            set_aside["no alternative answer" if targets == "alternative" else "already right"] += 1
        elif need_paraphrase and not agreeing:
            has_any = "no paraphrase the base model agrees on" if record.paraphrases else "no paraphrase"
            set_aside[has_any] += 1
        else:
            edit = Edit(record.id, record.prompt, record.prediction, target, record.subject)
            cases.append(
                Case(
                    edit,
                    record.fact,
                    tuple(p.text for p in agreeing),
                    record.held_out,
                    frozenset(p.text for p in agreeing if p.held_out),
                )
            )
    return Cases(tuple(cases), dict(sorted(set_aside.items())), n_paraphrases, disagreeing)


def _agreeing(record: AnsweredRecord, protocol: Protocol) -> list[AnsweredParaphrase]:
    """The paraphrases that count, of which the protocol may leave out those that are x or another again."""
    if record.stored is not None:
        found = [p for p in record.paraphrases if p.source == AS_PUBLISHED]
    else:
        equality = protocol.success_equality
        found = [p for p in record.paraphrases if same(p.answer, record.prediction, equality)]
    if protocol.paraphrases_equal_to_prompt == "kept":
        return found
    seen = {normalise(record.prompt)}
    kept = []
    for paraphrase in found:
        if (key := normalise(paraphrase.text)) not in seen:
            seen.add(key)
            kept.append(paraphrase)
    return kept


def _target(record: AnsweredRecord, targets: Targets) -> str | None:
    if targets == "alternative":
        return record.target
    return None if record.correct else record.gold[0]
