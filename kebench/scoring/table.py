"""The table of scores: one row a score. To add a score, add a row to `TABLE` (and its test).

A row says which questions it is about, what their answers are compared with, when two answers are equal, how
answers are weighed, and over which edits it is averaged. `kebench.scoring.metrics` computes any row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from kebench.scoring.answers import HELD_OUT_RELATION, HELD_OUT_WORDING, Kind, Reference
from kebench.scoring.regimes import FINAL


@dataclass(frozen=True)
class Slice:
    """A part of the questions, chosen by the tags of the edit and of the question.

    Attributes:
        name: of the slice.
        edits: the tags that the edit must have.
        edits_without: the tags that it must not have.
        questions: the tags that the question must have.
        questions_without: the tags that it must not have.
        only_with: another slice; where no edit has a question of that one, this one is not measured.
    """

    name: str
    edits: frozenset[str] = frozenset()
    edits_without: frozenset[str] = frozenset()
    questions: frozenset[str] = frozenset()
    questions_without: frozenset[str] = frozenset()
    only_with: str | None = None

    @property
    def of_questions(self) -> bool:
        """Whether it divides the questions of one edit, and not only the edits."""
        return bool(self.questions or self.questions_without)

    def has_edit(self, tags: frozenset[str]) -> bool:
        """Whether an edit with these tags belongs to the slice."""
        return self.edits <= tags and not self.edits_without & tags

    def has_question(self, tags: frozenset[str]) -> bool:
        """Whether a question with these tags belongs to the slice, if its edit does."""
        return self.questions <= tags and not self.questions_without & tags


_WORDING, _RELATION = frozenset({HELD_OUT_WORDING}), frozenset({HELD_OUT_RELATION})
ALL = Slice("all")
HELD_OUT_WORDINGS = Slice("held-out wordings", edits_without=_RELATION, questions=_WORDING)
SEEN_WORDINGS = Slice(
    "seen wordings", edits_without=_RELATION, questions_without=_WORDING, only_with=HELD_OUT_WORDINGS.name
)
HELD_OUT_RELATIONS = Slice("held-out relations", edits=_RELATION)


class Key(NamedTuple):
    """By what a result is found.

    Attributes:
        score: the name of a row of the table.
        time: when the questions were asked: `immediate`, `after k` or `final`.
        slice: the name of a slice.
    """

    score: str
    time: str = FINAL
    slice: str = ALL.name


@dataclass(frozen=True)
class Score:
    """A row of the table.

    Attributes:
        name: of the score.
        kinds: the kinds of question that it is about.
        compared_with: what an answer is compared with.
        equality: which of the protocol's rules says when two answers are equal.
        of: whose answers are compared. `edited`: the edited model's. `base`: the base model's; those to test
            questions are all on file, so that a score of theirs is exact. `lost`: 1 where the base model's
            answer is right and the edited model's is not, −1 the other way round, 0 otherwise.
        decoding: `free`, or `teacher forcing`: each token of the target is the likeliest when the tokens
            before it are fed.
        weights: `equal`, or `strata`: answers are weighed so as to estimate the mean over all test questions
            from a sample that holds more of some strata (`statistics.stratified_mean`).
        unit: what weighs the same in the average: the mean is taken over the answers of an edit, then over
            edits.
        edits: over which edits: `all`, or `effective`: without no-ops, where the protocol leaves them out of
            success.
        slices: the slices that it is given for; a row without any is only a part of other scores.
    """

    name: str
    kinds: tuple[Kind, ...]
    compared_with: Reference
    equality: Literal["success", "equivalence", "retain", "gold"]
    of: Literal["edited", "base", "lost"] = "edited"
    decoding: Literal["free", "teacher forcing"] = "free"
    weights: Literal["equal", "strata"] = "equal"
    unit: Literal["edit"] = "edit"
    edits: Literal["all", "effective"] = "all"
    slices: tuple[Slice, ...] = (ALL,)

    @property
    def counted(self) -> bool:
        """Whether each edit has one answer, so that the value is `hits / total` and both are told."""
        return self.kinds == ("edit",)


@dataclass(frozen=True)
class Difference:
    """A row of the table: one score of an edit less another one, over the edits that have both.

    Attributes:
        name: of the score.
        first, second: names of rows of the table; the second is taken from the first.
    """

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class LostShare:
    """A row of the table: which share of the base model's accuracy was lost, a ratio of means over edits.

    Attributes:
        name: of the score.
        lost: the row that says how much accuracy an edit lost.
        before: the row that says how accurate the base model is on the same questions.
    """

    name: str
    lost: str
    before: str


Row = Score | Difference | LostShare

TABLE: tuple[Row, ...] = (
    Score("no_op_share", ("edit",), "target", "success", of="base"),
    Score(
        "success_rate", ("edit",), "target", "success", edits="effective", slices=(ALL, HELD_OUT_RELATIONS)
    ),
    Score(
        "success_rate_teacher_forced",
        ("edit",),
        "target",
        "success",
        decoding="teacher forcing",
        edits="effective",
    ),
    Difference("inflation_gap", "success_rate_teacher_forced", "success_rate"),
    Score(
        "equivalence_target",
        ("paraphrase",),
        "target",
        "equivalence",
        slices=(ALL, SEEN_WORDINGS, HELD_OUT_WORDINGS, HELD_OUT_RELATIONS),
    ),
    Score("equivalence_own", ("paraphrase",), "own answer", "equivalence"),
    Score(
        "retain_accuracy",
        ("retain",),
        "base answer",
        "retain",
        weights="strata",
        slices=(ALL, HELD_OUT_RELATIONS),
    ),
    Score("retain_accuracy_gold", ("retain",), "gold", "gold", weights="strata"),
    Score("accuracy_loss", ("retain", "test"), "gold", "gold", of="lost", weights="strata", slices=()),
    Score("accuracy_before", ("retain", "test"), "gold", "gold", of="base", slices=()),
    LostShare("performance_deterioration", "accuracy_loss", "accuracy_before"),
    Score("accuracy_loss_elsewhere", ("retain",), "gold", "gold", of="lost", weights="strata", slices=()),
    Score("accuracy_elsewhere", ("retain",), "gold", "gold", of="base", slices=()),
    LostShare("performance_deterioration_elsewhere", "accuracy_loss_elsewhere", "accuracy_elsewhere"),
    Score("neighbourhood_accuracy", ("neighbourhood",), "base answer", "retain"),
    Score("portability_accuracy", ("portability",), "target", "equivalence"),
)
"""Every score. `accuracy_before` and `accuracy_after` are given too, from the rows that deterioration is made
of (`kebench.scoring.scorer`)."""


def row(name: str) -> Score:
    """The row of a score that is measured on each edit.

    Raises:
        ValueError: the table has no such row.
    """
    for each in TABLE:
        if isinstance(each, Score) and each.name == name:
            return each
    raise ValueError(f"the table of scores has no row {name}")
