"""One trial: edits made, and every edited model asked all it is asked."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import torch

from kebench.answers import BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.cases import Case
from kebench.edit import Edit
from kebench.edited import AbstractEdited
from kebench.editor import AbstractEditor, State
from kebench.plan import Plan

OUT_OF_REACH = (
    torch.OutOfMemoryError,
    MemoryError,
    FloatingPointError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
)
"""What may go wrong with one edit without being anybody's mistake; it counts as a failed edit."""


@dataclass(frozen=True)
class Trial:
    """What one edited model said, and what it took; edits made together share the seconds."""

    answers: EditAnswers
    edit_seconds: float
    answer_seconds: float


def requests(editor: AbstractEditor, cases: Sequence[Case]) -> list[Edit]:
    """What an editor is told; only a control may look at what it will be asked."""
    return [
        replace(case.edit, paraphrases=case.paraphrases) if editor.is_control else case.edit for case in cases
    ]


def edit_and_ask(editor: AbstractEditor, state: State, plan: Plan, cases: Sequence[Case]) -> list[Trial]:
    """Edits one group and asks each edited model all it is asked; where the group fails, one by one."""
    started = time.perf_counter()
    try:
        edited = editor.edit(state, plan.ground.model, requests(editor, cases))
        made = time.perf_counter()
        found = _ask(edited, cases, plan)
        share = len(cases)
        seconds = ((made - started) / share, (time.perf_counter() - made) / share)
        return [Trial(answers, *seconds) for answers in found]
    except OUT_OF_REACH as error:
        if len(cases) == 1:
            failed = _row(
                cases[0], plan.sample(cases[0]), repeat(None), failure=type(error).__name__.lstrip("_")
            )
            return [Trial(failed, time.perf_counter() - started, 0.0)]
    # Outside the handler, which would keep what the failed attempt held alive.
    return [trial for case in cases for trial in edit_and_ask(editor, state, plan, [case])]


def _ask(edited: AbstractEdited, cases: Sequence[Case], plan: Plan) -> list[EditAnswers]:
    """x, its paraphrases and the case's sample, of every edited model of a group, in one go."""
    samples = [plan.sample(case) for case in cases]
    whole = [index for index in range(len(cases)) if index not in edited.failures]
    questions = [
        (question, index, guess)
        for index in whole
        for question, guess in (
            (cases[index].edit.prompt, cases[index].edit.target),
            *((text, cases[index].edit.target) for text in cases[index].paraphrases),
            *((row.prompt, row.answer) for row in samples[index]),
        )
    ]
    said = iter(
        edited.answer(
            [question for question, _, _ in questions],
            [index for _, index, _ in questions],
            [guess for _, _, guess in questions],
            beams=plan.ground.protocol.beams,
        )
    )
    prefers = edited.prefers(
        [cases[index].edit.prompt for index in whole], whole, [cases[index].edit.target for index in whole]
    )
    forced = dict(zip(whole, prefers, strict=True)) if prefers is not None else {}
    return [
        _row(case, sample, repeat(None), failure=edited.failures[index])
        if index in edited.failures
        else _row(case, sample, said, forced=forced.get(index))
        for index, (case, sample) in enumerate(zip(cases, samples, strict=True))
    ]


def _row(
    case: Case,
    sample: Sequence[BaseAnswer],
    said: Iterator[str | None],
    *,
    forced: bool | None = None,
    failure: str | None = None,
) -> EditAnswers:
    """The next answers of `said`, in the order they were asked for; a failed edit has none to anything."""
    return EditAnswers(
        id=case.edit.id,
        fact=case.fact,
        prompt=case.edit.prompt,
        prediction=case.edit.prediction,
        target=case.edit.target,
        answer=next(said),
        forced=forced,
        paraphrases=tuple(
            ParaphraseAnswer(text, next(said), text in case.held_out_wordings) for text in case.paraphrases
        ),
        sample={row.id: next(said) for row in sample},
        failure=failure,
        held_out=case.held_out,
    )
