"""Makes edits and asks every edited model all its questions. The result for one edit is a `Trial`."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from kebench.edits.calls import Caller, FailedEdit, name_of
from kebench.edits.edit import Edit
from kebench.edits.editor import AbstractEditor, State
from kebench.edits.single import refuse_joint, refuse_shared, sample_of
from kebench.edits.versions import Versions
from kebench.errors import BadSetting, KebenchError
from kebench.models.model import AbstractModel
from kebench.running.cases import Case
from kebench.running.plan import Plan
from kebench.scoring.answers import Answer, BaseAnswer, EditAnswers, ParaphraseAnswer
from kebench.scoring.rows import Trial

OUT_OF_REACH = (
    FailedEdit,
    torch.OutOfMemoryError,
    MemoryError,
    FloatingPointError,
    BadSetting,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
)
"""Errors of one edit, in the editor's own code or while the edited model is asked. The edit then counts as a
failed edit."""


def requests(editor: AbstractEditor, cases: Sequence[Case]) -> list[Edit]:
    """Returns the edits for the editor. Only a control gets the paraphrases that it will be asked."""
    return [replace(case.edit, paraphrases=case.paraphrases if editor.is_control else ()) for case in cases]


def versions_of_each(
    editor: AbstractEditor,
    state: State,
    base: AbstractModel,
    edits: Sequence[Edit],
    seconds: float | None = None,
) -> Versions:
    """Returns a version of the base model for each edit by itself.

    Args:
        editor: the editor.
        state: its state.
        base: the base model.
        edits: the edits.
        seconds: the time limit for one edit, or None.

    Raises:
        FailedEdit: an edit cannot be made.
        BrokenEditor: the editor broke a rule (`kebench.edits.calls`).
    """
    caller = Caller(editor, base, seconds)
    made, _ = caller.edit(state, base, [(edit,) for edit in edits], [caller.begin(state)] * len(edits))
    return Versions(base, made)


def edit_and_ask(
    editor: AbstractEditor, state: State, plan: Plan, cases: Sequence[Case], *, check: bool = False
) -> list[Trial]:
    """Makes the edits of a group and asks each edited model. If the group fails, edits are made one by one.

    Args:
        editor: the editor.
        state: its state.
        plan: the plan, which has the questions.
        cases: the group.
        check: if True, some of the edits are made again, each alone, and compared.

    Raises:
        BrokenEditor: the edits depend on each other (`kebench.edits.single`).
        KebenchError: all edits of the group fail with this message, as they do when a setting is wrong.
    """
    trials, mistakes = zip(*_edit_and_ask(editor, state, plan, cases, check=check), strict=True)
    if mistakes[0] is not None and len({str(mistake) for mistake in mistakes}) == 1:
        raise mistakes[0]
    return list(trials)


def _edit_and_ask(
    editor: AbstractEditor, state: State, plan: Plan, cases: Sequence[Case], *, check: bool = False
) -> list[tuple[Trial, KebenchError | None]]:
    """Returns the trials of a group, and for each edit that failed with a `KebenchError`, that error."""
    edits = requests(editor, cases)
    started = time.perf_counter()
    try:
        edited = versions_of_each(editor, state, plan.inputs.model, edits, plan.setting.edit_timeout)
        made = time.perf_counter()
        refuse_shared(editor, edits, edited)
        found = ask(edited, cases, plan)
        share = len(cases)
        seconds = ((made - started) / share, (time.perf_counter() - made) / share)
    except OUT_OF_REACH as error:
        if len(cases) == 1:
            nothing = failed(cases[0], plan, reason_of(error))
            seconds = (time.perf_counter() - started, 0.0)
            return [(Trial(nothing, *seconds, details=details_of(error)), mistake_in(error))]
    else:
        if check:
            _check_alone(editor, state, plan, cases, edited)
        return [(Trial(answers, *seconds), None) for answers in found]
    # This is after the handler, which would keep the tensors of the failed attempt in memory.
    made_alone: list[tuple[Trial, KebenchError | None]] = []
    for case in cases:
        made_alone += _edit_and_ask(editor, state, plan, [case])
        if plan.fail_fast and made_alone[-1][0].answers.failure is not None:
            break
    return made_alone


def _check_alone(
    editor: AbstractEditor, state: State, plan: Plan, cases: Sequence[Case], edited: Versions
) -> None:
    """Makes some edits of a group again, each alone, and refuses an editor if they differ."""
    edits = requests(editor, cases)
    alone: dict[int, Versions] = {}
    for index in sample_of(edits):
        with suppress(*OUT_OF_REACH):
            alone[index] = versions_of_each(
                editor, state, plan.inputs.model, [edits[index]], plan.setting.edit_timeout
            )
    questions = {index: list(_questions(cases[index], plan)) for index in alone}
    with suppress(*OUT_OF_REACH):  # a model that cannot answer other prompts breaks no rule
        refuse_joint(editor, edits, edited, alone, questions, beams=plan.inputs.protocol.beams)


def _questions(case: Case, plan: Plan) -> dict[str, str]:
    """Returns each prompt that an edited model is asked → a likely answer, which saves time."""
    target = case.edit.target
    found = dict.fromkeys((case.edit.prompt, *case.paraphrases), target)
    for question in case.further:
        found.setdefault(question.prompt, next(iter(question.references.values()))[0])
    for row in plan.sample(case):
        found.setdefault(row.prompt, row.answer)
    return found


def ask(
    versions: Versions, cases: Sequence[Case], plan: Plan, which: Sequence[int] | None = None
) -> list[EditAnswers]:
    """Asks the version of each case all its questions, together. Each prompt of an edit is asked once.

    Args:
        versions: versions of the model.
        cases: the edits.
        plan: the plan, which has the questions.
        which: the place of the version of each case; by default, version i is that of case i.
    """
    version_of = list(range(len(cases)) if which is None else which)
    whole = [index for index in range(len(cases)) if version_of[index] not in versions.failures]
    asked = [(index, *each) for index in whole for each in _questions(cases[index], plan).items()]
    answers = versions.answer(
        [prompt for _, prompt, _ in asked],
        [version_of[index] for index, _, _ in asked],
        [guess for _, _, guess in asked],
        beams=plan.inputs.protocol.beams,
    )
    said = {(index, prompt): answer for (index, prompt, _), answer in zip(asked, answers, strict=True)}
    prefers = versions.prefers(
        [cases[index].edit.prompt for index in whole],
        [version_of[index] for index in whole],
        [cases[index].edit.target for index in whole],
    )
    forced = dict(zip(whole, prefers, strict=True))
    return [
        # A version may also fail while it is asked.
        failed(case, plan, versions.failures[version_of[index]])
        if version_of[index] in versions.failures
        else _row(case, plan.sample(case), partial(_of_edit, said, index), forced=forced.get(index))
        for index, case in enumerate(cases)
    ]


def _of_edit(said: Mapping[tuple[int, str], str], index: int, prompt: str) -> str:
    """Returns the answer of the edited model of that index to a prompt."""
    return said[index, prompt]


def failed(case: Case, plan: Plan, why: str) -> EditAnswers:
    """Returns the row of a failed edit, which has no answers."""
    return replace(unanswered(case, plan), failure=why)


def unanswered(case: Case, plan: Plan) -> EditAnswers:
    """Returns the row of an edit without any answer: only what the plan decides."""
    return _row(case, plan.sample(case), lambda _prompt: None)


def reason_of(error: BaseException) -> str:
    """Returns the reason of a failure, as tables name it."""
    return error.reason if isinstance(error, FailedEdit) else name_of(error)


def mistake_in(error: BaseException) -> KebenchError | None:
    """Returns the `KebenchError` that made an edit fail; None if it was another error."""
    found = error.mistake if isinstance(error, FailedEdit) else error
    return found if isinstance(found, KebenchError) else None


def details_of(error: BaseException) -> str:
    """Returns the details of an error for the file of failures."""
    return error.details if isinstance(error, FailedEdit) else "".join(traceback.format_exception(error))


def _row(
    case: Case,
    sample: Sequence[BaseAnswer],
    said: Callable[[str], str | None],
    *,
    forced: bool | None = None,
) -> EditAnswers:
    """Returns the row of one edit. `said` gives the answer to a prompt."""
    return EditAnswers(
        id=case.edit.id,
        fact=case.fact,
        prompt=case.edit.prompt,
        prediction=case.edit.prediction,
        target=case.edit.target,
        answer=said(case.edit.prompt),
        forced=forced,
        paraphrases=tuple(
            ParaphraseAnswer(text, said(text), text in case.held_out_wordings) for text in case.paraphrases
        ),
        sample={row.id: said(row.prompt) for row in sample},
        held_out=case.held_out,
        further=tuple(Answer(question, case.edit.id, said(question.prompt)) for question in case.further),
    )
