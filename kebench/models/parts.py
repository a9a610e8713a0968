"""Which matrices of a layer are its attention, and which bring a token into its MLP and out again.

Nothing is known of a network by its name or its class. One forward pass of a probe shows what each linear map
reads: the residual stream (what enters the layer), or what other linear maps of the layer gave. That, whether
tokens are mixed on the way, and the shapes tell the parts apart:

    attention   what is mixed between tokens before another map reads it (queries, keys, values), and the map
                that reads the mixture. Of a state-space layer: the maps around its recurrence.
    MLP-in      reads the residual stream; what it gives is read token by token, by an MLP-out alone.
    MLP-out     reads nothing but MLP-ins, and is as wide as the residual stream.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kebench.errors import BadSetting
from kebench.models.layers import Layers, editable, linear_maps, stacks

Part = Literal["attention", "mlp_in", "mlp_out"]
"""A part of a layer, as the settings of editors name it: see `LayerParts`."""


@dataclass(frozen=True)
class LayerParts:
    """The linear maps of one layer, by the names of their weights, in the order in which they are called.

    Attributes:
        name: the layer's path in the network.
        attention: queries, keys, values and attention's output; of a decoder, cross-attention's too.
        mlp_in: of a gated MLP both, the gate's map and the other.
        mlp_out: what leads back into the residual stream.
        other: all others, such as a router's, and maps that the probe did not call.
    """

    name: str
    attention: tuple[str, ...]
    mlp_in: tuple[str, ...]
    mlp_out: tuple[str, ...]
    other: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """What a network's linear maps are for.

    Attributes:
        layers: every layer of every stack, in the network's order.
        output: what is called after the last layer: the output layer, or a pooler and a classification head.
    """

    layers: tuple[LayerParts, ...]
    output: tuple[str, ...]


def weights_of(network: nn.Module, found: Parts, layers: Layers, parts: Sequence[Part]) -> list[str]:
    """Returns the names of the weights of some parts of some layers, in the network's order.

    Args:
        network: the base network.
        found: its parts.
        layers: the layers, as `editable` takes them.
        parts: the parts of each layer.

    Raises:
        BadSetting: no weight is left.
    """
    of_parts = {name for layer in found.layers for part in parts for name in getattr(layer, part)}
    names = [name for name in editable(network, layers) if name in of_parts]
    if not names:
        raise BadSetting(
            f"parts: found {', '.join(parts)}, wanted some that the model has in layers {layers}"
        )
    return names


@dataclass
class _Layer:
    """One layer, and what its linear maps read in the first call of the layer.

    Attributes:
        entry: (…, d). What enters the layer, cut off from what came before.
        given: what each map was given, with the graph of how it came about.
        gave: what each map gave, cut off likewise.
    """

    maps: tuple[str, ...]
    entry: Tensor | None = None
    given: dict[str, Tensor] = field(default_factory=dict)
    gave: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reads:
    """What one map reads: the residual stream or not, and which maps, each with whether tokens are mixed."""

    entry: bool
    maps: Mapping[str, bool]


def find_parts(network: nn.Module, run: Callable[[], object]) -> Parts:
    """The parts of a network.

    Args:
        network: whose layers stand in stacks (`kebench.models.layers.stacks`).
        run: passes one row of several tokens through the network, its graph recorded.
    """
    maps = linear_maps(network)
    layers = {
        f"{path}.{number}": _Layer(tuple(name for name in maps if name.startswith(f"{path}.{number}.")))
        for path, stack in stacks(network).items()
        for number in range(len(stack))
    }
    owner = {name: layer for layer in layers.values() for name in layer.maps}
    after_the_layers: list[str] = []

    def enter(layer: _Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        after_the_layers.clear()
        if layer.entry is not None:
            return None  # a shared layer: its first call has shown what it is
        values: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        place = next(key for key, value in values.items() if _is_floating(value))
        layer.entry = values[place].detach().requires_grad_()
        values[place] = layer.entry.clone()  # a copy, which may be written to in place
        return tuple(values[index] for index in range(len(args))), {key: values[key] for key in kwargs}

    def call(name: str, given: Tensor, gave: object) -> Tensor | None:
        if name not in owner:
            after_the_layers.append(name)
            return None
        layer = owner[name]
        if layer.entry is None or name in layer.given or not isinstance(gave, Tensor):
            return None
        layer.given[name], layer.gave[name] = given, gave.detach().requires_grad_()
        return layer.gave[name].clone()

    with ExitStack() as standing, torch.enable_grad():
        for path, layer in layers.items():
            hook = network.get_submodule(path).register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: enter(layer, args, kwargs), with_kwargs=True
            )
            standing.callback(hook.remove)
        for name, module in maps.items():
            hook = module.register_forward_hook(
                lambda _, inputs, output, name=name: call(name, inputs[0], output)
            )
            standing.callback(hook.remove)
        run()
    found = tuple(_parts(path, layer, maps) for path, layer in layers.items() if layer.maps)
    return Parts(found, tuple(dict.fromkeys(after_the_layers)))


def _parts(path: str, layer: _Layer, maps: Mapping[str, nn.Module]) -> LayerParts:
    """The parts of one layer, from what each of its maps reads."""
    reads = {name: _reads(name, layer) for name in layer.given}
    attention: set[str] = set()
    waiting = [name for name, each in reads.items() if not each.entry and any(each.maps.values())]
    while waiting:  # what reads a mixture of tokens, and back from there to the residual stream
        name = waiting.pop()
        attention.add(name)
        if not reads[name].entry:
            waiting += [source for source in reads[name].maps if source not in attention]

    width = layer.entry.shape[-1] if layer.entry is not None else 0
    mlp_out = {
        name
        for name, each in reads.items()
        if name not in attention and not each.entry and layer.gave[name].shape[-1] == width
        if each.maps and all(reads[source].entry and source not in attention for source in each.maps)
    }
    mlp_in = {source for name in mlp_out for source in reads[name].maps}

    def of(part: set[str]) -> tuple[str, ...]:
        return tuple(name for name in layer.given if name in part)

    rest = tuple(name for name in layer.maps if name not in attention | mlp_in | mlp_out)
    return LayerParts(path, of(attention), of(mlp_in), of(mlp_out), rest)


def _reads(name: str, layer: _Layer) -> _Reads:
    """Which tensors a map's input depends on, through no other linear map."""
    given = layer.given[name]
    if not given.requires_grad:
        return _Reads(False, {})
    assert layer.entry is not None
    # In another direction than any that a normalisation takes out of its input.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(given.shape, generator=generator).to(given)
    one = torch.zeros_like(given.flatten(0, -2))
    middle = len(one) // 2  # the last token may be padding that a network adds, which reads nothing
    one[middle] = direction.flatten(0, -2)[middle]
    sources = {other: gave for other, gave in layer.gave.items() if other != name}
    tensors = [layer.entry, *sources.values()]
    of_all = _gradients(given, direction, tensors)
    of_one = _gradients(given, one.view_as(given), tensors)
    found = {}
    for source, everywhere, part in zip(sources, of_all[1:], of_one[1:], strict=True):
        if everywhere.any():
            # Tokens are mixed if one of them depends on others, or where there are not as many.
            tokens = part.flatten(0, -2).any(-1)
            others = torch.arange(len(tokens), device=tokens.device) != middle
            found[source] = len(tokens) != len(one) or bool(tokens[others].any())
    return _Reads(bool(of_all[0].any()), found)


def _gradients(given: Tensor, direction: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        given, tensors, direction, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
