"""KnowledgeEditor (De Cao, Aziz, Titov, EMNLP 2021): a hypernetwork that predicts the update of an edit.

The paper's equations are in `method.py`, the networks in `hypernetwork.py`, and their training in
`training.py`. Everything that is not in the paper is in `additions.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kebench.edits.applications import edit_gradients, until_answered
from kebench.edits.edit import Batch, Edit
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.errors import BadSetting, check_positive
from kebench.models.changes import Changes, LowRankBatch
from kebench.models.layers import Layers, check_layers, editable, linear_maps, map_shape
from kebench.models.model import AbstractModel, EditsInForce, base_weights
from kebench.models.rows import pad

from .additions import preconditioners_of, reserve_preconditioners, updates_with_additions
from .hypernetwork import Hypernetwork
from .method import HeadVectors, condition_text, mask_of, masked_update, offset_of
from .training import train


@dataclass(frozen=True)
class KnowledgeEditor(AbstractWeightEditor, AbstractTrainedEditor):
    """De Cao et al.'s method. The defaults are their FEVER settings, except that a step learns many edits.

    Attributes:
        constraint: what protects other answers: `kl`, or `l2`, the size of the update (row C_L2).
        kl_over: how the KL of a generative model is computed. `answer`: over the tokens of the base model's
            answer, one by one, as in the released code. `beam`: over whole answers, the `kl_beams` best ones
            of beam search, as in the paper. See `training.py` and `hypotheses.py`.
        kl_beams: the k of `beam`. The constraint of a step then has k times as many rows.
        paraphrases: learn from one random paraphrase of each edit too (row + P^x). For an edit without
            paraphrases, only the prompt is used. If no training edit has one, the setting is refused.
        loop: at test time, the largest number of applications (+ loop: 5). The edited model is edited again
            until it answers a. The gradient is that of the edited model, and the condition keeps the base
            model's y, as in the original FEVER script. The original zsRE script adds the same update again
            and checks a paraphrase.
        layers: the layers whose matrices are changed: `first`, `last`, `all`, a list of numbers, or a pattern
            of parameter names (`kebench.models.layers.editable`).
        scale: the largest σ(η)·scale, which is 1 in the original. With `step: polyak` it is in Polyak steps.
        step: the update of an untrained hypernetwork. `paper`: nearly none, with a random sign. `polyak`: a
            step down the gradient; with σ(η)·scale = 1 it would bring a linear loss to 0. This is not in the
            paper; see `additions.py`.
        precondition: ε. If it is above 0, updates are multiplied by (C / e + I)⁻¹, where C is the second
            moment of the layer's inputs, and e is ε times its mean eigenvalue. This is not in the paper.
        lstm_size, condition_size, head_size: the widths of the condition encoder and the heads.
        max_condition_tokens: the condition is truncated to this number of tokens.
        margin, margin_floor: the constraint's m at the start, and its smallest value.
        margin_decay: the factor of m after a validation with dev success above `margin_success`.
        relative_margin: relax the constraint as λ (C / m − 1), so that λ need not be a thousand times larger
            if C is a thousand times smaller. In the paper it is λ (C − m).
        steps: the number of optimiser steps.
        edits_per_step: the number of edits in a step.
        retain_per_edit: the number of questions about other facts for each edit, for the KL.
        learning_rate, multiplier_rate: the learning rates of the hypernetwork and of the Lagrange multiplier.
        warmup_steps, decay_steps: both rates rise linearly from 0, and fall linearly to 0.
        label_smoothing: the label smoothing of the edit loss of a generative model.
        validate_every, validate_edits: the steps between validations, and the dev edits in each.
        choose_by: the dev rates whose harmonic mean chooses the checkpoint.
        retain_at_least: the dev retain rate that a checkpoint needs to be chosen, if any reaches it.
        save_as: the number type of the learnt weights on file.
        seed: the seed of the initial weights and of all random choices.
    """

    citation: ClassVar[str] = "decao2021editing"

    constraint: Literal["kl", "l2"] = "kl"
    kl_over: Literal["answer", "beam"] = "answer"
    kl_beams: int = 5
    paraphrases: bool = False
    loop: int = 1
    layers: Layers = "all"
    scale: float = 1.0
    step: Literal["paper", "polyak"] = "paper"
    precondition: float = 0.0
    lstm_size: int = 128
    condition_size: int = 1024
    head_size: int = 128
    max_condition_tokens: int = 32
    margin: float = 1e-1
    margin_floor: float = 1e-3
    margin_decay: float = 0.8
    margin_success: float = 0.9
    relative_margin: bool = False
    steps: int = 50_000
    edits_per_step: int = 16
    retain_per_edit: int = 16
    learning_rate: float = 3e-4
    multiplier_rate: float = 1e-1
    warmup_steps: int = 1000
    decay_steps: int = 200_000
    label_smoothing: float = 0.1
    validate_every: int = 500
    validate_edits: int = 128
    choose_by: tuple[Literal["success", "equivalence", "retain"], ...] = ("success", "retain")
    retain_at_least: float = 0.0
    save_as: Literal["float32", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(
            self, "loop", "scale", "lstm_size", "condition_size", "head_size", "max_condition_tokens",
            "steps", "edits_per_step", "retain_per_edit", "learning_rate", "decay_steps",
            "validate_every", "validate_edits",
        )  # fmt: skip
        check_positive(
            self, "margin", "margin_floor", "margin_decay", "margin_success", "multiplier_rate",
            "warmup_steps", "label_smoothing", "precondition", "retain_at_least", or_zero=True,
        )  # fmt: skip
        check_layers(self.layers)

        if self.kl_over == "beam" and self.constraint != "kl":
            raise BadSetting(f"kl_over: found beam with the constraint {self.constraint}, wanted kl")
        if self.kl_beams < 2:
            raise BadSetting(f"kl_beams: found {self.kl_beams}, wanted 2 or more: with one, the KL is 0")
        if "equivalence" in self.choose_by and not self.paraphrases:
            raise BadSetting("choose_by: found equivalence with paraphrases: false, wanted paraphrases: true")
        if not {"success", "retain"} <= set(self.choose_by):
            raise BadSetting(f"choose_by: found {self.choose_by}, wanted success and retain among them")

    def prepared_by(self) -> "KnowledgeEditor":
        """See `AbstractTrainedEditor.prepared_by`. Training does not read `loop`."""
        return replace(self, loop=1)

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor.prepare`. The hypernetwork is trained."""
        state = train(self, base, training, workspace)
        return {name: tensor.to(getattr(torch, self.save_as)) for name, tensor in state.items()}

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. The hypernetwork is applied at most `loop` times.

        An application to a batch is the sum of the hypernetwork's updates for each of its edits.
        """
        predict = partial(self.predict, self.trained(start, state), start)
        return until_answered(start, batches, self.loop, predict), carried

    def predict(
        self,
        hypernetwork: Hypernetwork,
        base: AbstractModel,
        edits: Sequence[Edit],
        under: EditsInForce = base_weights,
    ) -> dict[str, LowRankBatch]:
        """Returns ∇̃W of every edit, from its condition and its gradient with the edits `under` in force."""
        losses, gradients = edit_gradients(base, edits, editable(base.network, self.layers), under)
        vectors: dict[str, HeadVectors] = hypernetwork(*self.condition(base, edits), gradients)
        if self.step == "polyak" or self.precondition:
            preconditioners = preconditioners_of(hypernetwork)
            return updates_with_additions(
                vectors, gradients, losses, preconditioners, scale=self.scale, polyak=self.step == "polyak"
            )
        predicted = {}
        for name, gradient in gradients.items():
            each = vectors[name]
            strength = self.scale * torch.sigmoid(each.eta)
            predicted[name] = masked_update(gradient, mask_of(each), offset_of(each), strength)
        return predicted

    def condition(self, base: AbstractModel, edits: Sequence[Edit]) -> tuple[Tensor, Tensor]:
        """Returns the token ids of `y >> a || x`, (edits, tokens), and their lengths, (edits,)."""
        texts = [condition_text(edit.prediction, edit.target, edit.prompt) for edit in edits]
        ids = base.tokenizer(texts, truncation=True, max_length=self.max_condition_tokens)["input_ids"]
        return pad(ids, 0, base.device), torch.tensor([len(row) for row in ids])

    def trained(self, base: AbstractModel, state: State) -> Hypernetwork:
        """Returns the hypernetwork with learnt weights. It is made on `meta`, so no weights are drawn."""
        with torch.device("meta"):
            made = self._untrained(base)
        made.load_state_dict(
            {name: tensor.to(base.network.dtype) for name, tensor in state.items()}, assign=True
        )
        return made.requires_grad_(False)

    def hypernetwork(self, base: AbstractModel) -> Hypernetwork:
        """Returns a hypernetwork for this base model, with weights drawn with the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._untrained(base).to(device=base.device, dtype=base.network.dtype)

    def _untrained(self, base: AbstractModel) -> Hypernetwork:
        maps = linear_maps(base.network)
        embeddings = base.network.get_input_embeddings().weight
        assert isinstance(embeddings, Tensor)
        made = Hypernetwork(
            {name: map_shape(maps[name]) for name in editable(base.network, self.layers)},
            embeddings,
            lstm_size=self.lstm_size,
            condition_size=self.condition_size,
            head_size=self.head_size,
        )
        if self.precondition:
            reserve_preconditioners(made)
        return made
