"""Decides which records are edited, what their targets are, and which of their paraphrases are asked."""

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
    """One edit, and what the editor is not told about it.

    Attributes:
        edit: what the editor is told.
        fact: the record's fact key.
        paraphrases: P^x: the paraphrases to which the base model gives the same answer as to x (the paper's
            *filtered* ones); or all, if the task says so; or those that the pack's authors filtered, if the
            protocol uses the answers that they stored.
        held_out: True if no editor is trained on the record's relation.
        held_out_wordings: those of the paraphrases whose wording no editor is trained on.
        further: the questions that belong to this edit alone: its neighbourhood and its portability.
    """

    edit: Edit
    fact: str
    paraphrases: tuple[str, ...]
    held_out: bool = False
    held_out_wordings: frozenset[str] = frozenset()
    further: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Cases:
    """The edits of a split, and how many records and paraphrases were set aside.

    Attributes:
        cases: the edits in their seeded order.
        set_aside: reason → the number of records that are not edited for this reason.
        paraphrases: the number of paraphrases of all records.
        disagreeing: the number of those that are set aside: the base model answers them otherwise than x.
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
    """Returns the edits of all records that can be edited.

    Such a record has a target, and a paraphrase to which the base model gives the same answer as to x. If no
    record of the split has a paraphrase, as in KILT, none is needed, and equivalence is NaN. With
    `paraphrases="all"` no record needs one, and no paraphrase is set aside because of its answer.
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
    """Returns the paraphrases that are asked. The protocol may leave out repeated texts."""
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
    """Returns the record's own questions that are asked after its edit to this target."""
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
