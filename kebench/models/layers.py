"""The linear maps of a network, and which of them an editor may change."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kebench.errors import BadSetting

Layers = str | tuple[int, ...]
"""Which layers an editor changes, as its settings say it: see `editable`."""

NAMED_LAYERS = ("first", "last", "all")
PATTERN_CHARACTERS = frozenset("*?[.")
"""A setting of `layers` with one of these is a pattern of parameter names."""


def linear_maps(network: nn.Module) -> dict[str, nn.Module]:
    """Weight name → module, for every linear map of a network (GPT-2's Conv1D included)."""
    return {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def check_layers(layers: str | Sequence[int]) -> None:
    """Refuses a word that `editable` does not know.

    Raises:
        BadSetting: it is neither one of `NAMED_LAYERS` nor a pattern.
    """
    if isinstance(layers, str) and layers not in NAMED_LAYERS and not PATTERN_CHARACTERS & set(layers):
        raise BadSetting(
            f"layers: found '{layers}', wanted first, last, all, a list of numbers, or a pattern of parameter"
            " names such as '*.11.mlp.*'"
        )


def editable(network: nn.Module, layers: str | Sequence[int] = "all") -> tuple[str, ...]:
    """The names of the weight matrices that an editor may change, in the network's order.

    They are the linear maps within the network's layers. Embeddings, poolers, and the output layer or
    classification head stand outside the layers, and so does what is tied to them.

    Args:
        network: the base network.
        layers: `all`; `first` or `last` of every stack of layers (a BART has two stacks, and De Cao et al.'s
            first layer is the first of both); the layers' numbers, counted from 0 in every stack; or a
            pattern that parameter names are matched with as file names are by a shell, `*.11.mlp.*`.

    Raises:
        BadSetting: `layers` is an unknown word, or no matrix is left.
    """
    check_layers(layers)
    places = _places(network)
    names = list(places)
    if layers in ("first", "last"):
        chosen = min if layers == "first" else max
        wanted = {stack: chosen(n for s, n in places.values() if s == stack) for stack, _ in places.values()}
        names = [name for name, (stack, number) in places.items() if number == wanted[stack]]
    elif isinstance(layers, str) and layers != "all":
        names = [name for name in names if fnmatchcase(name, layers)]
    elif not isinstance(layers, str):
        names = [name for name, (_, number) in places.items() if number in layers]
    if not names:
        example = f", such as {next(iter(places))}" if isinstance(layers, str) and places else ""
        raise BadSetting(f"layers: found {layers}, wanted some with an editable weight matrix{example}")
    return tuple(names)


def stacks(network: nn.Module) -> dict[str, nn.ModuleList]:
    """Path → list of layers, for every stack of a network.

    A stack is a `ModuleList` that lies in no other one. A list of bare linear maps is not a stack: several
    output heads may be kept that way.
    """
    found: dict[str, nn.ModuleList] = {}
    for path, module in network.named_modules():
        is_stack = isinstance(module, nn.ModuleList) and not any(
            isinstance(layer, nn.Linear | Conv1D) for layer in module
        )
        if is_stack and not any(path.startswith(f"{stack}.") for stack in found):
            found[path] = module
    return found


def _places(network: nn.Module) -> Mapping[str, tuple[str, int]]:
    """Weight name → the stack and the layer's number, for every linear map that an editor may change."""
    paths = tuple(stacks(network))
    tied = _embeddings(network)
    found: dict[str, tuple[str, int]] = {}
    for name, module in linear_maps(network).items():
        stack = next((path for path in paths if name.startswith(f"{path}.")), None)
        if stack is not None and id(module.weight) not in tied:
            found[name] = stack, int(name.removeprefix(f"{stack}.").partition(".")[0])
    return found


def _embeddings(network: nn.Module) -> set[int]:
    """The identities of the weights that embed tokens or give logits."""
    if not isinstance(network, PreTrainedModel):
        return set()
    layers = (network.get_input_embeddings(), network.get_output_embeddings())
    return {id(layer.weight) for layer in layers if layer is not None}


def map_shape(module: nn.Module) -> tuple[int, int]:
    """(d_out, d_in) of a linear map."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def as_stored(module: nn.Module, matrix: Float[Tensor, "d_out d_in"]) -> Tensor:
    """A linear map the way round its module stores it: Conv1D has (d_in, d_out)."""
    return matrix.T if isinstance(module, Conv1D) else matrix
