"""Gradients of the edited matrices as factors: ∇W = Dᵀ X over a row's tokens, never a dense matrix."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kebench.updates import linear_maps


@dataclass(frozen=True)
class GradientFactors:
    """The gradient of each row's loss for one matrix: ∇W[row] = D[row]ᵀ X[row].

    Attributes:
        D: (batch, tokens, d_out). The loss's gradient at the layer's output; 0 at padding.
        X: (batch, tokens, d_in). The layer's input.
    """

    D: Float[Tensor, "batch tokens d_out"]
    X: Float[Tensor, "batch tokens d_in"]


class Probe:
    """Catches, in one forward pass, what the factors of the gradient are made of."""

    def __init__(self) -> None:
        self._inputs: dict[str, Tensor] = {}
        self._zeros: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, network: nn.Module, names: Sequence[str]) -> Iterator[None]:
        """Adds to each layer's output a zero whose gradient is D; the weights need none themselves.

        Raises:
            ValueError: a layer is asked twice, as a shared one is: its factors would be the last call's.
        """
        maps = linear_maps(network)

        def watch(name: str, x: Tensor, output: Tensor) -> Tensor:
            if name in self._inputs:
                raise ValueError(f"{name}: asked twice in one forward pass (shared layers?), wanted once")
            self._inputs[name] = x.detach()
            self._zeros[name] = torch.zeros_like(output, requires_grad=True)
            return output + self._zeros[name]

        handles = [
            maps[name].register_forward_hook(
                lambda _, inputs, output, name=name: watch(name, inputs[0], output)
            )
            for name in names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def factors(self, losses: Float[Tensor, " batch"]) -> Mapping[str, GradientFactors]:
        """The factors of each row's own gradient; the rows of a batch do not mix."""
        names = list(self._zeros)
        found = torch.autograd.grad(losses.sum(), [self._zeros[name] for name in names])
        return {
            name: GradientFactors(D=_by_row(d), X=_by_row(self._inputs[name]))
            for name, d in zip(names, found, strict=True)
        }


def _by_row(tensor: Tensor) -> Float[Tensor, "batch tokens features"]:
    """A pooled layer has one position a row; the others have theirs already."""
    return tensor.unsqueeze(1) if tensor.ndim == 2 else tensor
