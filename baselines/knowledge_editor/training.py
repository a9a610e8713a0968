"""How the hypernetwork is trained: edits that take, under a constraint on what they change elsewhere.

    min_φ Σ L(θ'; x̂, a)  over x̂ in {x} (and one paraphrase, + P^x)
    s.t.  C(θ, θ'; O^x) ≤ m      (De Cao et al. 2021, Eq. 2, 3), relaxed as  L + λ (C − m),  λ ≥ 0 ascending

C is the KL divergence on other facts' questions, or the size of the update. The margin m is annealed.

The paper sums the divergence over all of O^x; a step takes a few questions drawn from it, which is its Monte
Carlo estimate. What the divergence of one question is taken over, `kl_over` says:

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
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kebench.edits.editor import Known, State, TrainingEdit, TrainingSet, Workspace
from kebench.edits.moments import preconditioners
from kebench.edits.versions import low_rank_under
from kebench.errors import BadSetting
from kebench.files.tensors import save_tensors
from kebench.files.writing import write_text
from kebench.models.base_logits import BaseLogits, Question
from kebench.models.changes import LowRankBatch
from kebench.models.layers import editable
from kebench.models.model import AbstractModel
from kebench.models.rows import Rows, all_argmax, kl_divergence, target_loss
from kebench.training.checkpoints import load_checkpoint, save_checkpoint
from kebench.training.schedule import warmup_then_decay

from .hypernetwork import Hypernetwork
from .hypotheses import BaseHypotheses, kl_over_hypotheses, sequence_log_probs

if TYPE_CHECKING:
    from .editor import KnowledgeEditor

logger = logging.getLogger(__name__)

TOKENS_TOGETHER = {"cpu": 1024, "cuda": 16_384}
"""About how many padded prompt tokens are in one pass: questions of many lengths in one are half padding."""

MOMENT_QUESTIONS = 1024
"""Questions that second moments are a mean over, at most; each gives the tokens of its prompt and answer."""

Asked = tuple[int, str, str]
"""The edit under which a prompt is asked, the prompt, and the answer that is fed after it."""


@dataclass(frozen=True)
class Batch:
    """The edits of one step, each with its retain questions."""

    edits: Sequence[TrainingEdit]
    paraphrases: Sequence[str | None]  # one an edit, None where it has none; or none at all
    retain: Sequence[Known]
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


def train(
    editor: "KnowledgeEditor", base: AbstractModel, training: TrainingSet, workspace: Workspace
) -> State:
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
    start = {"step": 0, "margin": editor.margin, "best": -math.inf, "history": []}
    counters: dict[str, Any] = load_checkpoint(checkpoint, relaxed, optimizer) or start
    for step in range(counters["step"], editor.steps):
        rate = warmup_then_decay(step, editor.warmup_steps, editor.decay_steps)
        optimizer.param_groups[0]["lr"] = rate * editor.learning_rate
        optimizer.param_groups[1]["lr"] = rate * editor.multiplier_rate
        batch = draw(training.train, pools, editor, f"{editor.seed}:{step}", editor.edits_per_step)
        edit_loss, constraint = losses(editor, relaxed.hypernetwork, base, before, batch)
        told = f"loss {edit_loss.item():.3f}, C {constraint.item():.2g}"
        loss = lagrangian(
            edit_loss, constraint, relaxed.multiplier, counters["margin"], relative=editor.relative_margin
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            relaxed.multiplier.clamp_(min=0)

        if (step + 1) % editor.validate_every == 0 or step + 1 == editor.steps:
            rates = validate(editor, relaxed.hypernetwork, base, training)
            score = joint_score(rates, editor.retain_at_least)
            if score > counters["best"]:
                save_tensors(relaxed.hypernetwork.state_dict(), best_file)
            margin = counters["margin"]
            row = {"step": step + 1, **rates, "margin": margin}
            row |= {"multiplier": relaxed.multiplier.item(), "constraint": constraint.item()}
            tighter = max(editor.margin_decay * margin, editor.margin_floor)
            counters = {
                "step": step + 1,
                "best": max(score, counters["best"]),
                "margin": tighter if rates["success"] > editor.margin_success else margin,
                "history": [*counters["history"], row],
            }
            save_checkpoint(checkpoint, relaxed, optimizer, counters)
            write_text(json.dumps(counters, indent=1), workspace.folder / "history.json")
            logger.info("%s", ", ".join(f"{name} {value:.3g}" for name, value in row.items()))
        if counters["history"]:
            last = counters["history"][-1]
            told += f", dev success {last['success']:.0%} retain {last['retain']:.0%}"
        workspace.report(step + 1, editor.steps, told)
    return load_file(best_file)


def lagrangian(
    edit_loss: Tensor, constraint: Tensor, multiplier: Tensor, margin: float, *, relative: bool
) -> Tensor:
    """L + λ (C − m), Eq. 2 relaxed; or L + λ (C / m − 1), the same constraint in units of its margin."""
    excess = constraint - margin
    return edit_loss + multiplier * (excess / margin if relative else excess)


def hypernetwork_for(editor: "KnowledgeEditor", base: AbstractModel, training: TrainingSet) -> Hypernetwork:
    """The untrained hypernetwork, with the preconditioners, if there are any, of what it may learn from."""
    made = editor.hypernetwork(base)
    if editor.precondition:
        names = editable(base.network, editor.layers)
        found = preconditioners(
            base, names, editor.precondition, training, at_most=MOMENT_QUESTIONS, seed=editor.seed
        )
        for name, preconditioner in found.items():
            made.head(name).preconditioner = preconditioner
    return made


def _check(editor: "KnowledgeEditor", base: AbstractModel, training: TrainingSet) -> None:
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
    pools: Sequence[Sequence[Known]],
    editor: "KnowledgeEditor",
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
    retain: list[Known] = []
    for item in chosen:
        others: list[Known] = []
        while len(others) < editor.retain_per_edit:
            other = chance.choice(pools[len(others) % len(pools)])
            if other.fact != item.fact:
                others.append(other)
        retain += others
    owners = [index for index in range(len(chosen)) for _ in range(editor.retain_per_edit)]
    return Batch(chosen, paraphrases if editor.paraphrases else (), retain, owners)


def losses(
    editor: "KnowledgeEditor",
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
    edit_loss = torch.cat([target_loss(part.logits, part.rows, smoothing=smoothing) for part in parts]).mean()
    if editor.constraint == "l2":
        return edit_loss, update_size(updates, base)

    if isinstance(before, BaseHypotheses):
        return edit_loss, _over_hypotheses(before, base, updates, batch.retained())

    parts = under_updates(base, updates, batch.retained())
    questions = [question for part in parts for question in part.questions]
    return edit_loss, kl_divergence(before.of(questions), torch.cat([part.logits for part in parts]))


def what_the_base_says(
    editor: "KnowledgeEditor", base: AbstractModel, known: Sequence[Known]
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
    return kl_over_hypotheses(found, scores[places.argsort()])


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


def update_size(updates: Mapping[str, LowRankBatch], base: AbstractModel) -> Tensor:
    """The root of the mean squared entry of each update, a mean over matrices and edits."""
    sizes = []
    for name, batch in updates.items():
        entries = base.network.get_parameter(name).numel()
        sizes.append((batch.squared_norm() / entries).clamp_min(1e-24).sqrt().mean())
    return torch.stack(sizes).mean()


@torch.no_grad()
def validate(
    editor: "KnowledgeEditor", hypernetwork: Hypernetwork, base: AbstractModel, training: TrainingSet
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
