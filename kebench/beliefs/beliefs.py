"""Measures how an edit changes the log-odds of answers, for the edited fact and for other facts.

The idea is from figures 2 and 3 of De Cao et al. 2021.

There is one number before the edit and one after it, for questions of three kinds:

    edit          the prompt x: the log-odds of the target a
    paraphrase    each paraphrase in P^x: the log-odds of a
    retain        questions about other facts: the log-odds of the base model's answer
"""

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from kebench.edits.calls import FailedEdit
from kebench.edits.editor import AbstractEditor, State
from kebench.edits.single import refuse_shared
from kebench.errors import BadSetting
from kebench.files.writing import replacing
from kebench.models.numerics import numerics
from kebench.running.cases import Case
from kebench.running.plan import Plan
from kebench.running.preparation import check_base, prepare_editor
from kebench.running.progress import Progress
from kebench.running.run import inputs_of, load_editors
from kebench.running.settings import RunSettings
from kebench.running.shard import EDITS_AT_ONCE
from kebench.running.trial import requests, versions_of_each
from kebench.scoring.record import Setting

logger = logging.getLogger(__name__)

Kind = Literal["edit", "paraphrase", "retain"]


@dataclass(frozen=True)
class Belief:
    """The log-odds of one answer before an edit and after it, in nats.

    Attributes:
        edit: the id of the edit.
        kind: the kind of the question.
        before: ln(p / (1 − p)), where p is the answer's probability under the base model.
        after: the same under the edited model.
    """

    edit: str
    kind: Kind
    before: float
    after: float


def beliefs(name: str, editor: AbstractEditor, state: State, plan: Plan, progress: Progress) -> list[Belief]:
    """Makes every edit of the plan and returns the log-odds that it changes; a failed edit has none.

    Raises:
        BadSetting: the editor's models return answers, but no probabilities.
    """
    progress.stage(f"beliefs {name}")
    model = plan.inputs.model
    found: list[Belief] = []
    for start in range(0, len(plan.cases), EDITS_AT_ONCE):
        progress(start, len(plan.cases), "")
        group = plan.cases[start : start + EDITS_AT_ONCE]
        with numerics(model.device, tf32=model.tf32):
            try:
                found += _of_group(name, editor, state, plan, group)
            except FailedEdit:
                found += _of_those_that_can_be_made(name, editor, state, plan, group)
    progress(len(plan.cases), len(plan.cases), "")
    return found


def _of_those_that_can_be_made(
    name: str, editor: AbstractEditor, state: State, plan: Plan, group: Sequence[Case]
) -> list[Belief]:
    """Returns the beliefs of each edit of a group, made by itself. Edits that fail have none."""
    found: list[Belief] = []
    for case in group:
        try:
            found += _of_group(name, editor, state, plan, [case])
        except FailedEdit as error:
            logger.warning("editor %s: edit %s failed: %s", name, case.edit.id, error)
    return found


def _of_group(
    name: str, editor: AbstractEditor, state: State, plan: Plan, group: Sequence[Case]
) -> list[Belief]:
    model = plan.inputs.model
    edits = requests(editor, group)
    edited = versions_of_each(editor, state, model, edits)
    refuse_shared(editor, edits, edited)
    asked: list[tuple[int, Kind, str, str]] = []
    for index, case in enumerate(group):
        if index not in edited.failures:
            asked.append((index, "edit", case.edit.prompt, case.edit.target))
            asked += [(index, "paraphrase", text, case.edit.target) for text in case.paraphrases]
            # An empty answer has no tokens, so it has no log-odds.
            said = [row for row in plan.sample(case) if row.answer.strip()]
            asked += [(index, "retain", row.prompt, row.answer) for row in said]
    which = [index for index, _, _, _ in asked]
    prompts, answers = [prompt for _, _, prompt, _ in asked], [answer for _, _, _, answer in asked]
    before = model.log_odds(prompts, answers)
    after = edited.log_odds(prompts, which, answers)
    found = []
    for (index, kind, _, _), b, a in zip(asked, before, after, strict=True):
        if a is None:
            raise BadSetting(f"editor {name}: its models return answers, but no probabilities to plot")
        if index not in edited.failures:  # some edits fail only when their model is asked
            found.append(Belief(group[index].edit.id, kind, round(b, 4), round(a, 4)))
    return found


# Files -----------------------------------------------------------------------------------------------


def write_beliefs(found: Sequence[Belief], path: Path) -> None:
    """Writes a CSV file with one line for each belief."""
    names = [field.name for field in fields(Belief)]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(names)
        lines.writerows([getattr(belief, name) for name in names] for belief in found)


def beliefs_of(settings: RunSettings, progress: Progress) -> Iterator[tuple[str, Setting, list[Belief]]]:
    """Makes the edits of a run with each editor and measures beliefs.

    Yields:
        For each editor: its name, the setting of the run, and its beliefs.

    Raises:
        KebenchError: a setting or a file is wrong, or an editor's models return no probabilities.
    """
    chosen = load_editors(settings)
    plan = Plan.of(inputs_of(settings, progress), settings)
    for name, editor in chosen.items():
        state = prepare_editor(name, editor, plan.inputs, progress).state
        found = beliefs(name, editor, state, plan, progress)
        check_base(name, plan.inputs)
        yield name, plan.setting, found
