"""What an edit changes, as values: parameter name → `Dense` or `LowRank`."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kebench.models.layers import as_stored, linear_maps

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Dense:
    """θ' = θ + delta, in the parameter's own shape."""

    delta: Tensor


@dataclass(frozen=True)
class LowRank:
    """The linear map W' = W + B A, whichever way round the module stores W.

    Attributes:
        B: (d_out, rank).
        A: (rank, d_in).
    """

    B: Float[Tensor, "d_out rank"]
    A: Float[Tensor, "rank d_in"]

    def without_zeros(self) -> "LowRank":
        """The same map without the columns of B that are all zero, as those of padded tokens are."""
        used = (self.B != 0).any(0)
        return LowRank(self.B[:, used], self.A[used])


Changes = Mapping[str, Dense | LowRank]
"""Parameter name → what is added to it. Empty: nothing changes."""


@dataclass(frozen=True)
class LowRankBatch:
    """The factors of many edits of one matrix, the shorter ranks filled up with zeros.

    Attributes:
        B: (edits, d_out, rank).
        A: (edits, rank, d_in).
        ranks: each edit's own rank, where it is known to be less.
    """

    B: Float[Tensor, "edits d_out rank"]
    A: Float[Tensor, "edits rank d_in"]
    ranks: tuple[int, ...] | None = None

    def squared_norm(self) -> Float[Tensor, " edits"]:
        """‖B A‖² in the Frobenius norm, through (rank, rank) Gram matrices: tr(BᵀB · AAᵀ)."""
        gram_b = self.B.transpose(1, 2) @ self.B
        gram_a = self.A @ self.A.transpose(1, 2)
        return (gram_b * gram_a).sum((1, 2))  # both are symmetric

    def __getitem__(self, edit: int) -> LowRank:
        rank = self.ranks[edit] if self.ranks else None
        return LowRank(self.B[edit, :, :rank], self.A[edit, :rank])

    def of(self, edits: Sequence[int]) -> "LowRankBatch":
        """The factors of some edits, in that order."""
        first = edits[0]
        if list(edits) == list(range(first, first + len(edits))):
            places: slice | Tensor = slice(first, first + len(edits))  # a view: nothing is copied
        else:
            places = torch.tensor(edits, device=self.B.device)
        ranks = None if self.ranks is None else tuple(self.ranks[edit] for edit in edits)
        return LowRankBatch(self.B[places], self.A[places], ranks)

    def to(self, dtype: torch.dtype) -> "LowRankBatch":
        """The same factors as numbers of a type, such as that of the network they change."""
        return LowRankBatch(self.B.to(dtype), self.A.to(dtype), self.ranks)

    @staticmethod
    def stack(updates: Sequence[LowRank]) -> "LowRankBatch":
        """Several edits' factors as one batch."""
        b = pad_sequence([update.B.T for update in updates], batch_first=True).transpose(1, 2)
        a = pad_sequence([update.A for update in updates], batch_first=True)
        return LowRankBatch(b, a, tuple(len(update.A) for update in updates))


# Putting updates in force ----------------------------------------------------------------------------


@contextmanager
def low_rank_applied(
    network: nn.Module, updates: Mapping[str, LowRankBatch], which: Sequence[int]
) -> Iterator[None]:
    """Adds B[e] A[e] x to the output of each edited linear map, where e = which[row] is the row's edit.

    The base weights serve all rows at once. Rows of the same edit that stand next to each other are one pair
    of small products a layer, so sorted rows cost least; runs of equal length take two batched products.
    """
    runs = [(edit, len(list(rows))) for edit, rows in groupby(which)]
    equal = len({length for _, length in runs}) == 1
    edits = [edit for edit, _ in runs]
    factors = {
        name: (batch.of(edits) if equal else batch).to(network.get_parameter(name).dtype)
        for name, batch in updates.items()
    }

    def added(name: str, x: Tensor, output: Tensor) -> Tensor:
        batch = factors[name]
        if equal:
            inner = x.reshape(len(runs), -1, x.shape[-1]) @ batch.A.transpose(1, 2)  # (runs, tokens, rank)
            output.view(len(runs), -1, output.shape[-1]).baddbmm_(inner, batch.B.transpose(1, 2))
            return output
        # Beam search asks several rows for each of ours; they stand next to each other.
        changes = [batch[edit] for edit, _ in runs]
        lengths = [length for _, length in runs]
        inputs = x.reshape(len(which), -1, x.shape[-1]).split(lengths)
        inners = [rows.flatten(0, 1) @ change.A.T for rows, change in zip(inputs, changes, strict=True)]
        if torch.is_grad_enabled():
            # Written into its slices, an output would be copied once a run on the way back.
            parts = [inner @ change.B.T for inner, change in zip(inners, changes, strict=True)]
            return output + torch.cat(parts).view_as(output)
        slices = output.view(len(which), -1, output.shape[-1]).split(lengths)
        for slice_, inner, change in zip(slices, inners, changes, strict=True):
            slice_.flatten(0, 1).addmm_(inner, change.B.T)
        return output

    with after(network, factors, added):
        yield


@contextmanager
def dense_applied(
    network: nn.Module, deltas: Sequence[Mapping[str, Float[Tensor, "d_out d_in"]]]
) -> Iterator[None]:
    """Adds Δ_e x to the output of each edited linear map, where the rows of a batch are the edits' in order.

    The base weights serve all rows at once. Two products, θ x and Δ_e x, take less time than one with
    θ + Δ_e, and no memory: that sum would be kept, for every edit, until the backward pass.

    Args:
        network: the base network.
        deltas: parameter name → Δ of each edit, the same parameters in all; linear maps, whichever way
            round the module stores its own.
    """

    def added(name: str, x: Tensor, output: Tensor) -> Tensor:
        rows = x.reshape(len(deltas), -1, x.shape[-1])  # (edits, tokens, d_in)
        change = torch.stack([row @ delta[name].T for row, delta in zip(rows, deltas, strict=True)])
        return output + change.reshape(output.shape)

    with after(network, deltas[0], added):
        yield


@contextmanager
def after(
    network: nn.Module, names: Iterable[str], change: Callable[[str, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Calls `change(name, x, output)` for what each of these linear maps makes of x.

    If it returns a tensor, that tensor replaces the layer's output.
    """
    maps = linear_maps(network)
    handles = [
        maps[name].register_forward_hook(lambda _, inputs, output, name=name: change(name, inputs[0], output))
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def substituted(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Lets other tensors stand where parameters do, and puts the very same parameters back."""
    owners = {name: name.rpartition(".") for name in weights}
    places = {name: (network.get_submodule(path), leaf) for name, (path, _, leaf) in owners.items()}
    originals = {name: module._parameters[leaf] for name, (module, leaf) in places.items()}
    try:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = weights[name]  # type: ignore[assignment]
        yield
    finally:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = originals[name]


def with_weights(network: N, weights: Mapping[str, Tensor]) -> N:
    """A copy of a network in which other tensors stand in place of some parameters.

    All other parameters and buffers are shared with the original, so the copy costs the memory of `weights`
    alone. Neither network is changed by what happens to the modules of the other.

    Args:
        network: the original.
        weights: parameter name → what stands there in the copy, of the same shape.
    """
    tensors = chain(network.parameters(), network.buffers())
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    copied = copy.deepcopy(network, shared)
    for name, weight in weights.items():
        path, _, leaf = name.rpartition(".")
        # Set past nn.Module: a tied parameter stays as it is in its other place, as in `substituted`.
        copied.get_submodule(path)._parameters[leaf] = nn.Parameter(weight, requires_grad=False)
    return copied


def dense_weights(network: nn.Module, update: Changes) -> dict[str, Tensor]:
    """θ + Δ for every parameter an update changes: the plain meaning of an update."""
    weights = {}
    for name, change in update.items():
        theta = network.get_parameter(name)
        weights[name] = (theta + dense_delta(network, name, change)).to(theta.dtype)  # rounded once
    return weights


def dense_delta(network: nn.Module, name: str, change: Dense | LowRank) -> Tensor:
    """Δ of one parameter, in its own shape."""
    if isinstance(change, Dense):
        return change.delta
    return as_stored(network.get_submodule(name.rpartition(".")[0]), change.B @ change.A)


# Checks ----------------------------------------------------------------------------------------------


def is_finite(update: Changes) -> bool:
    """Whether no number of an update is NaN or infinite."""
    tensors = [
        tensor
        for change in update.values()
        for tensor in ((change.delta,) if isinstance(change, Dense) else (change.B, change.A))
    ]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
