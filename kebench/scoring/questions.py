"""The door of the scorer: rows on file become questions and answers, each with its kind and its tags.

Everything that a protocol says about *which* questions count is decided here: which test questions are in
O^x, which paraphrases are in P^x, and which edits are no-ops. A failed edit has no answer to anything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from kebench.scoring import equality
from kebench.scoring.answers import (
    ALREADY_KNOWN,
    FAR,
    HELD_OUT_RELATION,
    HELD_OUT_WORDING,
    NEAR,
    Answer,
    BaseAnswer,
    EditAnswers,
    Kind,
    ParaphraseAnswer,
    Question,
    Reference,
)
from kebench.scoring.normalise import normalise
from kebench.scoring.protocols import STRATA, Equality, Protocol
from kebench.scoring.statistics import NOTHING, Measure

_NO_TAGS: frozenset[str] = frozenset()


class BaseAnswers:
    """The whole test set as the base model answers it, indexed once for all edits."""

    def __init__(self, rows: Sequence[BaseAnswer]) -> None:
        self.rows = {row.id: row for row in rows}
        if len(self.rows) < len(rows):
            raise ValueError("two test questions have the same id")
        self._questions: dict[Kind, dict[str, Question]] = {
            "retain": {row.id: _test_question(row, "retain") for row in rows},
            "test": {row.id: _test_question(row, "test") for row in rows},
        }
        self._sizes = Counter(row.stratum for row in rows)
        self._right: dict[Equality, frozenset[str]] = {}
        self._by_fact: defaultdict[str, set[str]] = defaultdict(set)
        self._by_wording: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            self._by_fact[row.fact].add(row.id)
            self._by_wording[normalise(row.prompt)].add(row.id)

    def left_out(self, edit: EditAnswers, protocol: Protocol) -> Set[str]:
        """The ids of the test questions that are not in O^x of this edit.

        `row`: the edited record. `fact`: also those about its fact or about a fact that is edited in the same
        model, and those worded (normalised) like x or like one of its paraphrases, whatever their fact.
        """
        ids = {edit.id} & self.rows.keys()
        if protocol.left_out_of_retain == "fact":
            for fact in (edit.fact, *edit.also_edited):
                ids |= self._by_fact.get(fact, set())
            for text in (edit.prompt, *(paraphrase.text for paraphrase in edit.paraphrases)):
                ids |= self._by_wording.get(normalise(text), set())
        return ids

    def populations(self, left_out: Set[str] = frozenset()) -> dict[int, int]:
        """Stratum → the number of test questions in it, without those left out."""
        gone = Counter(self.rows[id_].stratum for id_ in left_out)
        return {stratum: n_questions - gone[stratum] for stratum, n_questions in self._sizes.items()}

    def right(self, protocol: Protocol) -> Set[str]:
        """The ids of the test questions to which the base model itself gives a gold answer."""
        rule = protocol.gold_equality
        if rule not in self._right:
            rows = self.rows.values()
            self._right[rule] = frozenset(
                row.id for row in rows if equality.matches(row.answer, row.gold, rule)
            )
        return self._right[rule]

    def accuracy(self, protocol: Protocol, left_out: Set[str] = frozenset()) -> Measure:
        """How often the base model is right on the test set without what is left out; NaN if all is."""
        total = len(self.rows) - len(left_out)
        hits = len(self.right(protocol)) - len(self.right(protocol) & left_out)
        return Measure(hits / total, hits, total) if total else NOTHING

    def question(self, id_: str, kind: Kind) -> Question:
        """The test question of that id, as a question of kind `retain` or `test`."""
        return self._questions[kind][id_]

    def asked(self, edit: EditAnswers) -> Mapping[str, str | None]:
        """The ids of the test questions that the edited model was asked, with its answers.

        A failed edit answers None; if its row has no sample, None to the whole test set.

        Raises:
            ValueError: the edit answers a question that is not in the test set.
        """
        ids = edit.sample or (self.rows if failed(edit) else ())
        unknown = [id_ for id_ in ids if id_ not in self.rows]
        if unknown:
            raise ValueError(f"edit {edit.id}: '{unknown[0]}' is not in the test set")
        return dict.fromkeys(ids) if failed(edit) else edit.sample


def _test_question(row: BaseAnswer, kind: Kind) -> Question:
    return Question(
        id=row.id,
        kind=kind,
        prompt=row.prompt,
        references={"base answer": (row.answer if row.stored is None else row.stored,), "gold": row.gold},
        fact=row.fact,
        tags=frozenset({NEAR if row.stratum < STRATA / 2 else FAR}),
    )


@dataclass(frozen=True)
class Asked:
    """All answers of one edited model that count for the scores of one edit.

    Attributes:
        id: the edited record's.
        fact: its fact key.
        tags: of the edit.
        failure: why the edit failed, or None.
        own: the edited model's own answer to x; None where the edit failed.
        answers: kind of question → the answers.
        left_out: the ids of the test questions that are not in O^x.
        known: which answers are right, by how they are compared; filled when it is first asked for.
    """

    id: str
    fact: str
    tags: frozenset[str]
    failure: str | None
    own: str | None
    answers: Mapping[Kind, Sequence[Answer]]
    left_out: Set[str]
    known: dict[tuple[Kind, Reference, Equality, bool], list[bool]] = field(default_factory=dict)


def asked(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Asked:
    """The questions and answers of one row, by the rules of the protocol.

    Raises:
        ValueError: the edit answers a question that is not in the test set.
    """
    wrong = failed(edit)
    tags = _tags(edit, protocol)
    x = Question(
        id=edit.id,
        kind="edit",
        prompt=edit.prompt,
        references={"target": (edit.target,), "base answer": (edit.prediction,)},
        fact=edit.fact,
        tags=tags,
    )
    left_out = base.left_out(edit, protocol)
    answers: dict[Kind, list[Answer]] = {
        "edit": [Answer(x, edit.id, None if wrong else edit.answer, False if wrong else edit.forced)],
        "paraphrase": [
            Answer(_paraphrase(x, number, each), edit.id, None if wrong else each.answer)
            for number, each in enumerate(paraphrases(edit, protocol))
        ],
        "retain": [],
        "test": [],
    }
    for id_, text in base.asked(edit).items():
        kind: Kind = "test" if id_ in left_out else "retain"
        answers[kind].append(Answer(base.question(id_, kind), edit.id, text))
    for answer in edit.further:
        its_own = answers.setdefault(answer.question.kind, [])
        its_own.append(replace(answer, text=None) if wrong else answer)
    failure = (edit.failure or "no answer") if wrong else None
    return Asked(edit.id, edit.fact, tags, failure, None if wrong else edit.answer, answers, left_out)


def failed(edit: EditAnswers) -> bool:
    """Whether the edit failed: its row names a failure, or has no answer to x."""
    return edit.failure is not None or edit.answer is None


def is_no_op(edit: EditAnswers, protocol: Protocol) -> bool:
    """Whether the edit asks for what the base model says already: a equals y, as success compares."""
    return equality.same(edit.target, edit.prediction, protocol.success_equality)


def paraphrases(edit: EditAnswers, protocol: Protocol) -> tuple[ParaphraseAnswer, ...]:
    """P^x: in `strict` without those that are x again once both are normalised."""
    if protocol.paraphrases_equal_to_prompt == "kept":
        return edit.paraphrases
    x = normalise(edit.prompt)
    return tuple(paraphrase for paraphrase in edit.paraphrases if normalise(paraphrase.text) != x)


def _tags(edit: EditAnswers, protocol: Protocol) -> frozenset[str]:
    known = {ALREADY_KNOWN} if is_no_op(edit, protocol) else _NO_TAGS
    return frozenset(known) | (frozenset({HELD_OUT_RELATION}) if edit.held_out else _NO_TAGS)


def _paraphrase(x: Question, number: int, paraphrase: ParaphraseAnswer) -> Question:
    return Question(
        id=f"{x.id}/paraphrase {number}",
        kind="paraphrase",
        prompt=paraphrase.text,
        references={"target": x.references["target"]},
        fact=x.fact,
        tags=frozenset({HELD_OUT_WORDING}) if paraphrase.held_out else _NO_TAGS,
    )
