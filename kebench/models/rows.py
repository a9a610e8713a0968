"""Teacher-forced rows: a batch of prompts with the answers they are scored on.

Only positions that have a label are ever scored, so logits come flat: (scored, vocab), where `Rows.row`
says which row of the batch a position belongs to. A classifier scores one position a row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

IGNORE = -100
"""The label of a position that is not scored."""


@dataclass(frozen=True)
class Rows:
    """A batch as a network takes it.

    Attributes:
        inputs: the network's keyword arguments.
        labels: (scored,). The token, or class, that each scored position should predict.
        row: (scored,). The row of the batch each of them belongs to.
        mask: (batch, tokens). Where they lie; None for a classifier.
        ends: the tokens that end an answer: any of them serves where a row's last label is one. Empty for a
            classifier.
    """

    inputs: Mapping[str, Tensor]
    labels: Int[Tensor, " scored"]
    row: Int[Tensor, " scored"]
    mask: Bool[Tensor, "batch tokens"] | None = None
    ends: tuple[int, ...] = ()

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return next(iter(self.inputs.values())).shape[0]

    def tokens(self, name: str) -> list[tuple[int, ...]]:
        """Each row of an input without its padding: the encoder's or the only one, or the decoder's."""
        real = self.inputs["attention_mask"] if name == "input_ids" else self.mask
        assert real is not None
        # A decoder's rows have no mask, but their last token is always scored.
        ends = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)
        return [tuple(ids[:end]) for ids, end in zip(self.inputs[name].tolist(), ends.tolist(), strict=True)]

    def part(self, indices: Sequence[int]) -> "Rows":
        """Some of the rows, in their order here, as widely padded."""
        chosen = torch.tensor(indices, device=self.row.device)
        scored = torch.isin(self.row, chosen)
        return Rows(
            {name: tensor[chosen] for name, tensor in self.inputs.items()},
            self.labels[scored],
            torch.searchsorted(chosen, self.row[scored]),
            None if self.mask is None else self.mask[chosen],
            self.ends,
        )

    @staticmethod
    def unscored(inputs: Mapping[str, Tensor]) -> "Rows":
        """Rows of which nothing is known yet but the question."""
        nothing = inputs["input_ids"].new_zeros(0)
        return Rows(inputs, nothing, nothing)

    @staticmethod
    def of(
        inputs: Mapping[str, Tensor], labels: Int[Tensor, "batch tokens"], ends: tuple[int, ...] = ()
    ) -> "Rows":
        """Rows with a label at every position that is not `IGNORE`."""
        mask = labels != IGNORE
        return Rows(inputs, labels[mask], mask.nonzero()[:, 0], mask, ends)

    @property
    def last(self) -> Bool[Tensor, " scored"]:
        """Which scored positions are the last of their rows."""
        last = torch.ones_like(self.row, dtype=torch.bool)
        last[:-1] = self.row[1:] != self.row[:-1]
        return last

    def says_end(self, tokens: Int[Tensor, " scored"]) -> Bool[Tensor, " scored"]:
        """Which of the tokens end an answer."""
        return torch.isin(tokens, torch.tensor(self.ends, dtype=tokens.dtype, device=tokens.device))


def pad(
    sequences: Sequence[Sequence[int]], value: int, device: torch.device, *, left: bool = False
) -> Int[Tensor, "batch tokens"]:
    """The sequences as one tensor, the shorter ones filled up with `value`."""
    width = max(map(len, sequences))
    fill = [[value] * (width - len(row)) for row in sequences]
    rows = [[*f, *row] if left else [*row, *f] for row, f in zip(sequences, fill, strict=True)]
    return torch.tensor(rows, dtype=torch.long, device=device)


@contextmanager
def only_at(network: nn.Module, mask: Bool[Tensor, "batch tokens"]) -> Iterator[None]:
    """Lets the output layer see the masked positions alone: it is most of a short answer's cost."""
    output = network.get_output_embeddings()  # type: ignore[operator]
    handle = output.register_forward_pre_hook(lambda _, inputs: (inputs[0][mask],))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watching_logits(
    network: nn.Module, see: Callable[[Float[Tensor, "batch vocab"]], None]
) -> Iterator[None]:
    """Calls `see` with the logits of every pass of a network; with the last position's, if it generates."""

    def after_pass(_module: nn.Module, _inputs: object, output: ModelOutput) -> None:
        logits: Tensor = output["logits"]
        see(logits[:, -1] if logits.ndim == 3 else logits)

    handle = network.register_forward_hook(after_pass)
    try:
        yield
    finally:
        handle.remove()


def is_finite(logits: Float[Tensor, "rows vocab"]) -> Bool[Tensor, " rows"]:
    """Which rows of logits are a distribution: none of them is NaN or +∞, and not all are -∞."""
    return logits.amax(-1).isfinite()  # NaN is the largest of whatever it is among


def at_least_float32(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
    """Logits to reckon with: of a bfloat16 network, in float32; else as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def target_loss(
    logits: Float[Tensor, "scored vocab"], rows: Rows, *, smoothing: float = 0.0
) -> Float[Tensor, " batch"]:
    """The negative log-likelihood of each row's target, a mean over its tokens, in nats.

    Args:
        logits: (scored, vocab).
        rows: what they are scored on; every row has at least one label.
        smoothing: label smoothing ε: (1 − ε)·NLL + ε·(mean NLL over the vocabulary).
    """
    normaliser = logits.logsumexp(-1)
    nll = normaliser - logits.gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        nll = (1 - smoothing) * nll + smoothing * (normaliser - logits.mean(-1))
    total = logits.new_zeros(rows.batch).index_add(0, rows.row, nll)
    return total / torch.bincount(rows.row, minlength=rows.batch)


def kl_divergence(
    base: Float[Tensor, "scored vocab"], edited: Float[Tensor, "scored vocab"]
) -> Float[Tensor, ""]:
    """KL(p_θ ‖ p_θ'), a mean over scored positions, in nats.

    Source: De Cao et al. 2021, the constraint of Eq. 3; the base distribution comes first, as in their code.
    """
    p, q = base.log_softmax(-1), edited.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def log_odds(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Float[Tensor, " batch"]:
    """ln(p / (1 − p)) of each row's whole answer, its end included, where p is the product over its tokens.

    The probability of the end is the sum over all tokens that end an answer. In float64, where p is at most
    1 − 10⁻¹⁶: so no value is above 36.8 nats.
    """
    labels, row = rows.labels.cpu(), rows.row.cpu()  # not every device has float64
    log_probs = logits.cpu().double().log_softmax(-1)
    likely = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if len(rows.ends) > 1:
        likely = torch.where(rows.last.cpu(), log_probs[:, list(rows.ends)].logsumexp(-1), likely)
    total = likely.new_zeros(rows.batch).index_add(0, row, likely).clamp(max=-1e-16)
    return total - (-total.expm1()).log()


def all_argmax(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Bool[Tensor, " batch"]:
    """Whether the likeliest token is the label at every scored position of a row.

    Where answers end, greedy search stops at any token of `rows.ends`: so at a row's last position any of
    them is as good as the label, and at earlier ones none is, the label itself included.
    """
    said = logits.argmax(-1)
    right = said == rows.labels
    if rows.ends:
        ends = rows.says_end(said)
        right = torch.where(rows.last, ends, right & ~ends)
    return none_in_row(~right, rows)


def all_argmax_before_the_end(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Bool[Tensor, " batch"]:
    """The same, but for each row's last position, where the sequence should end."""
    return none_in_row((logits.argmax(-1) != rows.labels) & ~rows.last, rows)


def none_in_row(misses: Bool[Tensor, " scored"], rows: Rows) -> Bool[Tensor, " batch"]:
    """Whether none of a row's scored positions is a miss."""
    count = torch.zeros(rows.batch, dtype=torch.long, device=misses.device)
    return count.index_add(0, rows.row, misses.long()) == 0


def least_margin(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Float[Tensor, " batch"]:
    """How near a greedy answer is to another, in nats: a row's least lead over its scored positions.

    The lead at a position is its largest logit minus its second largest, whatever the label. Tokens that end
    an answer are no rivals of each other: together they count as one, with the largest of their logits.
    """
    if len(rows.ends) > 1:
        first, *others = rows.ends
        largest = logits[:, list(rows.ends)].amax(-1)
        logits = logits.clone()
        logits[:, others] = float("-inf")
        logits[:, first] = largest
    best = logits.topk(2, dim=-1).values
    start = logits.new_full((rows.batch,), float("inf"))
    return start.scatter_reduce(0, rows.row, best[:, 0] - best[:, 1], "amin")
