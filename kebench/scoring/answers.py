"""Questions and answers: what the scorer sees. It never sees a model or an editor.

`Question` and `Answer` are what scores are computed from. `BaseAnswer` and `EditAnswers` are the rows that a
run keeps on file, in `base.json` and `edits.jsonl`; `kebench.scoring.questions` turns them into answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

Kind = Literal["edit", "paraphrase", "retain", "neighbourhood", "portability", "test"]
"""What a question is asked for.

`edit`: the prompt x itself. `paraphrase`: a prompt in P^x. `retain`: a test question in O^x. `test`: a test
question that is not in O^x. `neighbourhood`: a question that belongs to this edit, about another fact.
`portability`: a question that belongs to this edit, whose answer follows from the new fact.
"""

Reference = Literal["target", "own answer", "base answer", "gold"]
"""What an answer is compared with: the edit's target a, the edited model's own answer to x, the base model's
answer to the same question, or the question's gold answers."""

HELD_OUT_WORDING = "held-out wording"
"""The tag of a paraphrase whose wording no editor is trained on."""
HELD_OUT_RELATION = "held-out relation"
"""The tag of an edit whose relation no editor is trained on."""
ALREADY_KNOWN = "already known"
"""The tag of an edit that asks for what the base model says already: a *no-op*."""
NEAR, FAR = "near", "far"
"""The tags of test questions: `near` when the base answer is in the half nearest to its decision boundary."""


@dataclass(frozen=True)
class Question:
    """One question, whoever answers it.

    Attributes:
        id: unique among the questions that one model is asked.
        kind: what it is asked for.
        prompt: its text.
        references: what an answer to it may be compared with; an answer is right when it equals any of the
            texts of a reference. `own answer` is never here: only the edited model's answers tell it.
        fact: the key of the fact that it is about.
        tags: the slices that it belongs to, such as `HELD_OUT_WORDING`.
    """

    id: str
    kind: Kind
    prompt: str
    references: Mapping[Reference, tuple[str, ...]]
    fact: str
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version of the model says to one question.

    Attributes:
        question: the question.
        version: the version of the model that answers: the id of the edit that is scored.
        text: the answer, decoded freely; None where the edit failed.
        preferred: whether the model prefers each token of the target when the tokens before it are fed
            (teacher forcing); None where that was not measured.
    """

    question: Question
    version: str
    text: str | None
    preferred: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The answer as a line of `edits.jsonl` holds it, without the version, which the line names."""
        asked = self.question
        return {
            "id": asked.id,
            "kind": asked.kind,
            "prompt": asked.prompt,
            "references": {name: list(texts) for name, texts in asked.references.items()},
            "fact": asked.fact,
            "tags": sorted(asked.tags),
            "answer": self.text,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], version: str) -> Answer:
        """Reads what `to_json` wrote."""
        references = {cast("Reference", name): tuple(texts) for name, texts in fields["references"].items()}
        question = Question(
            id=fields["id"],
            kind=fields["kind"],
            prompt=fields["prompt"],
            references=references,
            fact=fields["fact"],
            tags=frozenset(fields["tags"]),
        )
        return cls(question, version, fields["answer"])


@dataclass(frozen=True)
class BaseAnswer:
    """A row of `base.json`: one question of the test set, and what the base model says to it.

    Attributes:
        id: the record's id.
        fact: its fact key.
        prompt: the question.
        gold: every accepted gold answer.
        answer: the base model's answer.
        stratum: the sampling stratum, 0 = nearest to the decision boundary.
        stored: the answer that retain accuracy compares with in place of `answer`, where the protocol takes
            the one that the pack's authors stored.
    """

    id: str
    fact: str
    prompt: str
    gold: tuple[str, ...]
    answer: str
    stratum: int = 0
    stored: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields; `stored` is left out when it is None."""
        fields = asdict(self)
        return fields if self.stored is not None else {n: fields[n] for n in fields if n != "stored"}


@dataclass(frozen=True)
class ParaphraseAnswer:
    """What the edited model says to one paraphrase.

    Attributes:
        text: the paraphrase.
        answer: None where the edit failed.
        held_out: whether no editor is trained on its wording. This says nothing about its relation.
    """

    text: str
    answer: str | None
    held_out: bool = False


@dataclass(frozen=True)
class EditAnswers:
    """A row of `edits.jsonl`: everything that one edited model was asked about one edit.

    Attributes:
        id: the edited record's id.
        fact: its fact key.
        prompt: x.
        prediction: the base model's answer y to x.
        target: the wanted answer a.
        answer: the edited model's own answer to x, decoded freely; None where the edit failed.
        forced: whether the edited model prefers each token of a when the tokens before it are fed (teacher
            forcing); None where the editor gives answers only.
        paraphrases: the answers over P^x.
        sample: test-set record id → the edited model's answer to it (None where the edit failed).
            Drawn from the whole test set; the scorer leaves out what the protocol leaves out.
        failure: why the edit failed, or None. A failed edit counts as wrong everywhere.
        held_out: whether no editor is trained on its relation.
        also_edited: the fact keys of the edits that are in force in the same model, in rows of a stream also
            this edit's own; empty where there is no other. Questions about them may change too, so they are
            not in O^x where the protocol leaves out the edit's own fact.
        further: the answers to questions that belong to this edit alone: its neighbourhood, its portability.
    """

    id: str
    fact: str
    prompt: str
    prediction: str
    target: str
    answer: str | None
    forced: bool | None = None
    paraphrases: tuple[ParaphraseAnswer, ...] = ()
    sample: Mapping[str, str | None] = field(default_factory=dict)
    failure: str | None = None
    held_out: bool = False
    also_edited: tuple[str, ...] = ()
    further: tuple[Answer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields; `also_edited` and `further` are left out when they are empty."""
        fields = {**self.__dict__, "paraphrases": [asdict(each) for each in self.paraphrases]}
        fields |= {"sample": dict(self.sample), "also_edited": list(self.also_edited)}
        fields["further"] = [each.to_json() for each in self.further]
        return {name: fields[name] for name in fields if fields[name] or name not in _OPTIONAL}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EditAnswers:
        """Reads what `to_json` wrote.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        return cls(
            **{
                **fields,
                "paraphrases": tuple(ParaphraseAnswer(**each) for each in fields["paraphrases"]),
                "also_edited": tuple(fields.get("also_edited", ())),
                "further": tuple(Answer.from_json(each, fields["id"]) for each in fields.get("further", ())),
            }
        )


_OPTIONAL = ("also_edited", "further")
"""The fields that the rows of older runs do not have."""
