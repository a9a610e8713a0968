"""Edit requests: which records are edited, to say what, and which of their paraphrases count."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kebench.edits.edit import Edit
from kebench.packs.paraphrases import AS_PUBLISHED
from kebench.scoring.answers import Question, Reference
from kebench.scoring.metrics import same
from kebench.scoring.normalise import normalise
from kebench.scoring.protocols import Protocol, Targets

if TYPE_CHECKING:
    from kebench.running.base_answers import AnsweredParaphrase, AnsweredQuestion, AnsweredRecord
    from kebench.task import ParaphrasesAsked


@dataclass(frozen=True)
class Case:
    """One edit, and what the harness alone knows of it.

    Attributes:
        edit: what the editor is told.
        fact: the record's fact key.
        paraphrases: P^x: those which the base model answers as it answers x (the paper's *filtered*), or all
            where the task asks all; where the protocol takes what the pack's authors stored, those that they
            filtered.
        held_out: whether its relation is kept from every editor's training.
        held_out_wordings: those of the paraphrases whose wording is kept from every editor's training.
        further: the questions that belong to this edit alone: its neighbourhood, its portability.
    """

    edit: Edit
    fact: str
    paraphrases: tuple[str, ...]
    held_out: bool = False
    held_out_wordings: frozenset[str] = frozenset()
    further: tuple[Question, ...] = ()


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
    records: Sequence[AnsweredRecord],
    protocol: Protocol,
    *,
    targets: Targets,
    seed: int,
    paraphrases: ParaphrasesAsked = "agreeing",
) -> Cases:
    """Every record that can be edited: it has a target, and a paraphrase the base model agrees on.

    A split without a single paraphrase (KILT's) is edited all the same; its equivalence is NaN. With
    `paraphrases="all"` no record needs one, and no paraphrase is set aside because the base model answers it
    otherwise.
    """
    need_paraphrase = paraphrases == "agreeing" and any(record.paraphrases for record in records)
    cases: list[Case] = []
    set_aside: Counter[str] = Counter()
    n_paraphrases = disagreeing = 0
    for record in sorted(records, key=lambda each: hashlib.sha256(f"{seed}:{each.id}".encode()).digest()):
        agreeing = _counting(record, protocol, paraphrases)
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
                    _further(record, target, protocol),
                )
            )
    return Cases(tuple(cases), dict(sorted(set_aside.items())), n_paraphrases, disagreeing)


def _counting(
    record: AnsweredRecord, protocol: Protocol, asked: ParaphrasesAsked
) -> list[AnsweredParaphrase]:
    """The paraphrases that count, of which the protocol may leave out those that are x or another again."""
    if asked == "all":
        found = list(record.paraphrases)
    elif record.stored is not None:
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


def _further(record: AnsweredRecord, target: str, protocol: Protocol) -> tuple[Question, ...]:
    """The record's own questions, as they are asked after its edit to this target."""
    places = enumerate(record.further)
    return tuple(
        _question(record, number, each)
        for number, each in places
        if each.question.target is None or same(each.question.target, target, protocol.success_equality)
    )


def _question(record: AnsweredRecord, number: int, asked: AnsweredQuestion) -> Question:
    own = asked.question
    id_ = f"{record.id}/{own.kind} {number}"
    if own.kind == "portability":
        return Question(id_, own.kind, own.prompt, {"target": own.answers}, record.fact)
    gold: dict[Reference, tuple[str, ...]] = {"gold": own.answers} if own.answers else {}
    return Question(id_, own.kind, own.prompt, {"base answer": (asked.answer,), **gold}, fact="")
