"""Teacher-forced rows: a batch of prompts with the answers on which they are scored.

Only positions with a label are scored. So logits have the shape (scored, vocab), and `Rows.row` says to which
row of the batch each scored position belongs. A classifier has one scored position in each row.
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
    """The inputs of a network for a batch, and the labels of the scored positions.

    Attributes:
        inputs: the keyword arguments of the network.
        labels: (scored,). The token, or class, that each scored position should predict.
        row: (scored,). The row of the batch to which each scored position belongs.
        mask: (batch, tokens). True at scored positions; None for a classifier.
        ends: the tokens that end an answer. At the last position of a row, any of them is as right as the
            label. Empty for a classifier.
    """

    inputs: Mapping[str, Tensor]
    labels: Int[Tensor, " scored"]
    row: Int[Tensor, " scored"]
    mask: Bool[Tensor, "batch tokens"] | None = None
    ends: tuple[int, ...] = ()

    @property
    def batch(self) -> int:
        """The number of rows."""
        return next(iter(self.inputs.values())).shape[0]

    def tokens(self, name: str) -> list[tuple[int, ...]]:
        """Returns the tokens of each row of an input, without padding.

        Args:
            name: `input_ids`, or `decoder_input_ids` for the decoder's input.
        """
        real = self.inputs["attention_mask"] if name == "input_ids" else self.mask
        assert real is not None
        # The decoder's input has no attention mask, but the last token of a row is always scored.
        ends = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)
        return [tuple(ids[:end]) for ids, end in zip(self.inputs[name].tolist(), ends.tolist(), strict=True)]

    def part(self, indices: Sequence[int]) -> "Rows":
        """Returns some of the rows, in the order of this batch and with the same padding."""
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
        """Returns rows without answers, so without scored positions."""
        nothing = inputs["input_ids"].new_zeros(0)
        return Rows(inputs, nothing, nothing)

    @staticmethod
    def of(
        inputs: Mapping[str, Tensor], labels: Int[Tensor, "batch tokens"], ends: tuple[int, ...] = ()
    ) -> "Rows":
        """Returns rows that are scored at every position whose label is not `IGNORE`."""
        mask = labels != IGNORE
        return Rows(inputs, labels[mask], mask.nonzero()[:, 0], mask, ends)

    @property
    def last(self) -> Bool[Tensor, " scored"]:
        """(scored,). True at the last scored position of each row."""
        last = torch.ones_like(self.row, dtype=torch.bool)
        last[:-1] = self.row[1:] != self.row[:-1]
        return last

    def says_end(self, tokens: Int[Tensor, " scored"]) -> Bool[Tensor, " scored"]:
        """Returns which of the tokens end an answer."""
        return torch.isin(tokens, torch.tensor(self.ends, dtype=tokens.dtype, device=tokens.device))


def pad(
    sequences: Sequence[Sequence[int]], value: int, device: torch.device, *, left: bool = False
) -> Int[Tensor, "batch tokens"]:
    """Returns the sequences as one tensor, in which shorter ones are padded with `value`."""
    width = max(map(len, sequences))
    fill = [[value] * (width - len(row)) for row in sequences]
    rows = [[*f, *row] if left else [*row, *f] for row, f in zip(sequences, fill, strict=True)]
    return torch.tensor(rows, dtype=torch.long, device=device)


@contextmanager
def only_at(network: nn.Module, mask: Bool[Tensor, "batch tokens"]) -> Iterator[None]:
    """Inside the block, the output layer computes logits only at positions where the mask is True.

    Computing the output layer at every position dominates the cost of short answers.
    """
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
    """Inside the block, calls `see` with the logits of every pass, or with those of its last position."""

    def after_pass(_module: nn.Module, _inputs: object, output: ModelOutput) -> None:
        logits: Tensor = output["logits"]
        see(logits[:, -1] if logits.ndim == 3 else logits)

    handle = network.register_forward_hook(after_pass)
    try:
        yield
    finally:
        handle.remove()


def is_finite(logits: Float[Tensor, "rows vocab"]) -> Bool[Tensor, " rows"]:
    """Returns which rows of logits define a distribution: no logit is NaN or +∞, and not all are -∞."""
    return logits.amax(-1).isfinite()  # the maximum is NaN if any logit is NaN


def at_least_float32(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
    """Converts logits of a lower precision, such as bfloat16, to float32. Others are returned unchanged."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def target_loss(
    logits: Float[Tensor, "scored vocab"], rows: Rows, *, smoothing: float = 0.0
) -> Float[Tensor, " batch"]:
    """Returns the negative log-likelihood of each row's target, as a mean over its tokens, in nats.

    Args:
        logits: (scored, vocab).
        rows: the rows with their labels; every row has at least one.
        smoothing: label smoothing ε: (1 − ε)·NLL + ε·(mean NLL over the vocabulary).
    """
    normaliser = logits.logsumexp(-1)
    nll = normaliser - logits.gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        nll = (1 - smoothing) * nll + smoothing * (normaliser - logits.mean(-1))
    total = logits.new_zeros(rows.batch).index_add(0, rows.row, nll)
    return total / torch.bincount(rows.row, minlength=rows.batch)


def log_odds(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Float[Tensor, " batch"]:
    """Returns ln(p / (1 − p)) for each row, where p is the probability of its answer, including the end.

    The probability of the end is the sum over all tokens that end an answer. It is computed in float64, with
    p limited to 1 − 10⁻¹⁶, so no value is above 36.8 nats.
    """
    labels, row = rows.labels.cpu(), rows.row.cpu()  # not every device has float64
    log_probs = logits.cpu().double().log_softmax(-1)
    likely = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if len(rows.ends) > 1:
        likely = torch.where(rows.last.cpu(), log_probs[:, list(rows.ends)].logsumexp(-1), likely)
    total = likely.new_zeros(rows.batch).index_add(0, row, likely).clamp(max=-1e-16)
    return total - (-total.expm1()).log()


def all_argmax(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Bool[Tensor, " batch"]:
    """Returns for each row whether the most likely token is the label at all of its scored positions.

    Greedy decoding stops at any token in `rows.ends`. So at the last position of a row any of them is right,
    and at an earlier position all of them are wrong, even if one is the label.
    """
    said = logits.argmax(-1)
    right = said == rows.labels
    if rows.ends:
        ends = rows.says_end(said)
        right = torch.where(rows.last, ends, right & ~ends)
    return none_in_row(~right, rows)


def all_argmax_before_the_end(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Bool[Tensor, " batch"]:
    """As `all_argmax`, but without the last position of each row, where the sequence should end."""
    return none_in_row((logits.argmax(-1) != rows.labels) & ~rows.last, rows)


def none_in_row(misses: Bool[Tensor, " scored"], rows: Rows) -> Bool[Tensor, " batch"]:
    """Returns for each row whether none of its scored positions is a miss."""
    count = torch.zeros(rows.batch, dtype=torch.long, device=misses.device)
    return count.index_add(0, rows.row, misses.long()) == 0


def least_margin(logits: Float[Tensor, "scored vocab"], rows: Rows) -> Float[Tensor, " batch"]:
    """Returns the margin of each row, in nats: how far its greedy answer is from changing.

    It is the minimum, over the scored positions of the row, of the largest logit minus the second largest.
    The labels are not used. All tokens that end an answer are treated as one token, with the largest of their
    logits.
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
