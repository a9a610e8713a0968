"""The margins of belief: how the log-odds of what an edit is about, and is not about, move.

After the idea of figures 2 and 3 of De Cao et al. 2021.

One number before the edit and one after it, for each of three kinds of questions:

    edit          x itself: the log-odds of the target a
    paraphrase    each of P^x: of a too
    retain        questions about other facts: of the base model's own answer
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from kebench.edits.editor import AbstractEditor, State
from kebench.edits.single import refuse_shared
from kebench.errors import BadSetting
from kebench.files.writing import replacing
from kebench.models.numerics import numerics
from kebench.running.cases import Case
from kebench.running.folder import EDITS_AT_ONCE
from kebench.running.plan import Plan
from kebench.running.preparation import prepare_editor
from kebench.running.progress import Progress
from kebench.running.run import check_base, ground_of, load_editors
from kebench.running.settings import RunSettings
from kebench.running.trial import requests, versions_of_each
from kebench.scoring.record import Setting

Kind = Literal["edit", "paraphrase", "retain"]


@dataclass(frozen=True)
class Belief:
    """How strongly an answer is believed before an edit and after it, in nats.

    Attributes:
        edit: the edit's id.
        kind: what is asked.
        before: ln(p / (1 − p)) of the answer under the base model.
        after: the same under the edited model.
    """

    edit: str
    kind: Kind
    before: float
    after: float


def beliefs(name: str, editor: AbstractEditor, state: State, plan: Plan, progress: Progress) -> list[Belief]:
    """Every edit of the plan; a failed one has none.

    Raises:
        BadSetting: the editor's models give answers, but no probabilities.
    """
    progress.stage(f"beliefs {name}")
    model = plan.ground.model
    found: list[Belief] = []
    for start in range(0, len(plan.cases), EDITS_AT_ONCE):
        progress(start, len(plan.cases), "")
        group = plan.cases[start : start + EDITS_AT_ONCE]
        with numerics(model.device, tf32=model.tf32):
            found += _of_group(name, editor, state, plan, group)
    progress(len(plan.cases), len(plan.cases), "")
    return found


def _of_group(
    name: str, editor: AbstractEditor, state: State, plan: Plan, group: Sequence[Case]
) -> list[Belief]:
    model = plan.ground.model
    edits = requests(editor, group)
    edited = versions_of_each(editor, state, model, edits)
    refuse_shared(editor, edits, edited)
    asked: list[tuple[int, Kind, str, str]] = []
    for index, case in enumerate(group):
        if index not in edited.failures:
            asked.append((index, "edit", case.edit.prompt, case.edit.target))
            asked += [(index, "paraphrase", text, case.edit.target) for text in case.paraphrases]
            # Nothing can be fed to a model that says nothing.
            said = [row for row in plan.sample(case) if row.answer.strip()]
            asked += [(index, "retain", row.prompt, row.answer) for row in said]
    which = [index for index, _, _, _ in asked]
    prompts, answers = [prompt for _, _, prompt, _ in asked], [answer for _, _, _, answer in asked]
    before = model.log_odds(prompts, answers)
    after = edited.log_odds(prompts, which, answers)
    found = []
    for (index, kind, _, _), b, a in zip(asked, before, after, strict=True):
        if a is None:
            raise BadSetting(f"editor {name}: it looks answers up, so there are no probabilities to draw")
        if index not in edited.failures:  # some fail only when they are asked
            found.append(Belief(group[index].edit.id, kind, round(b, 4), round(a, 4)))
    return found


# On file ---------------------------------------------------------------------------------------------


def write_beliefs(found: Sequence[Belief], path: Path) -> None:
    """As CSV, a line a belief."""
    names = [field.name for field in fields(Belief)]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(names)
        lines.writerows([getattr(belief, name) for name in names] for belief in found)


def beliefs_of(settings: RunSettings, progress: Progress) -> Iterator[tuple[str, Setting, list[Belief]]]:
    """Each editor's name, the setting, and how the edits that a run would make with it move beliefs.

    Raises:
        KebenchError: a setting or a file is wrong, or an editor's models have no probabilities.
    """
    chosen = load_editors(settings)
    plan = Plan.of(ground_of(settings, progress), settings)
    for name, editor in chosen.items():
        state = prepare_editor(name, editor, plan.ground, progress).state
        found = beliefs(name, editor, state, plan, progress)
        check_base(name, plan.ground)
        yield name, plan.setting, found
