"""Gradients of the edited matrices as factors: ∇W = Dᵀ X over a row's tokens, never a dense matrix."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kebench.updates import after


@dataclass(frozen=True)
class GradientFactors:
    """The gradient of each row's loss for one matrix: ∇W[row] = D[row]ᵀ X[row].

    Attributes:
        D: (batch, tokens, d_out). The loss's gradient at the layer's output; 0 at padding.
        X: (batch, tokens, d_in). The layer's input. A layer asked several times has the tokens of each.
    """

    D: Float[Tensor, "batch tokens d_out"]
    X: Float[Tensor, "batch tokens d_in"]


class Probe:
    """Catches, in one forward pass, what the factors of the gradient are made of."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, Tensor, Tensor]] = []  # a layer's name, its input, the zero added

    @contextmanager
    def watching(self, network: nn.Module, names: Sequence[str]) -> Iterator[None]:
        """Adds to each layer's output a zero whose gradient is D; the weights need none themselves."""

        def watch(name: str, x: Tensor, output: Tensor) -> Tensor:
            zeros = torch.zeros_like(output, requires_grad=True)
            self._calls.append((name, x.detach(), zeros))
            return output + zeros

        with after(network, names, watch):
            yield

    def factors(self, losses: Float[Tensor, " batch"]) -> Mapping[str, GradientFactors]:
        """The factors of each row's own gradient; the rows of a batch do not mix."""
        found = torch.autograd.grad(losses.sum(), [zeros for _, _, zeros in self._calls])
        factors: dict[str, GradientFactors] = {}
        for (name, x, _), d in zip(self._calls, found, strict=True):
            # A pooled layer has one position a row; some flatten rows and tokens into one.
            call = GradientFactors(
                D=d.reshape(len(losses), -1, d.shape[-1]), X=x.reshape(len(losses), -1, x.shape[-1])
            )
            factors[name] = _joined(factors[name], call) if name in factors else call
        return factors


def _joined(first: GradientFactors, second: GradientFactors) -> GradientFactors:
    """The factors of a sum of gradients: D₁ᵀX₁ + D₂ᵀX₂ = [D₁; D₂]ᵀ[X₁; X₂]."""
    return GradientFactors(torch.cat([first.D, second.D], dim=1), torch.cat([first.X, second.X], dim=1))
