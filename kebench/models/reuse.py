"""Keeps hidden states below the lowest edited layer. Edits do not change them, so they are computed once.

If an edit changes only layer L and layers above it, the input of layer L is that of the base model. It is
kept for each row. In later passes over the same row, the layers below L are not run, and layer L gets the
kept input.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from kebench.models.proofs import holds
from kebench.models.rows import Rows

STORE_BYTES = 2**30
"""The largest size of the states kept for a model, on its device; enough for 20,000 claims with BERT-base.

If there are more, those that were not used for the longest time are dropped.
"""

Key = tuple[Any, ...]
"""The name of a cut, and the tokens that the states of one row depend on."""


@dataclass(frozen=True)
class Cut:
    """Consecutive modules that run before all changed parameters, so that edits do not change their output.

    Attributes:
        name: the name of the last module, whose output is kept.
        modules: consecutive layers, or one whole encoder.
        reads: the names of the inputs that the output depends on. It has as many tokens as the last of them.
        encoder: the encoder that runs the modules; None if the network itself runs them.
    """

    name: str
    modules: tuple[nn.Module, ...]
    reads: tuple[str, ...]
    encoder: nn.Module | None = None


class Reuse:
    """Skips the modules whose output no edit changes.

    Nothing is assumed from the name of a network. A cut is used only after a test: with and without the cut,
    the network must return exactly the same result for one row. So no layer is skipped that passes on more
    than its hidden states.

    Args:
        name: the name of the model, for the log.
        network: the network of the model.
        run: computes the logits of rows.
    """

    def __init__(self, name: str, network: PreTrainedModel, run: Callable[[Rows], Tensor]) -> None:
        self.name = name
        self.network = network
        self.run = run
        self._forget(())

    @contextmanager
    def below(self, changed: frozenset[str], rows: Rows | None) -> Iterator[None]:
        """Inside the block, passes over `rows` skip the modules that run before the changed parameters.

        The base weights must be in force when the block is entered, because states that are not kept yet are
        computed then.

        Args:
            changed: the names of the parameters that edits will change. If it is empty, nothing is skipped.
            rows: the batch. None for a pass that has to be computed as a whole.
        """
        cuts = self._usable(changed, rows) if rows is not None and changed else ()
        with ExitStack() as standing:
            if rows is not None and cuts:
                standing.enter_context(self._cut(cuts, rows))
            yield

    @contextmanager
    def _cut(self, cuts: Sequence[Cut], rows: Rows) -> Iterator[None]:
        """Inside the block, the kept states of these rows replace the modules of each cut."""
        states = [self._states(cuts[: place + 1], rows) for place in range(len(cuts))]
        with ExitStack() as standing:
            for cut, given in zip(cuts, states, strict=True):
                whole = cut.modules[-1] is cut.encoder
                output = BaseModelOutput(last_hidden_state=given) if whole else given
                standing.enter_context(_giving(cut.modules, output))
            yield

    def _states(self, cuts: Sequence[Cut], rows: Rows) -> Float[Tensor, "batch tokens hidden"]:
        """Returns the output of the last of the cuts for each row; it is zero where a row is padded."""
        *before, cut = cuts
        tokens = [rows.tokens(name) for name in cut.reads]
        keys: list[Key] = [(cut.name, *row) for row in zip(*tokens, strict=True)]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        # If a question is in the batch several times, for several edits, its states are computed once.
        missing = sorted({key: row for row, key in enumerate(keys) if key not in found}.values())
        if missing:
            part = rows.part(missing)
            with self._cut(before, part):
                computed = self._reach(cut, part)
            for row, states in zip(missing, computed, strict=True):
                # A copy, because a view would keep the whole batch in memory.
                found[keys[row]] = states[: len(tokens[-1][row])].clone()
        self._keep(found)
        given = pad_sequence([found[key] for key in keys], batch_first=True)
        return pad(given, (0, 0, 0, rows.inputs[cut.reads[-1]].shape[1] - given.shape[1]))

    def _keep(self, found: dict[Key, Tensor]) -> None:
        """Keeps states, and drops those that were not used for the longest time if there are too many."""
        for key, states in found.items():
            self._bytes += 0 if key in self._kept else states.nbytes
            self._kept[key] = states
            self._kept.move_to_end(key)
        while self._bytes > STORE_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _reach(self, cut: Cut, rows: Rows) -> Float[Tensor, "batch tokens hidden"]:
        """Returns the output of the cut's last module. The pass stops there."""
        with cut.modules[-1].register_forward_hook(_stop):
            try:
                self._pass(cut, rows)
            except _Reached as reached:
                return reached.states
        raise LookupError(f"{cut.name} is not run")

    def _pass(self, cut: Cut, rows: Rows) -> Tensor:
        """Returns the result of a pass over these rows: the network's logits, or the encoder's states."""
        if cut.encoder is None:
            return self.run(rows)
        states: Tensor = cut.encoder(
            input_ids=rows.inputs["input_ids"], attention_mask=rows.inputs["attention_mask"]
        ).last_hidden_state
        return states

    # Where to cut ----------------------------------------------------------------------------------------

    def _usable(self, changed: frozenset[str], rows: Rows) -> tuple[Cut, ...]:
        """Returns the cuts that passed their test and that these rows can use, in the order of running.

        If the weights of the network have changed, all kept states are dropped and all tests run again.
        """
        # If weights were written to, moved or cast, their addresses or versions differ.
        weights = tuple((weight.data_ptr(), weight._version) for weight in self.network.parameters())
        if weights != self._weights:
            self._forget(weights)
        if changed not in self._cuts:
            self._cuts[changed] = cuts_before(self.network, changed)
        usable: tuple[Cut, ...] = ()
        for cut in self._cuts[changed]:
            if rows.inputs.keys() >= set(cut.reads) and self._proved((*usable, cut), rows):
                usable = (*usable, cut)
        return usable

    def _proved(self, cuts: tuple[Cut, ...], rows: Rows) -> bool:
        """Tests, once for each cut, that the last cut changes no bit of the result for one row."""
        cut = cuts[-1]
        if cut.name not in self._proofs:
            lengths = [len(tokens) for tokens in rows.tokens("input_ids")]
            one = rows.part([lengths.index(max(lengths))])  # a row without padding, whose states would differ

            def same() -> bool:
                with self._cut(cuts[:-1], one):
                    plain = self._pass(cut, one)
                with self._cut(cuts, one):
                    return torch.equal(plain, self._pass(cut, one))

            failed = f"{self.name}: the hidden states of {cut.name} cannot be reused"
            self._proofs[cut.name] = holds(same, failed)
        return self._proofs[cut.name]

    def forget(self) -> None:
        """Drops all that is kept, also what was computed while somebody else changed the network."""
        self._forget(())

    def _forget(self, weights: tuple[tuple[int, int], ...]) -> None:
        self._weights = weights
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._cuts: dict[frozenset[str], tuple[Cut, ...]] = {}
        self._proofs: dict[str, bool] = {}


def cuts_before(network: PreTrainedModel, changed: frozenset[str]) -> tuple[Cut, ...]:
    """Returns the cuts below the changed parameters, in the order in which they run.

    There is no cut if one of the parameters is outside the stacks of layers, as an embedding is.
    """
    places = [_place(network, name) for name in changed]
    lowest: dict[str, int] = {}
    for stack, layer in filter(None, places):
        lowest[stack] = min(layer, lowest.get(stack, layer))
    encoder = network.get_encoder() if network.config.is_encoder_decoder else None
    path = next((path for path, module in network.named_modules() if module is encoder), None)
    in_encoder = {stack: layer for stack, layer in lowest.items() if stack.startswith(f"{path}.")}
    if None in places or len(in_encoder or lowest) != 1:
        return ()
    # If the encoder is changed, its output is changed, and so is everything that the decoder computes.
    ((stack, layer),) = (in_encoder or lowest).items()
    cuts = []
    reads: tuple[str, ...] = ("input_ids",)
    if path is not None and encoder is not None and not in_encoder:
        cuts.append(Cut(path, (encoder,), reads, encoder))
        reads = (*reads, "decoder_input_ids")
    if layer:
        layers = tuple(network.get_submodule(stack).children())[:layer]
        cuts.append(Cut(f"{stack}.{layer - 1}", layers, reads, encoder if in_encoder else None))
    # A tensor may be used in two modules.
    touched = {id(network.get_parameter(name)) for name in changed}
    left_out = (weight for cut in cuts for module in cut.modules for weight in module.parameters())
    return () if any(id(weight) in touched for weight in left_out) else tuple(cuts)


def _place(network: nn.Module, parameter: str) -> tuple[str, int] | None:
    """Returns the outermost list of layers that a parameter is in, and the number of its layer."""
    for path, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and parameter.startswith(f"{path}."):
            return path, int(parameter.removeprefix(f"{path}.").partition(".")[0])
    return None


@contextmanager
def _giving(modules: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Inside the block, the modules return `output` without computing. Afterwards they are as before."""
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            # Only `forward` is replaced, because other code may read attributes of the module.
            vars(module)["forward"] = lambda *_, **__: output
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            vars(module).pop("forward") if own is None else vars(module).update(forward=own)


class _Reached(Exception):
    """Ends a pass when the output of the last module of a cut is known."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
    raise _Reached(output if isinstance(output, Tensor) else output.last_hidden_state)
