"""How the hypernetwork is trained: edits that take, under a constraint on what they change elsewhere.

The loss, the constraint and the annealing are equations (5) to (9) of `method.py`. The optimiser descends in
the networks' weights and ascends in the multiplier λ.

The paper sums the divergence over all of O^x; a step takes a few questions drawn from it, which is a Monte
Carlo estimate of the sum. What the divergence of one question is taken over, `kl_over` says:

    answer    KL of the next token's distributions, a mean over the positions of the base model's own answer,
              as the released code has it. Of a classifier: over its labels, which is exact.
    beam      KL over the base model's k best hypotheses, as the paper has it (`hypotheses.py`).
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
"""About how many padded prompt tokens are in one pass: questions of many lengths in one are half padding."""

MOMENT_QUESTIONS = 1024
"""Questions that second moments are a mean over, at most; each gives the tokens of its prompt and answer."""

Asked = tuple[int, str, str]
"""The edit under which a prompt is asked, the prompt, and the answer that is fed after it."""


class _Settings(Protocol):
    """The settings of `KnowledgeEditor` that training reads; it says what each of them means."""

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
    """What is trained: a `KnowledgeEditor`."""

    def hypernetwork(self, base: AbstractModel) -> Hypernetwork:
        """The untrained hypernetwork for this base."""

    def predict(
        self, hypernetwork: Hypernetwork, base: AbstractModel, edits: Sequence[Edit]
    ) -> dict[str, LowRankBatch]:
        """The update of every edit, with the graph of how it depends on the hypernetwork."""


@dataclass(frozen=True)
class Batch:
    """The edits of one step, each with its retain questions."""

    edits: Sequence[TrainingEdit]
    paraphrases: Sequence[str | None]  # one an edit, None where it has none; or none at all
    retain: Sequence[RetainQuestion]
    retain_edit: Sequence[int]  # the edit each retain question is asked under

    def originals(self) -> list[Asked]:
        """Each edit's prompt with the target."""
        return [(index, item.edit.prompt, item.edit.target) for index, item in enumerate(self.edits)]

    def reworded(self) -> list[Asked]:
        """Each edit's paraphrase, where one is drawn, with the target."""
        pairs = enumerate(zip(self.edits, self.paraphrases, strict=False))
        return [(index, text, item.edit.target) for index, (item, text) in pairs if text is not None]

    def edited(self) -> list[Asked]:
        """Both, one edit's after the other's."""
        return sorted(self.originals() + self.reworded(), key=lambda asked: asked[0])

    def retained(self) -> list[Asked]:
        """Each retain question with the base model's answer."""
        pairs = zip(self.retain_edit, self.retain, strict=True)
        return [(index, known.prompt, known.prediction) for index, known in pairs]


class Relaxed(nn.Module):
    """The hypernetwork and the Lagrange multiplier λ, whatever a checkpoint must hold."""

    def __init__(self, hypernetwork: Hypernetwork) -> None:
        super().__init__()
        self.hypernetwork = hypernetwork
        self.multiplier = nn.Parameter(torch.ones((), dtype=next(hypernetwork.parameters()).dtype))


def train(editor: Learner, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
    """The weights that did best on dev, by `joint_score` of the rates that `validate` gives.

    Raises:
        BadSetting: there is too little to learn from, or no paraphrase where they are to be learnt from; or
            the KL is to be taken over a classifier's hypotheses.
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
    if read_or_none(best_file, lambda: load_tensors(best_file, made_of)):  # a checkpoint is of no use without
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
            score = joint_score(rates, editor.retain_at_least)
            if score > counters["best"]:
                save_tensors(relaxed.hypernetwork.state_dict(), best_file, made_of=made_of)
            margin = counters["margin"]
            row = {"step": step + 1, **rates, "margin": margin}
            row |= {"multiplier": relaxed.multiplier.item(), "constraint": constraint.item()}
            decay, floor, threshold = editor.margin_decay, editor.margin_floor, editor.margin_success
            next_margin = annealed(margin, rates["success"], decay=decay, floor=floor, threshold=threshold)
            counters = {
                "step": step + 1,
                "best": max(score, counters["best"]),
                "margin": next_margin,
                "history": [*counters["history"], row],
            }
            save_checkpoint(checkpoint, relaxed, optimizer, counters, made_of=made_of)
            write_text(json.dumps(counters, indent=1), workspace.folder / "history.json")
            logger.info("%s", ", ".join(f"{name} {value:.3g}" for name, value in row.items()))
        if counters["history"]:
            last = counters["history"][-1]
            told += f", dev success {last['success']:.0%} retain {last['retain']:.0%}"
        workspace.report(step + 1, editor.steps, told)
    state, _ = load_tensors(best_file, made_of)
    return state


def hypernetwork_for(editor: Learner, base: AbstractModel, training: TrainingSet) -> Hypernetwork:
    """The untrained hypernetwork, with the preconditioners, if there are any, of what it may learn from."""
    made = editor.hypernetwork(base)
    if editor.precondition:
        names = editable(base.network, editor.layers)
        found = preconditioners(
            base, names, editor.precondition, training, at_most=MOMENT_QUESTIONS, seed=editor.seed
        )
        set_preconditioners(made, found)
    return made


def _check(editor: Learner, base: AbstractModel, training: TrainingSet) -> None:
    """Without these a draw would never end, or a loss or a validation measure nothing."""
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
    """Random edits, a paraphrase of each if the editor learns from them, and other facts' questions.

    The questions of an edit come from each pool in turn. An edit without paraphrases is learnt from in its
    own words alone.
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
    """The edit loss, and the constraint's value C, under the updates of one batch.

    The loss is a mean over all prompts and paraphrases. `before` knows what the base model says to every
    retain question (`what_the_base_says`).
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
    """What the KL starts from on the base model's side, worked out once a question."""
    questions = [(each.prompt, each.prediction) for each in known]
    if editor.kl_over == "beam":
        return BaseHypotheses(base, questions, editor.kl_beams)
    return BaseLogits(base, questions)


def _over_hypotheses(
    before: BaseHypotheses, base: AbstractModel, updates: Mapping[str, LowRankBatch], asked: Sequence[Asked]
) -> Tensor:
    """The KL over each question's hypotheses, all of which are fed to the edited model."""
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
    """Some questions of similar length, fed with their answers, and what the edited models make of them."""

    indices: Sequence[int]  # which of those asked
    questions: Sequence[Question]
    rows: Rows
    logits: Tensor


def under_updates(
    base: AbstractModel, updates: Mapping[str, LowRankBatch], asked: Sequence[Asked]
) -> list[Part]:
    """Asks each edit's model its questions, which stand together: every one once.

    What lies below the edited layers is the base model's, and is asked once a question, not once a step.
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
    """Which are asked in one pass; of a network whose edits cannot share one, each edit's by themselves."""
    passes = _together(base, asked)
    if base.one_pass.holds_edits(updates):
        return passes
    return [
        list(part) for indices in passes for _, part in groupby(indices, key=lambda index: asked[index][0])
    ]


def _together(base: AbstractModel, asked: Sequence[Asked]) -> list[list[int]]:
    """Which are asked in one pass: of each edit as many, first its shortest, at the end its longest.

    So lengths are alike, which spares padding, and every edit has equally many rows, which
    `low_rank_applied` does fastest. An edit's only row is asked in the last pass.
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
    """The rates that a checkpoint is chosen by, on the same dev edits every time, under teacher forcing.

    Of each edit's paraphrases, one is asked; an edit without any does not count for equivalence.
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
    """What checkpoints are chosen by: the harmonic mean of all rates, 0 as soon as one of them is.

    Retaining is a constraint: a checkpoint that retains less than it should is worse than any that does not,
    and of such ones the best is the one that retains most.
    """
    if rates["retain"] < retain_at_least:
        return rates["retain"] - 1
    return len(rates) / sum(1 / rate for rate in rates.values()) if all(rates.values()) else 0.0
