"""Defines `Update`: what an edit changes, as one value. It can be added, measured, saved and exported."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kebench.edits.factors import at_least_float32, fewer_factors, widest
from kebench.edits.lora import write_adapter
from kebench.errors import BadFile, BadSetting, NotFound
from kebench.files.tensors import save_tensors
from kebench.models.changes import Dense, LowRank, LowRankBatch, dense_delta, dense_weights, is_finite
from kebench.models.layers import linear_maps, map_shape

logger = logging.getLogger(__name__)

FORMAT = "kebench update 1"
"""What the metadata of a stored update calls its format."""


class Update(Mapping[str, Dense | LowRank]):
    """What is added to the weights of a network: parameter name → `Dense` or `LowRank`.

    An update is immutable: `u + v` returns a new one. Its tensors are not copied, so do not write to them.
    The empty update changes nothing.

    Two updates are equal if they change the same parameters, with the same form and the same bits.

    Example:
        >>> update = Update(first) + second  # two edits, one after the other
        >>> update.save(Path("update.safetensors"))
        >>> Update.load(Path("update.safetensors")).apply_to(network)
    """

    __slots__ = ("_changes",)

    def __init__(self, changes: Mapping[str, Dense | LowRank] | None = None) -> None:
        self._changes = dict(changes or {})

    @staticmethod
    def of(changes: Mapping[str, Dense | LowRank]) -> "Update":
        """Returns the mapping as an `Update`. Editors may return a mapping or an `Update`."""
        return changes if isinstance(changes, Update) else Update(changes)

    def __getitem__(self, name: str) -> Dense | LowRank:
        return self._changes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.keys() == other.keys() and all(_same(self[name], other[name]) for name in self)

    def __add__(self, later: Mapping[str, Dense | LowRank]) -> "Update":
        """Returns the sum with a later update. See `plus`, which can add a dense change to a low-rank one."""
        return self.plus(later)

    def plus(self, later: Mapping[str, Dense | LowRank], network: nn.Module | None = None) -> "Update":
        """Returns one update that has the effect of this update and of a later one.

        The sum of two low-rank changes of a parameter has low rank: the sum of the two ranks. When this rank
        passes half of min(d_out, d_in), the change is recompressed to the rank that the matrix really has, up
        to rounding, and this is logged. If the matrix really has a higher rank, this is done again only when
        the rank passes 3/2 of min(d_out, d_in), so that a long stream of edits does not need a decomposition
        at every step. If one of the changes is dense, the sum is dense. Sums are at least in float32.

        Args:
            later: the second update.
            network: the network that both are for. It is needed only if one update changes a parameter with a
                dense change and the other with a low-rank one. A dense change has the shape of the stored
                parameter, and only the network knows whether this is (d_out, d_in) or (d_in, d_out).

        Raises:
            ValueError: the two changes of a parameter differ in shape; or one is dense, the other has low
                rank, and there is no network.
        """
        both = dict(self)
        for name, change in later.items():
            both[name] = _sum(name, both[name], change, network) if name in both else change
        return Update(both)

    def norms(self) -> dict[str, float]:
        """Returns parameter name → the Frobenius norm of its change.

        The norm of a low-rank change is computed from (rank, rank) Gram matrices, without the product. If the
        parts of a sum cancel, so that the norm is below about 1e-8 of the norm of the parts, it is only
        rounding.
        """
        return {name: _norm(change) for name, change in self.items()}

    def save(self, path: Path | str) -> None:
        """Writes the update to one safetensors file, atomically. `load` returns the same bits."""
        save_tensors(
            {f"{name}.{part}": t for name, change in self.items() for part, t in vars(change).items()},
            Path(path),
            {"format": FORMAT},
        )

    @staticmethod
    def load(path: Path | str, device: torch.device | str = "cpu") -> "Update":
        """Reads an update that `save` wrote.

        Raises:
            BadFile: there is no such file, or it does not hold an update.
        """
        if not Path(path).is_file():
            raise BadFile(path, "no such file")
        parts: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                found = (file.metadata() or {}).get("format")
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    name, _, part = key.rpartition(".")
                    parts.setdefault(name, {})[part] = file.get_tensor(key)
        except SafetensorError as error:
            raise BadFile(path, f"not a safetensors file ({error})") from error
        if found != FORMAT:
            raise BadFile(path, f"found the format '{found}', wanted '{FORMAT}'")
        return Update({name: _change(path, name, tensors) for name, tensors in parts.items()})

    def apply_to(self, network: nn.Module) -> None:
        """Writes θ + Δ into a network, in place, to export an edited model.

        This is the only place in kebench that writes to weights. All other code puts updates in force for
        some forward passes, and leaves the network as it was. A tensor with two names (a tied output layer)
        changes under both.

        Raises:
            NotFound: the network has no parameter of that name. Nothing is written.
            BadSetting: a change does not have the shape of its parameter. Nothing is written.
        """
        self._check(network)
        with torch.no_grad():
            for name, change in self.items():
                network.get_parameter(name).copy_(dense_weights(network, {name: change})[name])

    def to_lora(
        self, folder: Path | str, network: nn.Module, base_name: str, rank: int | None = None
    ) -> dict[str, float]:
        """Writes the update as a LoRA adapter, a folder that `peft.PeftModel.from_pretrained` reads.

        A low-rank change is written exactly. Changes of rank 0 are left out.

        Args:
            folder: the folder for `adapter_config.json` and `adapter_model.safetensors`. A missing folder
                is made; an adapter in it is replaced.
            network: the network that the update is for. It is not changed.
            base_name: the base model's name on the Hub, or its folder. The adapter names it.
            rank: the largest rank of a module. A change of higher rank, and every dense one, is approximated
                by truncated singular value decomposition. With None, low-rank changes keep their rank, and
                dense changes are refused.

        Returns:
            Parameter name → the relative residual ‖Δ − B A‖ / ‖Δ‖ of what was written; 0 if it is exact.

        Raises:
            NotFound: the network has no parameter of that name.
            BadSetting: the update cannot be an adapter: it changes no weight; it changes a parameter that is
                not the matrix of a linear layer, or that is tied to another; it has a dense change and no
                `rank` is given; or a number is not finite.
        """
        self._check(network)
        if not is_finite(self):
            raise BadSetting("the update has a number that is not finite: it cannot be an adapter")
        return write_adapter(self, Path(folder), network, base_name, rank)

    def _check(self, network: nn.Module) -> None:
        """Refuses a network that does not have the parameters that this update changes."""
        parameters = dict(network.named_parameters(remove_duplicate=False))
        maps = linear_maps(network)
        for name, change in self.items():
            if name not in parameters:
                raise NotFound("parameter", name, parameters)
            if isinstance(change, Dense):
                found, wanted = tuple(change.delta.shape), tuple(parameters[name].shape)
            elif name in maps:
                found, wanted = (len(change.B), change.A.shape[1]), map_shape(maps[name])
            else:
                raise BadSetting(f"{name}: found a low-rank change, wanted one of a linear layer's matrix")
            if found != wanted:
                raise BadSetting(f"{name}: found a change of shape {found}, wanted {wanted}")


def _sum(
    name: str, first: Dense | LowRank, then: Dense | LowRank, network: nn.Module | None
) -> Dense | LowRank:
    """Returns the sum of two changes of one parameter."""
    if isinstance(first, LowRank) and isinstance(then, LowRank):
        if len(first.B) != len(then.B) or first.A.shape[1] != then.A.shape[1]:
            raise ValueError(f"{name}: its two changes differ in shape")
        b, a = torch.cat([first.B, then.B], dim=1), torch.cat([first.A, then.A])
        full, rank = min(len(b), a.shape[1]), max(len(first.A), len(then.A))
        # The number of the thresholds full / 2, 3 full / 2, 5 full / 2, … that a rank has passed.
        before, now = ((2 * each - full - 1) // (2 * full) for each in (rank, len(a)))
        return _recompressed(name, LowRank(b, a)) if now > before else LowRank(b, a)
    left, right = (_dense(name, change, network) for change in (first, then))
    if left.shape != right.shape:
        raise ValueError(f"{name}: its two changes differ in shape")
    return Dense(left + right)


def _dense(name: str, change: Dense | LowRank, network: nn.Module | None) -> Tensor:
    """Returns Δ in the parameter's own shape, at least in float32."""
    if isinstance(change, Dense):
        return change.delta.to(at_least_float32(change.delta.dtype))
    if network is None:
        raise ValueError(
            f"{name}: one change is dense, the other low rank; use first.plus(later, network), because only "
            "the network knows how it stores the matrix"
        )
    wide = at_least_float32(change.B.dtype, change.A.dtype)
    return dense_delta(network, name, LowRank(change.B.to(wide), change.A.to(wide)))


def _recompressed(name: str, change: LowRank) -> LowRank:
    """Returns the same change with the lowest rank that is exact up to rounding, if it is finite."""
    if not is_finite({name: change}):
        return change  # it has no decomposition, and callers must still see that it is not finite
    smaller, residual = fewer_factors(change)
    logger.info(
        "%s: rank %d recompressed to %d, relative residual %.1e",
        name,
        len(change.A),
        len(smaller.A),
        residual,
    )
    return smaller


def _norm(change: Dense | LowRank) -> float:
    if isinstance(change, Dense):
        return float(change.delta.to(widest(change.delta.device)).norm())
    b, a = (factor.to(widest(factor.device))[None] for factor in (change.B, change.A))
    # A sum of rounded terms may be just below zero. NaN stays NaN.
    return float(LowRankBatch(b, a).squared_norm().clamp(min=0).sqrt())


def _same(one: Dense | LowRank, other: object) -> bool:
    """Returns True if two changes have the same form, types and numbers."""
    if type(one) is not type(other):
        return False
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(left.dtype == right.dtype and torch.equal(left, right) for left, right in pairs)


def _change(path: Path | str, name: str, tensors: Mapping[str, Tensor]) -> Dense | LowRank:
    """Returns the change of one parameter, from its tensors in a file."""
    if tensors.keys() == {"delta"}:
        return Dense(tensors["delta"])
    if tensors.keys() == {"B", "A"}:
        b, a = tensors["B"], tensors["A"]
        if b.ndim == a.ndim == 2 and b.shape[1] == a.shape[0]:
            return LowRank(b, a)
        raise BadFile(path, f"found B {tuple(b.shape)} and A {tuple(a.shape)}, which do not fit", place=name)
    raise BadFile(path, f"found {', '.join(sorted(tensors))}, wanted delta, or B and A", place=name)
