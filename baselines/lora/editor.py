"""LoRA: low-rank adapters of the library peft, trained on the edit alone."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kebench.edits.edit import Batch
from kebench.edits.editor import AbstractWeightEditor, Carried, State
from kebench.edits.versions import reached
from kebench.errors import BadSetting, BrokenEditor, check_positive
from kebench.models.changes import Changes, LowRank
from kebench.models.layers import Layers, check_layers, linear_maps
from kebench.models.model import AbstractModel
from kebench.models.parts import Part, weights_of
from kebench.models.rows import target_loss

ADAPTER = "default"
"""The name that peft gives to an adapter if it is not told another one."""


@dataclass(frozen=True)
class LoRA(AbstractWeightEditor):
    """W' = W + (α / r) B A, with factors that are trained until the model answers a.

        A ~ U(−1/√d_in, 1/√d_in),  B = 0           so that W' = W before the first step
        A, B ← Adam on −log p(a | x)               the mean over all tokens of a, with the end of sequence

    A batch has one adapter; its loss is the mean over its edits. A batch of a sequence is a new adapter of
    the weights that the earlier ones gave.

    Attributes:
        layers: the layers whose matrices get adapters (`kebench.models.layers.editable`).
        parts: the matrices of a layer that get adapters: `attention`, `mlp_in`, `mlp_out`.
        rank: r.
        alpha: α.
        learning_rate: the learning rate of Adam.
        max_steps: the largest number of steps.
        seed: the seed of A, together with the ids of the edits.

    Source: Hu et al. 2021, *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685, Eq. 3 and
    §4.1.
    """

    citation: ClassVar[str] = "hu2022lora"

    layers: Layers = "all"
    parts: tuple[Part, ...] = ("attention",)
    rank: int = 8
    alpha: int = 32
    learning_rate: float = 5e-3
    max_steps: int = 70
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha", "learning_rate")
        check_positive(self, "max_steps", or_zero=True)
        check_layers(self.layers)

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. Each batch is trained by itself, from the same weights."""
        adapted = Adapted.of(start, self)
        return [self.train(start, adapted, batch) for batch in batches], carried

    def train(self, start: AbstractModel, adapted: "Adapted", batch: Batch) -> Changes:
        """Returns the change that answers each edit of the batch, or that of the last step."""
        ids = ",".join(edit.id for edit in batch)
        digest = hashlib.sha256(f"{self.seed}:{ids}".encode()).digest()
        adapted.reset(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        optimizer = torch.optim.Adam(adapted.parameters(), lr=self.learning_rate)
        # Rows that would change each other's answers are passed one by one.
        together = [batch] if start.one_pass.holds_rows() else [(edit,) for edit in batch]
        rows = [start.rows([e.prompt for e in edits], [e.target for e in edits]) for edits in together]
        change: Changes = {}
        for _ in range(self.max_steps):
            if all(reached(start, [change], [batch])[0]):
                break
            optimizer.zero_grad()
            with torch.enable_grad():
                for part in rows:
                    loss = target_loss(adapted.model.logits(part), part).sum() / len(batch)
                    loss.backward()
            optimizer.step()
            change = adapted.change()
        return change


@dataclass(frozen=True)
class Adapted:
    """A copy of a model with adapters. It shares all tensors with the model, which does not change.

    Attributes:
        model: the copy.
        factors: parameter name → B and A of its adapter, which are trained in place.
        scale: α / r.
    """

    model: AbstractModel
    factors: Mapping[str, LowRank]
    scale: float

    @staticmethod
    def of(start: AbstractModel, settings: LoRA) -> "Adapted":
        """Returns a copy of `start` with an adapter at each matrix that the settings choose.

        Raises:
            BrokenEditor: peft is not installed.
            BadSetting: the settings choose no matrix, or one that peft refuses.
        """
        if find_spec("peft") is None:
            raise BrokenEditor("the editor lora needs peft: pip install 'kebench[lora]'")
        from peft import LoraConfig, inject_adapter_in_model

        names = weights_of(start.network, start.parts, settings.layers, settings.parts)
        maps = linear_maps(start.network)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            # peft reads a list as endings of names, and a string as a regular expression of whole names.
            target_modules="|".join(re.escape(name.removesuffix(".weight")) for name in names),
            fan_in_fan_out=all(isinstance(maps[name], Conv1D) for name in names),
        )
        model = start.with_weights({})
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; `reset` draws again
            try:
                inject_adapter_in_model(config, model.network, ADAPTER)
            except ValueError as error:  # of some maps of state-space layers
                raise BadSetting(
                    f"parts: found {', '.join(settings.parts)}, wanted others: {error}"
                ) from None
        factors = {}
        for name in names:
            path = name.removesuffix(".weight")
            a = model.network.get_parameter(f"{path}.lora_A.{ADAPTER}.weight")
            b = model.network.get_parameter(f"{path}.lora_B.{ADAPTER}.weight")
            for each in (a, b):
                each.data = each.data.to(torch.promote_types(each.dtype, torch.float32))  # from bfloat16
            factors[name] = LowRank(b, a)
        return Adapted(model, factors, settings.alpha / settings.rank)

    def parameters(self) -> list[Tensor]:
        """Returns all factors."""
        return [factor for each in self.factors.values() for factor in (each.A, each.B)]

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws A as peft does, but on the CPU and from the given generator, and sets B to 0."""
        for each in self.factors.values():
            drawn = torch.empty(each.A.shape)
            each.A.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
            each.B.zero_()

    def change(self) -> Changes:
        """Returns (α / r) B and A of each matrix, as copies."""
        return {
            name: LowRank(self.scale * each.B.detach(), each.A.detach().clone())
            for name, each in self.factors.items()
        }
