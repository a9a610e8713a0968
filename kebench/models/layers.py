"""The linear maps of a network, and which of them an editor may change."""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kebench.errors import BadSetting

NEVER_EDITED = (
    "bias", "norm", "embeddings", "classifier", "pooler", "shared", "embed", "positions", "lm_head", "score",
    "predictions", "output_projection",
)  # fmt: skip
"""Words in the names of parameters that De Cao et al.'s code leaves alone, and some of output layers."""


def linear_maps(network: nn.Module) -> dict[str, nn.Module]:
    """Weight name → module, for every linear map of a network (GPT-2's Conv1D included)."""
    return {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def editable(network: nn.Module, layers: str | Sequence[int] = "all") -> tuple[str, ...]:
    """The weight matrices an editor may change.

    Args:
        network: the base network.
        layers: `all`; `first` or `last` of every stack (a BART has two, and De Cao et al.'s first layer is
            both); or the layers' numbers.

    Raises:
        BadSetting: no matrix is left.
    """
    names = [name for name in linear_maps(network) if not any(word in name.lower() for word in NEVER_EDITED)]
    if layers != "all":
        places = {name: place for name in names if (place := _layer(name))}
        depth = {stack: max(n for s, n in places.values() if s == stack) for stack, _ in places.values()}
        wanted = {"first": lambda _, n: n == 0, "last": lambda stack, n: n == depth[stack]}
        keep = wanted[layers] if isinstance(layers, str) else lambda _, n: n in layers
        names = [name for name, place in places.items() if keep(*place)]
    if not names:
        raise BadSetting(f"layers: found {layers}, wanted some with an editable weight matrix")
    return tuple(names)


def _layer(name: str) -> tuple[str, int] | None:
    """The stack a parameter is in, and its layer's number there."""
    found = re.match(r"(.*?)\.(\d+)\.", name)
    return (found[1], int(found[2])) if found else None


def map_shape(module: nn.Module) -> tuple[int, int]:
    """(d_out, d_in) of a linear map."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def as_stored(module: nn.Module, matrix: Float[Tensor, "d_out d_in"]) -> Tensor:
    """A linear map the way round its module stores it: Conv1D has (d_in, d_out)."""
    return matrix.T if isinstance(module, Conv1D) else matrix
