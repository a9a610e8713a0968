"""What one edit scores, as pure functions of answers.

Each docstring says what the answer is compared with, over which inputs, averaged how, and what counts as
equal: the literature differs on all four. A failed edit is wrong everywhere, and None equals nothing, not
even None. Averages over edits are the scorer's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence, Set

from kebench.scoring.answers import BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.scoring.normalise import normalise, normalise_decao2021
from kebench.scoring.protocols import Equality, Protocol
from kebench.scoring.statistics import NOTHING, Measure, stratified_mean


class BaseAnswers:
    """The whole test set as the base model answers it, indexed once for all edits."""

    def __init__(self, rows: Sequence[BaseAnswer]) -> None:
        self.rows = {row.id: row for row in rows}
        if len(self.rows) < len(rows):
            raise ValueError("two test questions have the same id")
        self._sizes = Counter(row.stratum for row in rows)
        self._right: dict[Equality, frozenset[str]] = {}
        self._by_fact: defaultdict[str, set[str]] = defaultdict(set)
        self._by_wording: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            self._by_fact[row.fact].add(row.id)
            self._by_wording[normalise(row.prompt)].add(row.id)

    def left_out(self, edit: EditAnswers, protocol: Protocol) -> Set[str]:
        """The ids of the test questions that are not in O^x of this edit.

        `row`: the edited record. `fact`: also those about its fact, and those worded (normalised) like x or
        like one of its paraphrases, whatever fact they are filed under; and, where the model holds other
        edits, those about their facts.
        """
        ids = {edit.id} & self.rows.keys()
        if protocol.left_out_of_retain == "fact":
            for fact in (edit.fact, *edit.also_edited):
                ids |= self._by_fact.get(fact, set())
            for text in (edit.prompt, *(paraphrase.text for paraphrase in edit.paraphrases)):
                ids |= self._by_wording.get(normalise(text), set())
        return ids

    def populations(self, left_out: Set[str] = frozenset()) -> dict[int, int]:
        """Stratum → how many test questions it holds, less those left out."""
        gone = Counter(self.rows[id_].stratum for id_ in left_out)
        return {stratum: n_questions - gone[stratum] for stratum, n_questions in self._sizes.items()}

    def right(self, protocol: Protocol) -> Set[str]:
        """The ids of the test questions to which the base model gives a gold answer."""
        equality = protocol.gold_equality
        if equality not in self._right:
            rows = self.rows.values()
            self._right[equality] = frozenset(row.id for row in rows if is_gold(row, row.answer, protocol))
        return self._right[equality]

    def accuracy(self, protocol: Protocol, left_out: Set[str] = frozenset()) -> Measure:
        """How often the base model is right on the test set, less what is left out; NaN if all is."""
        total = len(self.rows) - len(left_out)
        hits = len(self.right(protocol)) - len(self.right(protocol) & left_out)
        return Measure(hits / total, hits, total) if total else NOTHING

    def asked(self, edit: EditAnswers) -> list[tuple[BaseAnswer, str | None]]:
        """The test questions the edited model was asked, with its answers.

        A failed edit answers None; where it brought no sample along, to the whole test set.

        Raises:
            ValueError: the edit answers a question that is not in the test set.
        """
        ids = edit.sample or (self.rows if failed(edit) else ())
        unknown = [id_ for id_ in ids if id_ not in self.rows]
        if unknown:
            raise ValueError(f"edit {edit.id}: '{unknown[0]}' is not in the test set")
        if failed(edit):
            return [(self.rows[id_], None) for id_ in ids]
        return [(self.rows[id_], answer) for id_, answer in edit.sample.items()]


def failed(edit: EditAnswers) -> bool:
    """Whether there is no edited model to speak of: a failure is named, or x has no answer."""
    return edit.failure is not None or edit.answer is None


def same(answer: str | None, other: str | None, equality: Equality) -> bool:
    """Whether two answers are equal; None, the answer of a failed edit, equals nothing."""
    if answer is None or other is None:
        return False
    return comparable(answer, equality) == comparable(other, equality)


def comparable(answer: str, equality: Equality) -> str:
    """The form of an answer in which equal ones are the same string."""
    if equality == "normalised":
        return normalise(answer)
    if equality == "decao2021":
        return normalise_decao2021(answer)
    return answer


def is_no_op(edit: EditAnswers, protocol: Protocol) -> bool:
    """Whether the edit asks for what the base model says already: a equals y, as success compares."""
    return same(edit.target, edit.prediction, protocol.success_equality)


def counts_for_success(edit: EditAnswers, protocol: Protocol) -> bool:
    """Whether the success of an edit is in the average: in `strict`, not where it is a no-op."""
    return protocol.left_out_of_success == "nothing" or not is_no_op(edit, protocol)


def success(edit: EditAnswers, protocol: Protocol) -> Measure:
    """Whether the edited model, decoding freely, gives the wanted answer to x.

    - Compared with: the target a.
    - Over: x alone.
    - Averaged: over edits that are no no-ops (in `decao2021`, over all), by the scorer.
    - Equal: by the protocol's `success_equality`; there are no aliases of a target.
    """
    return _share([not failed(edit) and same(edit.answer, edit.target, protocol.success_equality)])


def success_teacher_forced(edit: EditAnswers) -> Measure:
    """Whether each token of the target is the likeliest when the ones before it are fed.

    Easier than saying it: the answer's length and beginning are given away. Reported beside `success` to show
    by how much.

    - Compared with: the target a.
    - Over: x alone.
    - Averaged: over edits that are no no-ops (in `decao2021`, over all), by the scorer.
    - Equal: all tokens; part of them is nothing.

    Nothing was measured where `forced` is None, unless the edit failed: then it is wrong.
    """
    if failed(edit):
        return _share([False])
    return NOTHING if edit.forced is None else _share([edit.forced])


def paraphrases(edit: EditAnswers, protocol: Protocol) -> tuple[ParaphraseAnswer, ...]:
    """P^x: in `strict` without those that are x again once both are normalised."""
    if protocol.paraphrases_equal_to_prompt == "kept":
        return edit.paraphrases
    x = normalise(edit.prompt)
    return tuple(paraphrase for paraphrase in edit.paraphrases if normalise(paraphrase.text) != x)


def equivalence_target(edit: EditAnswers, protocol: Protocol, *, held_out: bool | None = None) -> Measure:
    """How often the edited model gives the wanted answer to a paraphrase of x.

    - Compared with: the target a.
    - Over: P^x; x itself is not in it in `strict`, and may be in `decao2021`. With `held_out`, only the
      paraphrases whose wording was kept from the editor's training, or only the others.
    - Averaged: over the edit's paraphrases, then over edits. NaN without paraphrases.
    - Equal: by the protocol's `equivalence_equality`.
    """
    return _share(
        [
            not failed(edit) and same(paraphrase.answer, edit.target, protocol.equivalence_equality)
            for paraphrase in paraphrases(edit, protocol)
            if held_out is None or paraphrase.held_out == held_out
        ]
    )


def equivalence_own(edit: EditAnswers, protocol: Protocol) -> Measure:
    """How often the edited model answers a paraphrase as it answers x, rightly or not.

    An edit that changed nothing scores 1 where the base model agreed with itself. One that failed, having no
    answers, scores 0.

    - Compared with: the edited model's own answer to x.
    - Over: P^x; x itself is not in it in `strict`, and may be in `decao2021`.
    - Averaged: over the edit's paraphrases, then over edits. NaN without paraphrases.
    - Equal: by the protocol's `equivalence_equality`.
    """
    return _share(
        [
            not failed(edit) and same(paraphrase.answer, edit.answer, protocol.equivalence_equality)
            for paraphrase in paraphrases(edit, protocol)
        ]
    )


def retain(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Measure:
    """How often an answer that should not change did not, right or wrong as it may be.

    - Compared with: the base model's answer to the same question, not the gold one; in `decao2021`, where the
      pack stores an answer of its authors' model, that one.
    - Over: O^x, the sampled test questions less those the protocol leaves out: the record x itself in
      `decao2021`; in `strict` also x and its paraphrases under other names, and the fact's other questions.
    - Averaged: over the sample, weighted by stratum so as to estimate the mean over all of O^x; then over
      edits. NaN where nothing of the sample is left.
    - Equal: by the protocol's `retain_equality`.
    """
    return _over_sample(
        edit,
        base,
        base.left_out(edit, protocol),
        lambda row, answer: same(
            answer, row.answer if row.stored is None else row.stored, protocol.retain_equality
        ),
    )


def retain_gold(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Measure:
    """How often the answer to a question that is not about the edit is right after it.

    The second reference of retain: a base model that is often wrong scores low here without any edit.

    - Compared with: the gold answers; any of them will do.
    - Over: O^x, as `retain`.
    - Averaged: as `retain`.
    - Equal: by the protocol's `gold_equality`.
    """
    return _over_sample(
        edit, base, base.left_out(edit, protocol), lambda row, answer: is_gold(row, answer, protocol)
    )


def accuracy_loss(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Measure:
    """By how much the edited model is right less often than the base model: in [-1, 1], 0 without change.

    Each question counts 1 where the base model was right and the edited one is not, -1 the other way round,
    else 0.

    - Compared with: the gold answers; any of them will do.
    - Over: the sampled test questions, all of them: x and its fact are part of the test set.
    - Averaged: over the sample, weighted by stratum so as to estimate the mean over the whole test set; then
      over edits.
    - Equal: by the protocol's `gold_equality`.
    """
    return _loss(edit, base, frozenset(), protocol)


def accuracy_loss_elsewhere(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Measure:
    """The same without what the edit is about: over O^x, as `retain`; NaN where nothing of it was asked."""
    return _loss(edit, base, base.left_out(edit, protocol), protocol)


def accuracy_elsewhere(edit: EditAnswers, base: BaseAnswers, protocol: Protocol) -> Measure:
    """How often the base model is right over O^x: known exactly, whatever the sample.

    - Compared with: the gold answers; any of them will do.
    - Over: O^x, all of it.
    - Averaged: every question weighs the same; then over edits.
    - Equal: by the protocol's `gold_equality`.
    """
    return base.accuracy(protocol, base.left_out(edit, protocol))


def is_gold(row: BaseAnswer, answer: str | None, protocol: Protocol) -> bool:
    """Whether an answer equals any of the accepted ones."""
    return any(same(answer, gold, protocol.gold_equality) for gold in row.gold)


def _loss(edit: EditAnswers, base: BaseAnswers, left_out: Set[str], protocol: Protocol) -> Measure:
    right = base.right(protocol)
    return _over_sample(
        edit, base, left_out, lambda row, answer: (row.id in right) - is_gold(row, answer, protocol)
    )


def _over_sample(
    edit: EditAnswers,
    base: BaseAnswers,
    left_out: Set[str],
    value_of: Callable[[BaseAnswer, str | None], int],
) -> Measure:
    rows = [(row, answer) for row, answer in base.asked(edit) if row.id not in left_out]
    values = [value_of(row, answer) for row, answer in rows]
    value = stratified_mean(values, [row.stratum for row, _ in rows], base.populations(left_out))
    return Measure(value, None, len(values))  # weighted by stratum: no hits / total


def _share(right: Sequence[bool]) -> Measure:
    return Measure(sum(right) / len(right), sum(right), len(right)) if right else NOTHING
