"""Computes gradients of matrices as factors, ∇W = Dᵀ X over the tokens of a row, never as dense matrices."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kebench.models.changes import after, substituted
from kebench.models.layers import as_stored, linear_maps


@dataclass(frozen=True)
class GradientFactors:
    """The gradient of each row's loss for one matrix: ∇W[row] = D[row]ᵀ X[row].

    Attributes:
        D: (batch, tokens, d_out). The gradient of the loss for the layer's output; 0 at padding.
        X: (batch, tokens, d_in). The layer's input. If the network calls the layer several times, the tokens
            of all calls follow each other.
    """

    D: Float[Tensor, "batch tokens d_out"]
    X: Float[Tensor, "batch tokens d_in"]


class Probe:
    """Records, in one forward pass, what the factors of the gradient are computed from.

    A batch may have several rows only if `OnePass.holds_edits` is true for the network. With `one_row`, the
    network may be any: if it reads a weight without calling the layer, the dense gradient of that weight is
    computed.
    """

    def __init__(self, *, one_row: bool = False) -> None:
        self._one_row = one_row
        self._calls: list[tuple[str, Tensor, Tensor]] = []  # a layer's name, its input, the zero added
        self._weights: dict[str, tuple[nn.Module, Tensor]] = {}  # of one row's pass: layer, weight

    @contextmanager
    def watching(self, network: nn.Module, names: Sequence[str]) -> Iterator[None]:
        """Adds zeros to each layer's output. Their gradient is D, so the weights need no gradient."""
        if self._one_row:
            maps = linear_maps(network)
            for name in names:
                weight = maps[name].weight
                assert isinstance(weight, Tensor)
                self._weights[name] = maps[name], weight.detach().requires_grad_()

        def watch(name: str, x: Tensor, output: Tensor) -> Tensor | None:
            if self._one_row and not isinstance(output, Tensor):
                return None  # it is more than a linear map, so the gradient of its weight is used
            zeros = torch.zeros_like(output, requires_grad=True)
            self._calls.append((name, x.detach(), zeros))
            return output + zeros

        weights = {name: weight for name, (_, weight) in self._weights.items()}
        with substituted(network, weights), after(network, names, watch):
            yield

    def factors(self, losses: Float[Tensor, " batch"]) -> Mapping[str, GradientFactors]:
        """Returns parameter name → the factors of each row's own gradient.

        Args:
            losses: the loss of each row; it depends on no other row.
        """
        called = {name for name, _, _ in self._calls}
        whole = {name: each for name, each in self._weights.items() if name not in called}
        sources = [*(zeros for _, _, zeros in self._calls), *(weight for _, weight in whole.values())]
        # The gradient of what the network does not use is 0.
        found = torch.autograd.grad(losses.sum(), sources, materialize_grads=True)
        factors: dict[str, GradientFactors] = {}
        for (name, x, _), d in zip(self._calls, found, strict=False):
            # After pooling there is one position for each row. Some layers get rows and tokens as one axis.
            call = GradientFactors(
                D=d.reshape(len(losses), -1, d.shape[-1]), X=x.reshape(len(losses), -1, x.shape[-1])
            )
            factors[name] = _joined(factors[name], call) if name in factors else call
        for (name, (layer, _)), stored in zip(whole.items(), found[len(self._calls) :], strict=True):
            gradient = as_stored(layer, stored)  # (d_out, d_in): a transposition is its own inverse
            used = gradient.any(1)
            identity = torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)
            factors[name] = GradientFactors(D=identity[used][None], X=gradient[used][None])
        return factors


def _joined(first: GradientFactors, second: GradientFactors) -> GradientFactors:
    """Returns the factors of a sum of gradients: D₁ᵀX₁ + D₂ᵀX₂ = [D₁; D₂]ᵀ[X₁; X₂]."""
    return GradientFactors(torch.cat([first.D, second.D], dim=1), torch.cat([first.X, second.X], dim=1))


def one_below_the_other(parts: Sequence[Mapping[str, GradientFactors]]) -> Mapping[str, GradientFactors]:
    """Returns the factors of several batches as those of one batch, padded with zeros."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: GradientFactors(
            pad_sequence([d for part in parts for d in part[name].D], batch_first=True),
            pad_sequence([x for part in parts for x in part[name].X], batch_first=True),
        )
        for name in parts[0]
    }
