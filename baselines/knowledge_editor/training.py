"""Trains the hypernetwork: edits should succeed, under a constraint on the changes of other answers.

The loss, the constraint and the annealing are equations (5) to (9) of `method.py`. The optimiser descends in
the networks' weights and ascends in the multiplier λ.

The paper sums the divergence over all of O^x. A step uses a few questions drawn from O^x, which is a Monte
Carlo estimate of the sum. `kl_over` says how the divergence of one question is computed:

    answer    the KL of the next token's distributions, a mean over the positions of the base model's answer,
              as in the released code. For a classifier it is the KL over its labels, which is exact.
    beam      the KL over the base model's k best hypotheses, as in the paper (`hypotheses.py`).
"""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from kebench.edits.edit import Edit
from kebench.edits.editor import RetainQuestion, State, TrainingEdit, TrainingSet, Workspace
from kebench.edits.moments import preconditioners
from kebench.edits.versions import low_rank_under
from kebench.errors import BadSetting
from kebench.files.checked import read_or_none
from kebench.files.tensors import load_tensors, save_tensors
from kebench.files.writing import write_text
from kebench.models.base_logits import BaseLogits, Question
from kebench.models.changes import LowRankBatch
from kebench.models.layers import Layers, editable
from kebench.models.model import AbstractModel
from kebench.models.rows import Rows, all_argmax
from kebench.training.checkpoints import load_checkpoint, save_checkpoint
from kebench.training.schedule import warmup_then_decay

from .additions import relative_lagrangian, set_preconditioners
from .hypernetwork import Hypernetwork
from .hypotheses import BaseHypotheses, sequence_log_probs
from .method import (
    annealed,
    edit_loss,
    kl_constraint,
    kl_constraint_over_hypotheses,
    l2_constraint,
    lagrangian,
)

logger = logging.getLogger(__name__)

TOKENS_TOGETHER = {"cpu": 1024, "cuda": 16_384}
"""About how many padded prompt tokens are in one pass. Many lengths in one pass would need much padding."""

MOMENT_QUESTIONS = 1024
"""The largest number of questions for second moments, which are means over tokens of prompts and answers."""

Asked = tuple[int, str, str]
"""The number of the edit in force, a prompt, and the answer that is teacher-forced after it."""


class _Settings(Protocol):
    """The settings of `KnowledgeEditor` that training reads. That class explains them."""

    @property
    def constraint(self) -> Literal["kl", "l2"]: ...
    @property
    def kl_over(self) -> Literal["answer", "beam"]: ...
    @property
    def kl_beams(self) -> int: ...
    @property
    def paraphrases(self) -> bool: ...
    @property
    def layers(self) -> Layers: ...
    @property
    def precondition(self) -> float: ...
    @property
    def margin(self) -> float: ...
    @property
    def margin_floor(self) -> float: ...
    @property
    def margin_decay(self) -> float: ...
    @property
    def margin_success(self) -> float: ...
    @property
    def relative_margin(self) -> bool: ...
    @property
    def steps(self) -> int: ...
    @property
    def edits_per_step(self) -> int: ...
    @property
    def retain_per_edit(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def multiplier_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def decay_steps(self) -> int: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def validate_edits(self) -> int: ...
    @property
    def choose_by(self) -> tuple[Literal["success", "equivalence", "retain"], ...]: ...
    @property
    def retain_at_least(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Learner(_Settings, Protocol):
    """The interface of `KnowledgeEditor` that training uses."""

    def hypernetwork(self, base: AbstractModel) -> Hypernetwork:
        """Returns the untrained hypernetwork for this base model."""

    def predict(
        self, hypernetwork: Hypernetwork, base: AbstractModel, edits: Sequence[Edit]
    ) -> dict[str, LowRankBatch]:
        """Returns the update of every edit, with the autograd graph of the hypernetwork."""


@dataclass(frozen=True)
class Batch:
    """The edits of one step, each with its retain questions."""

    edits: Sequence[TrainingEdit]
    paraphrases: Sequence[str | None]  # one for each edit, None if it has none; or an empty sequence
    retain: Sequence[RetainQuestion]
    retain_edit: Sequence[int]  # for each retain question, the number of the edit in force

    def originals(self) -> list[Asked]:
        """Returns each edit's prompt with its target."""
        return [(index, item.edit.prompt, item.edit.target) for index, item in enumerate(self.edits)]

    def reworded(self) -> list[Asked]:
        """Returns the paraphrases that were drawn, each with its edit's target."""
        pairs = enumerate(zip(self.edits, self.paraphrases, strict=False))
        return [(index, text, item.edit.target) for index, (item, text) in pairs if text is not None]

    def edited(self) -> list[Asked]:
        """Returns the prompts and the paraphrases, in the order of the edits."""
        return sorted(self.originals() + self.reworded(), key=lambda asked: asked[0])

    def retained(self) -> list[Asked]:
        """Returns each retain question with the base model's answer."""
        pairs = zip(self.retain_edit, self.retain, strict=True)
        return [(index, known.prompt, known.prediction) for index, known in pairs]


class Relaxed(nn.Module):
    """The hypernetwork and the Lagrange multiplier λ: all parameters that a checkpoint must hold."""

    def __init__(self, hypernetwork: Hypernetwork) -> None:
        super().__init__()
        self.hypernetwork = hypernetwork
        self.multiplier = nn.Parameter(torch.ones((), dtype=next(hypernetwork.parameters()).dtype))


def train(editor: Learner, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
    """Trains the hypernetwork and returns the weights with the best `joint_score` on dev edits.

    Raises:
        BadSetting: there is too little to learn from; or the editor should learn from paraphrases and there
            are none; or the KL should be over the hypotheses of a classifier.
    """
    _check(editor, base, training)
    relaxed = Relaxed(hypernetwork_for(editor, base, training)).to(base.device)
    groups: list[dict[str, Any]] = [
        {"params": list(relaxed.hypernetwork.parameters())},
        {"params": [relaxed.multiplier], "maximize": True},  # ascent in λ
    ]
    optimizer = torch.optim.RMSprop(groups, centered=True)
    pools = (training.known, training.unseen)
    before = what_the_base_says(editor, base, [known for pool in pools for known in pool])
    checkpoint, best_file = workspace.folder / "last.safetensors", workspace.folder / "best.safetensors"
    start: dict[str, Any] = {"step": 0, "margin": editor.margin, "best": -math.inf, "history": []}
    made_of = workspace.made_of
    counters = start
    if read_or_none(best_file, lambda: load_tensors(best_file, made_of)):  # a checkpoint needs it
        counters = load_checkpoint(checkpoint, relaxed, optimizer, made_of=made_of) or start
    for step in range(counters["step"], editor.steps):
        rate = warmup_then_decay(step, editor.warmup_steps, editor.decay_steps)
        optimizer.param_groups[0]["lr"] = rate * editor.learning_rate
        optimizer.param_groups[1]["lr"] = rate * editor.multiplier_rate
        batch = draw(training.train, pools, editor, f"{editor.seed}:{step}", editor.edits_per_step)
        loss, constraint = losses(editor, relaxed.hypernetwork, base, before, batch)
        told = f"loss {loss.item():.3f}, C {constraint.item():.2g}"
        relaxation = relative_lagrangian if editor.relative_margin else lagrangian
        objective = relaxation(loss, constraint, relaxed.multiplier, counters["margin"])
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        with torch.no_grad():
            relaxed.multiplier.clamp_(min=0)

        if (step + 1) % editor.validate_every == 0 or step + 1 == editor.steps:
            rates = validate(editor, relaxed.hypernetwork, base, training)
            earlier, counters = counters, _counted(editor, relaxed, counters, step + 1, rates, constraint)
            if counters["best"] > earlier["best"]:
                save_tensors(relaxed.hypernetwork.state_dict(), best_file, made_of=made_of)
            save_checkpoint(checkpoint, relaxed, optimizer, counters, made_of=made_of)
            write_text(json.dumps(counters, indent=1), workspace.folder / "history.json")
            logger.info("%s", ", ".join(f"{k} {value:.3g}" for k, value in counters["history"][-1].items()))
        if counters["history"]:
            last = counters["history"][-1]
            told += f", dev success {last['success']:.0%} retain {last['retain']:.0%}"
        workspace.report(step + 1, editor.steps, told)
    state, _ = load_tensors(best_file, made_of)
    return state


def _counted(
    editor: Learner,
    relaxed: Relaxed,
    counters: Mapping[str, Any],
    step: int,
    rates: Mapping[str, float],
    constraint: Tensor,
) -> dict[str, Any]:
    """Returns the counters of the training after a validation, which also anneals the margin.

    Args:
        editor: the settings.
        relaxed: the hypernetwork and λ.
        counters: the counters before the validation.
        step: the number of steps so far.
        rates: the rates of the validation.
        constraint: C in the last step.
    """
    margin = counters["margin"]
    row = {
        "step": step,
        **rates,
        "margin": margin,
        "multiplier": relaxed.multiplier.item(),
        "constraint": constraint.item(),
    }
    return {
        "step": step,
        "best": max(joint_score(rates, editor.retain_at_least), counters["best"]),
        "margin": annealed(
            margin,
            rates["success"],
            decay=editor.margin_decay,
            floor=editor.margin_floor,
            threshold=editor.margin_success,
        ),
        "history": [*counters["history"], row],
    }


def hypernetwork_for(editor: Learner, base: AbstractModel, training: TrainingSet) -> Hypernetwork:
    """Returns the untrained hypernetwork, with its preconditioners if the settings ask for them."""
    made = editor.hypernetwork(base)
    if editor.precondition:
        names = editable(base.network, editor.layers)
        found = preconditioners(
            base, names, editor.precondition, training, at_most=MOMENT_QUESTIONS, seed=editor.seed
        )
        set_preconditioners(made, found)
    return made


def _check(editor: Learner, base: AbstractModel, training: TrainingSet) -> None:
    """Checks that there is enough to draw from, and that the loss and the validation measure something."""
    if editor.kl_over == "beam" and base.family == "classifier":
        raise BadSetting(
            "kl_over: found beam with a classifier, wanted answer: the KL is over all its labels already"
        )
    pools = (training.known, training.unseen, training.dev_known)
    facts = min(len({known.fact for known in pool}) for pool in pools)
    if not training.train or not training.dev or facts < 2:
        raise BadSetting(
            f"knowledge_editor: found {len(training.train)} training edits, {len(training.dev)} dev edits and"
            f" questions about {facts} facts to learn from, wanted at least 1, 1 and 2"
        )
    if editor.paraphrases and not any(item.edit.paraphrases for item in training.train):
        raise BadSetting(
            f"paraphrases: found true, but none of {len(training.train)} training edits has a paraphrase to"
            " learn from, wanted false"
        )
    to_choose_by = training.dev[: editor.validate_edits]
    if "equivalence" in editor.choose_by and not any(item.edit.paraphrases for item in to_choose_by):
        raise BadSetting(
            f"choose_by: found equivalence, but none of {len(to_choose_by)} dev edits has a paraphrase to"
            " measure it on, wanted success and retain alone"
        )


def draw(
    edits: Sequence[TrainingEdit],
    pools: Sequence[Sequence[RetainQuestion]],
    editor: Learner,
    seed: str,
    size: int,
) -> Batch:
    """Draws edits, a paraphrase of each if the editor learns from them, and questions about other facts.

    The questions of an edit come from each pool in turn. An edit without paraphrases has only its prompt.
    """
    chance = random.Random(seed)
    chosen = chance.sample(edits, min(size, len(edits)))
    paraphrases = [chance.choice(item.edit.paraphrases or (None,)) for item in chosen]
    retain: list[RetainQuestion] = []
    for item in chosen:
        others: list[RetainQuestion] = []
        while len(others) < editor.retain_per_edit:
            other = chance.choice(pools[len(others) % len(pools)])
            if other.fact != item.fact:
                others.append(other)
        retain += others
    owners = [index for index in range(len(chosen)) for _ in range(editor.retain_per_edit)]
    return Batch(chosen, paraphrases if editor.paraphrases else (), retain, owners)


def losses(
    editor: Learner,
    hypernetwork: Hypernetwork,
    base: AbstractModel,
    before: BaseLogits | BaseHypotheses,
    batch: Batch,
) -> tuple[Tensor, Tensor]:
    """Returns the edit loss, and the constraint's value C, with the updates of one batch.

    The loss is a mean over all prompts and paraphrases. `before` has the base model's logits or hypotheses
    for the retain questions (`what_the_base_says`).
    """
    updates = editor.predict(hypernetwork, base, [item.edit for item in batch.edits])
    smoothing = 0.0 if base.family == "classifier" else editor.label_smoothing
    parts = under_updates(base, updates, batch.edited())
    loss = edit_loss([part.logits for part in parts], [part.rows for part in parts], smoothing=smoothing)
    if editor.constraint == "l2":
        return loss, l2_constraint(updates)

    if isinstance(before, BaseHypotheses):
        return loss, _over_hypotheses(before, base, updates, batch.retained())

    parts = under_updates(base, updates, batch.retained())
    questions = [question for part in parts for question in part.questions]
    return loss, kl_constraint(before.of(questions), torch.cat([part.logits for part in parts]))


def what_the_base_says(
    editor: Learner, base: AbstractModel, known: Sequence[RetainQuestion]
) -> BaseLogits | BaseHypotheses:
    """Returns what the KL needs from the base model. It is computed once for each question."""
    questions = [(each.prompt, each.prediction) for each in known]
    if editor.kl_over == "beam":
        return BaseHypotheses(base, questions, editor.kl_beams)
    return BaseLogits(base, questions)


def _over_hypotheses(
    before: BaseHypotheses, base: AbstractModel, updates: Mapping[str, LowRankBatch], asked: Sequence[Asked]
) -> Tensor:
    """Returns the KL over each question's hypotheses, which are teacher-forced in the edited model."""
    found = [before.of((prompt, answer)) for _, prompt, answer in asked]
    every = [
        (edit, prompt, answer)
        for (edit, prompt, _), each in zip(asked, found, strict=True)
        for answer in each.answers
    ]
    parts = under_updates(base, updates, every)
    scores = torch.cat([sequence_log_probs(part.logits, part.rows) for part in parts])
    places = torch.tensor([index for part in parts for index in part.indices], device=scores.device)
    after = scores[places.argsort()].split([len(each.answers) for each in found])
    return kl_constraint_over_hypotheses([each.log_p for each in found], after)


@dataclass(frozen=True)
class Part:
    """Some questions of similar length with their answers, and the logits of the edited models."""

    indices: Sequence[int]  # their places among all questions
    questions: Sequence[Question]
    rows: Rows
    logits: Tensor


def under_updates(
    base: AbstractModel, updates: Mapping[str, LowRankBatch], asked: Sequence[Asked]
) -> list[Part]:
    """Asks each question with its edit in force. The questions of an edit must stand together.

    The states below the edited layers are those of the base model. They are computed once for each question,
    and not once for each step.
    """
    found = []
    for indices in _passes(base, updates, asked):
        which = [asked[index][0] for index in indices]
        questions = [asked[index][1:] for index in indices]
        rows = base.rows([prompt for prompt, _ in questions], [answer for _, answer in questions])
        under = low_rank_under(base, updates, which)
        with base.reuse.below(under.changed, rows), under(range(len(which))):
            found.append(Part(indices, questions, rows, base.logits(rows)))
    return found


def _passes(
    base: AbstractModel, updates: Mapping[str, LowRankBatch], asked: Sequence[Asked]
) -> list[list[int]]:
    """Divides the questions into passes. If edits cannot share a pass, each edit has passes of its own."""
    passes = _together(base, asked)
    if base.one_pass.holds_edits(updates):
        return passes
    return [
        list(part) for indices in passes for _, part in groupby(indices, key=lambda index: asked[index][0])
    ]


def _together(base: AbstractModel, asked: Sequence[Asked]) -> list[list[int]]:
    """Divides the questions into passes: each edit's shortest ones are in the first, its longest in the last.

    So a pass has similar lengths, which saves padding, and as many rows of each edit, which is fastest in
    `low_rank_applied`. If an edit has one row, it is in the last pass.
    """
    lengths = [len(ids) for ids in base.prompt_ids([prompt for _, prompt, _ in asked])]
    most = TOKENS_TOGETHER["cuda" if base.device.type == "cuda" else "cpu"]
    passes = math.ceil(max(lengths, default=0) * len(lengths) / most)
    found: list[list[int]] = [[] for _ in range(passes)]
    for _, group in groupby(range(len(asked)), key=lambda index: asked[index][0]):
        mine = sorted(group, key=lengths.__getitem__)
        for number in range(passes):
            found[number] += mine[len(mine) * number // passes : len(mine) * (number + 1) // passes]
    return [indices for indices in found if indices]


@torch.no_grad()
def validate(
    editor: Learner, hypernetwork: Hypernetwork, base: AbstractModel, training: TrainingSet
) -> dict[str, float]:
    """Returns the rates for the choice of a checkpoint, under teacher forcing.

    The dev edits are always the same. One paraphrase of each edit is asked. An edit without paraphrases does
    not count for equivalence.
    """
    hits: dict[str, list[bool]] = {rate: [] for rate in editor.choose_by}
    size = editor.edits_per_step
    for place in range(0, min(editor.validate_edits, len(training.dev)), size):
        edits = training.dev[place : min(place + size, editor.validate_edits)]
        batch = draw(edits, (training.dev_known,), editor, f"dev:{place}", size)
        updates = editor.predict(hypernetwork, base, [item.edit for item in batch.edits])
        asked = {"success": batch.originals(), "equivalence": batch.reworded(), "retain": batch.retained()}
        for rate, found in hits.items():
            for part in under_updates(base, updates, asked[rate]):
                found += all_argmax(part.logits, part.rows).tolist()
    return {rate: sum(found) / len(found) for rate, found in hits.items()}


def joint_score(rates: Mapping[str, float], retain_at_least: float) -> float:
    """Returns the score of a checkpoint: the harmonic mean of all rates, which is 0 if one of them is 0.

    The retain rate is also a constraint. A checkpoint below `retain_at_least` is worse than any other, and
    among those the one with the largest retain rate is the best.
    """
    if rates["retain"] < retain_at_least:
        return rates["retain"] - 1
    return len(rates) / sum(1 / rate for rate in rates.values()) if all(rates.values()) else 0.0
