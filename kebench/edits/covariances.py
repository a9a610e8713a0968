"""Computes what ROME, MEMIT and AlphaEdit need: covariances of keys, C = E[k kᵀ], and contexts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kebench.edits.edit import Batch
from kebench.edits.editor import (
    AbstractTrainedEditor,
    AbstractWeightEditor,
    Carried,
    State,
    TrainingSet,
    Workspace,
)
from kebench.edits.locate import mlp_layer
from kebench.edits.moments import second_moments
from kebench.errors import check_positive
from kebench.models.changes import Changes
from kebench.models.model import AbstractModel
from kebench.task import Family

CONTEXT_TOKENS = 10
"""The number of tokens in a generated context."""
CHOICES = 5
"""The next token of a context is drawn from this number of the most likely tokens."""


@dataclass(frozen=True)
class Covariances(AbstractWeightEditor, AbstractTrainedEditor):
    """The preparation that locate-then-edit editors share. As an editor, it changes nothing.

    Its state has, for each layer, the eigenvalues and eigenvectors of C = E[k kᵀ], where k is the input of
    the last linear map of the layer's MLP. It is a mean over the tokens of the training questions and their
    answers. The state also has the tokens of some texts that the base model generates. They stand before
    prompts.

    The original programs use 100,000 articles of Wikipedia. A few times d_in tokens are enough (arXiv
    2506.04226), and the questions of the pack need no download.

    Attributes:
        layers: the numbers of the layers.
        questions: the largest number of training questions.
        contexts: the number of generated texts.
        seed: the seed of all random choices.
    """

    learns_from: ClassVar[Literal["edits", "questions"]] = "questions"
    citation: ClassVar[str] = "meng2022locating"
    families: ClassVar[tuple[Family, ...]] = ("causal",)

    layers: tuple[int, ...] = (0,)
    questions: int = 1024
    contexts: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "questions")
        check_positive(self, "contexts", or_zero=True)

    def prepared_by(self) -> "Covariances":
        """See `AbstractTrainedEditor.prepared_by`."""
        return self

    def prepare(self, base: AbstractModel, training: TrainingSet, workspace: Workspace) -> State:
        """See `AbstractTrainedEditor.prepare`."""
        names = [mlp_layer(base, number).mlp_out[0] for number in self.layers]
        generator = torch.Generator().manual_seed(self.seed)
        known = [*training.known, *training.unseen]
        chosen = [
            known[i] for i in torch.randperm(len(known), generator=generator)[: self.questions].tolist()
        ]
        moments = second_moments(base, names, [(each.prompt, each.prediction) for each in chosen])
        state: dict[str, Tensor] = {"contexts": _contexts(base, self.contexts, generator)}
        for name, moment in moments.items():
            values, vectors = torch.linalg.eigh(moment)
            state |= {f"{name}/values": values, f"{name}/vectors": vectors}
        return state

    def update(
        self, state: State, start: AbstractModel, batches: Sequence[Batch], carried: Sequence[Carried]
    ) -> tuple[list[Changes], Sequence[Carried]]:
        """See `AbstractWeightEditor.update`. The updates are empty."""
        return [{} for _ in batches], carried


@torch.no_grad()
def _contexts(base: AbstractModel, count: int, generator: torch.Generator) -> Tensor:
    """Returns the tokens of texts that are drawn from the base model, (count, tokens)."""
    tokenizer, network = base.tokenizer, base.network
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((count, 1), int(start), device=base.device)
    for _ in range(CONTEXT_TOKENS if count else 0):
        logits = network(input_ids=ids, use_cache=False).logits[:, -1].float().cpu()
        logits[:, tokenizer.all_special_ids] = -torch.inf
        likeliest = logits.topk(CHOICES)
        drawn = torch.multinomial(likeliest.values.softmax(1), 1, generator=generator)
        ids = torch.cat([ids, likeliest.indices.gather(1, drawn).to(ids)], dim=1)
    return ids[:, 1:].cpu()


def context_texts(base: AbstractModel, state: State) -> list[str]:
    """Returns the texts of a state, each with a full stop at its end."""
    texts = base.tokenizer.batch_decode(state["contexts"].long().tolist(), skip_special_tokens=True)
    return [f"{text.strip()}." for text in texts]


def covariance(state: State, weight: str) -> tuple[Float[Tensor, " d_in"], Float[Tensor, "d_in d_in"]]:
    """Returns the eigenvalues of one map's C, ascending, and its eigenvectors, both in float64.

    C is singular if the texts have fewer tokens than d_in. So eigenvalues below 1e-6 of the largest are set
    to that value, which bounds C⁻¹.
    """
    values, vectors = state[f"{weight}/values"].double().cpu(), state[f"{weight}/vectors"].double().cpu()
    return values.clamp_min(1e-6 * float(values[-1])), vectors
