"""Finds and undoes what code that is not ours leaves behind in the process and in a model.

A forward hook that stays, a patched method or a number of threads that was changed would change what the base
model answers next, and so the numbers of the next edit and of the next editor. `watching` notes the state
before a block of foreign code, compares it afterwards, and puts it back. Weights that were written to cannot
be put back without a second copy of the model: they are found, and the caller has to load the model again.
"""

import copy
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kebench.models.identity import fingerprint
from kebench.models.model import AbstractModel

Undo = Callable[[], None]
"""Puts one thing back."""


@dataclass
class LeftBehind:
    """What a block of foreign code left behind. It is filled when the block ends.

    Attributes:
        harmful: what could change a number that is computed later, had it stayed.
        harmless: what could not, because kebench itself sets it wherever it matters, or does not use it.
        lasting: those of `harmful` that could not be undone, such as weights that were written to.
    """

    harmful: list[str] = field(default_factory=list)
    harmless: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)


@contextmanager
def watching(models: Sequence[AbstractModel] = (), *, seed: int | None = None) -> Iterator[LeftBehind]:
    """Notes the state of the process and of models, and puts it back after the block, also after an error.

    Args:
        models: the models that the block can reach.
        seed: what the global random generators are seeded with inside the block, so that a block which draws
            from them gives the same result every time. None: they are left as they are.

    Yields:
        What was left behind; complete once the block has ended.
    """
    found = LeftBehind()
    process = [(setting, setting.get()) for setting in _PROCESS]
    hooks = _hooks_of_all_modules()
    watches = [_ModelWatch(model) for model in models]
    generators = _random_state(models)
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
    at_the_start = _random_state(models)
    try:
        yield found
    finally:
        for setting, before in process:
            if (now := setting.get()) != before:
                (found.harmful if setting.harmful else found.harmless).append(
                    f"{setting.name} ({_short(before)} became {_short(now)})"
                )
                setting.set(before)
        for name, kept in hooks.items():
            if not _same(kept, now_there := getattr(nn.modules.module, name)):
                found.harmful.append("a hook of all modules")
                _put_back(now_there, kept)
        for watch in watches:
            watch.compare(found)
        if not _equal(at_the_start, _random_state(models)):
            found.harmless.append("random numbers drawn from a global generator")
        _set_random_state(generators, models)


def checksum(model: AbstractModel) -> str:
    """A number for all weights and buffers of a model, as text, that is quick to compute.

    It holds for every tensor the sums of its bits by row and by column, so that it takes one pass over the
    weights on their own device. A write to one place, or rows or columns that change places, are seen. It is
    no proof against weights that were altered so as to keep all sums; `fingerprint` is. On a CPU it is
    `fingerprint` itself, which takes a third of the time there.
    """
    if model.device.type == "cpu":
        return fingerprint(model.network)
    return sums_of_bits(model.network)


def sums_of_bits(network: nn.Module) -> str:
    """A hash of the sums, by row and by column, of the bits of every weight and buffer."""
    digest = hashlib.sha256()
    for name, tensor in _tensors(network):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        bits = bits.clone() if bits.storage_offset() % 4 else bits
        whole = bits.numel() - bits.numel() % 4
        numbers = bits[:whole].view(torch.int32)
        rows = tensor.shape[0] if tensor.ndim > 1 and whole and numbers.numel() % tensor.shape[0] == 0 else 1
        table = numbers.view(rows, numbers.numel() // rows)
        for part in (table.sum(1, dtype=torch.int64), table.sum(0, dtype=torch.int64), bits[whole:]):
            digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()


# The process -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Setting:
    """A setting of the whole process."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]
    harmful: bool = True


_INFERENCE: list[Any] = []
"""Modes that were put back; they end when they are collected."""


def _set_inference(on: bool) -> None:
    mode = torch.inference_mode(on)
    mode.__enter__()
    _INFERENCE.append(mode)


def _autocast() -> dict[str, tuple[bool, torch.dtype]]:
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds}


def _set_autocast(before: Mapping[str, tuple[bool, torch.dtype]]) -> None:
    for kind, (on, dtype) in before.items():
        torch.set_autocast_enabled(kind, on)
        torch.set_autocast_dtype(kind, dtype)
    torch.clear_autocast_cache()


def _determinism() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


def _set_determinism(before: tuple[bool, ...]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[2:]


def _rounding() -> tuple[Any, ...]:
    cuda = torch.backends.cuda.matmul
    return (
        torch.get_float32_matmul_precision(),
        cuda.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        cuda.allow_bf16_reduced_precision_reduction,
    )


def _set_rounding(before: tuple[Any, ...]) -> None:
    torch.set_float32_matmul_precision(before[0])
    cuda = torch.backends.cuda.matmul
    cuda.allow_tf32, torch.backends.cudnn.allow_tf32, cuda.allow_bf16_reduced_precision_reduction = before[1:]


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


_PROCESS = (
    _Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("the default device", torch.get_default_device, _set_device),
    _Setting("autocast", _autocast, _set_autocast),
    _Setting("deterministic algorithms", _determinism, _set_determinism),
    _Setting("the precision of products", _rounding, _set_rounding),
    _Setting("inference mode", torch.is_inference_mode_enabled, _set_inference),
    _Setting("gradients on or off", torch.is_grad_enabled, torch.set_grad_enabled, harmful=False),
    _Setting("the working directory", _folder, os.chdir, harmful=False),
)
"""What is compared of the process, in the order in which it is put back."""


def _random_state(models: Sequence[AbstractModel]) -> tuple[Any, ...]:
    """The states of the global generators: Python's, NumPy's and PyTorch's, on the CPU and on GPUs."""
    numpy: Any = np.random.get_state(legacy=True)
    gpus = {model.device for model in models if model.device.type == "cuda"}
    return (
        random.getstate(),
        (numpy[0], numpy[1].tobytes(), *numpy[2:]),
        torch.get_rng_state(),
        *(torch.cuda.get_rng_state(gpu) for gpu in sorted(gpus, key=str)),
    )


def _set_random_state(state: tuple[Any, ...], models: Sequence[AbstractModel]) -> None:
    random.setstate(state[0])
    name, bits, *rest = state[1]
    np.random.set_state((name, np.frombuffer(bits, dtype=np.uint32), *rest))
    torch.set_rng_state(state[2])
    gpus = {model.device for model in models if model.device.type == "cuda"}
    for gpu, each in zip(sorted(gpus, key=str), state[3:], strict=True):
        torch.cuda.set_rng_state(each, gpu)


def _equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


# A model ---------------------------------------------------------------------------------------------

_HOOKS = tuple(
    name for name, value in vars(nn.Module()).items() if isinstance(value, dict) and "hook" in name
)
_PARTS = ("_modules", "_parameters", "_buffers")
_TOKENIZER = ("padding_side", "truncation_side", "model_max_length", "chat_template")
_OF_MODEL = ("network", "tokenizer", "prompt_format", "protocol", "tf32", "reuse", "one_pass")


def _hooks_of_all_modules() -> dict[str, dict[Any, Any]]:
    """PyTorch's hooks that run in every module of the process."""
    there = vars(nn.modules.module).items()
    return {
        name: dict(value) for name, value in there if name.startswith("_global") and isinstance(value, dict)
    }


class _ModelWatch:
    """The state of one model: of its network, module by module, its tokenizer and its methods."""

    def __init__(self, model: AbstractModel) -> None:
        network = model.network
        self._model = model
        self._network = network
        self._modules = [_ModuleState(module) for module in network.modules()]
        self._tensors = [_TensorState(name, tensor) for name, tensor in _tensors(network)]
        self._model_state = {name: getattr(model, name) for name in _OF_MODEL}
        self._patches = _patches(model)
        kinds = {kind for module in network.modules() for kind in type(module).__mro__}
        self._classes = {
            kind: {name: value for name, value in vars(kind).items() if callable(value)}
            for kind in {*kinds, *type(model).__mro__} - {object}
        }
        self._configs = [
            (config, copy.deepcopy(vars(config)))
            for config in (network.config, getattr(network, "generation_config", None))
            if config is not None
        ]
        self._tokenizer = {name: getattr(model.tokenizer, name, None) for name in _TOKENIZER}
        self._words = _words(model)

    def compare(self, found: LeftBehind) -> None:
        """Adds to `found` what is no longer as it was, and puts it back."""
        model = self._model
        for name, before in self._model_state.items():
            if getattr(model, name) is not before and getattr(model, name) != before:
                found.harmful.append(f"another {name} of the model")
                setattr(model, name, before)
        if not _same(self._patches, _patches(model)):
            found.harmful.append("a patched method of the model")
            for name in _patches(model).keys() - self._patches.keys():
                delattr(model, name)
            vars(model).update(self._patches)
        for kind, functions in self._classes.items():
            changed = [name for name, value in functions.items() if vars(kind).get(name) is not value]
            for name in changed:
                found.harmful.append(f"a patched {kind.__name__}.{name}")
                setattr(kind, name, functions[name])
        for state in self._modules:
            state.compare(found)
        for tensor in self._tensors:
            tensor.compare(found)
        for config, fields in self._configs:
            if vars(config) != fields:
                found.harmful.append("another configuration of the network")
                vars(config).clear()
                vars(config).update(fields)
        for name, value in self._tokenizer.items():
            if getattr(model.tokenizer, name, None) != value:
                found.harmful.append(f"another {name} of the tokenizer")
                setattr(model.tokenizer, name, value)
        if _words(model) != self._words:
            found.harmful.append("other words in the tokenizer")
            found.lasting.append("other words in the tokenizer")
        _unique(found)


class _ModuleState:
    """The state of one module of a network."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kind = type(module)
        self._training = module.training
        self._patches = _patches(module)
        self._dicts = {name: dict(getattr(module, name)) for name in (*_HOOKS, *_PARTS)}

    def compare(self, found: LeftBehind) -> None:
        """Adds to `found` what is no longer as it was, and puts it back."""
        module = self._module
        if type(module) is not self._kind:
            found.harmful.append(f"another class of a {self._kind.__name__}")
            module.__class__ = self._kind
        if module.training != self._training:
            found.harmful.append("training mode" if module.training else "evaluation mode")
            module.training = self._training
        if not _same(self._patches, now := _patches(module)):
            names = sorted({*self._patches, *now})
            found.harmful.append(f"a patched {self._kind.__name__}.{names[0]}")
            for name in now.keys() - self._patches.keys():
                vars(module).pop(name)
            vars(module).update(self._patches)
        for name, before in self._dicts.items():
            there = getattr(module, name)
            if not _same(before, there):
                found.harmful.append(_WHAT.get(name, "a hook of a module"))
                _put_back(there, before)


_WHAT = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_modules": "another module in the network",
    "_parameters": "another parameter in the network",
    "_buffers": "another buffer in the network",
}


class _TensorState:
    """The state of one parameter or buffer: where its bits are and how often they were written to."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self._name = name
        self._tensor = tensor
        self._asks = tensor.requires_grad
        self._gradient = tensor.grad if tensor.is_leaf else None
        self._hooks = {name: getattr(tensor, name, None) for name in _TENSOR_HOOKS}
        self._bits = _place_of(tensor)

    def compare(self, found: LeftBehind) -> None:
        """Adds to `found` what is no longer as it was, and puts back what can be put back."""
        tensor = self._tensor
        if _place_of(tensor) != self._bits:
            found.harmful.append(f"other weights in {self._name}")
            found.lasting.append(f"other weights in {self._name}")
        if any(getattr(tensor, name, None) is not before for name, before in self._hooks.items()):
            found.harmful.append("a gradient hook")
            for name, before in self._hooks.items():
                setattr(tensor, name, before)
        if tensor.requires_grad != self._asks:
            found.harmless.append("requires_grad of parameters")
            tensor.requires_grad_(self._asks)
        if tensor.is_leaf and tensor.grad is not self._gradient:
            found.harmless.append("gradients of parameters")
            tensor.grad = self._gradient


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _place_of(tensor: Tensor) -> tuple[int, ...]:
    version = 0 if tensor.is_inference() else tensor._version
    return (tensor.data_ptr(), version, *tensor.shape)


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def _patches(owner: object) -> dict[str, Any]:
    """The methods of a class that one object has replaced, such as `forward`."""
    kind = type(owner)
    names = [name for name in vars(owner) if callable(getattr(kind, name, None))]
    return {name: vars(owner)[name] for name in names}


def _words(model: AbstractModel) -> tuple[Any, ...]:
    tokenizer = model.tokenizer
    return len(tokenizer), tuple(
        sorted((name, str(word)) for name, word in tokenizer.special_tokens_map.items())
    )


def _same(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> bool:
    """Whether two mappings hold the very same objects."""
    return before.keys() == now.keys() and all(before[key] is now[key] for key in before)


def _put_back(there: dict[Any, Any], before: Mapping[Any, Any]) -> None:
    there.clear()
    there.update(before)


def _short(value: Any) -> str:
    text = str(value).removeprefix("torch.")
    return text if len(text) <= 40 else text[:37] + "..."


def _unique(found: LeftBehind) -> None:
    """Says the same thing of many modules once."""
    for each in (found.harmful, found.harmless, found.lasting):
        each[:] = dict.fromkeys(each)
