"""Hidden states below the lowest edited layer: the same for every edit, so computed once a row.

An edit of layers L and above leaves what enters layer L as the base model has it. The network is cut there:
in later passes over the same row, the layers below are not run, and layer L gets what was kept.
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
"""Hidden states kept for a model, on its device; the longest unused go first. BERT-base: 20,000 claims."""

Key = tuple[Any, ...]
"""A cut's name, and the tokens that one row's states depend on."""


@dataclass(frozen=True)
class Cut:
    """Modules that run one after the other before anything changed: what the last gives is the base's.

    Attributes:
        name: the last module's.
        modules: consecutive layers, or one whole encoder.
        reads: the inputs that the states depend on; the states are as long as the last of them.
        encoder: the encoder that runs them; None where the network itself does.
    """

    name: str
    modules: tuple[nn.Module, ...]
    reads: tuple[str, ...]
    encoder: nn.Module | None = None


class Reuse:
    """Skips what edits leave unchanged.

    Nothing is known of a network by its name. A cut is used only after the network has given the very same
    result on one row with and without it: so no layer that hands on more than its hidden states is skipped.
    """

    def __init__(self, name: str, network: PreTrainedModel, run: Callable[[Rows], Tensor]) -> None:
        self.name = name
        self.network = network
        self.run = run
        self._forget(())

    @contextmanager
    def below(self, changed: frozenset[str], rows: Rows | None) -> Iterator[None]:
        """Inside, passes over `rows` skip what runs before the changed parameters.

        To be entered while the base weights are in force: what is not kept yet is computed here.

        Args:
            changed: the parameters that edits will change; if none, nothing is skipped.
            rows: the batch; None for a pass that cannot be cut.
        """
        cuts = self._usable(changed, rows) if rows is not None and changed else ()
        with ExitStack() as standing:
            if rows is not None and cuts:
                standing.enter_context(self._cut(cuts, rows))
            yield

    @contextmanager
    def _cut(self, cuts: Sequence[Cut], rows: Rows) -> Iterator[None]:
        """The network with what each cut gives for these rows in place of the cut's modules."""
        states = [self._states(cuts[: place + 1], rows) for place in range(len(cuts))]
        with ExitStack() as standing:
            for cut, given in zip(cuts, states, strict=True):
                whole = cut.modules[-1] is cut.encoder
                output = BaseModelOutput(last_hidden_state=given) if whole else given
                standing.enter_context(_giving(cut.modules, output))
            yield

    def _states(self, cuts: Sequence[Cut], rows: Rows) -> Float[Tensor, "batch tokens hidden"]:
        """What the last of the cuts gives for each row, zero where a row is padded."""
        *before, cut = cuts
        tokens = [rows.tokens(name) for name in cut.reads]
        keys: list[Key] = [(cut.name, *row) for row in zip(*tokens, strict=True)]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        # A question asked of several edits in one batch is one row here.
        missing = sorted({key: row for row, key in enumerate(keys) if key not in found}.values())
        if missing:
            part = rows.part(missing)
            with self._cut(before, part):
                computed = self._reach(cut, part)
            for row, states in zip(missing, computed, strict=True):
                # A copy: a view would keep the whole batch alive.
                found[keys[row]] = states[: len(tokens[-1][row])].clone()
        self._keep(found)
        given = pad_sequence([found[key] for key in keys], batch_first=True)
        return pad(given, (0, 0, 0, rows.inputs[cut.reads[-1]].shape[1] - given.shape[1]))

    def _keep(self, found: dict[Key, Tensor]) -> None:
        """Puts states that were just used at the end of the queue, and lets go of the front."""
        for key, states in found.items():
            self._bytes += 0 if key in self._kept else states.nbytes
            self._kept[key] = states
            self._kept.move_to_end(key)
        while self._bytes > STORE_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _reach(self, cut: Cut, rows: Rows) -> Float[Tensor, "batch tokens hidden"]:
        """What the cut's last module gives; the pass goes no further."""
        with cut.modules[-1].register_forward_hook(_stop):
            try:
                self._pass(cut, rows)
            except _Reached as reached:
                return reached.states
        raise LookupError(f"{cut.name} is not run")

    def _pass(self, cut: Cut, rows: Rows) -> Tensor:
        """What comes of these rows: the network's logits, or the encoder's states."""
        if cut.encoder is None:
            return self.run(rows)
        states: Tensor = cut.encoder(
            input_ids=rows.inputs["input_ids"], attention_mask=rows.inputs["attention_mask"]
        ).last_hidden_state
        return states

    # Where to cut ----------------------------------------------------------------------------------------

    def _usable(self, changed: frozenset[str], rows: Rows) -> tuple[Cut, ...]:
        """The cuts that are proved and that these rows can take, in the order they run."""
        # Weights written to, moved or cast have other addresses or versions: then nothing kept is true.
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
        """Whether the last cut changes no bit of what comes of one row; asked of the network once a cut."""
        cut = cuts[-1]
        if cut.name not in self._proofs:
            lengths = [len(tokens) for tokens in rows.tokens("input_ids")]
            one = rows.part([lengths.index(max(lengths))])  # without padding, whose states do differ

            def same() -> bool:
                with self._cut(cuts[:-1], one):
                    plain = self._pass(cut, one)
                with self._cut(cuts, one):
                    return torch.equal(plain, self._pass(cut, one))

            failed = f"{self.name}: the hidden states of {cut.name} cannot be reused"
            self._proofs[cut.name] = holds(same, failed)
        return self._proofs[cut.name]

    def _forget(self, weights: tuple[tuple[int, int], ...]) -> None:
        self._weights = weights
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._cuts: dict[frozenset[str], tuple[Cut, ...]] = {}
        self._proofs: dict[str, bool] = {}


def cuts_before(network: PreTrainedModel, changed: frozenset[str]) -> tuple[Cut, ...]:
    """Where all that runs before the changed parameters can be cut off, in the order it runs.

    Nowhere, if one of them lies outside the stacks of layers: an embedding, or what nobody foresaw.
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
    # What the decoder reads of a changed encoder is changed.
    ((stack, layer),) = (in_encoder or lowest).items()
    cuts = []
    reads: tuple[str, ...] = ("input_ids",)
    if path is not None and encoder is not None and not in_encoder:
        cuts.append(Cut(path, (encoder,), reads, encoder))
        reads = (*reads, "decoder_input_ids")
    if layer:
        layers = tuple(network.get_submodule(stack).children())[:layer]
        cuts.append(Cut(f"{stack}.{layer - 1}", layers, reads, encoder if in_encoder else None))
    # A tensor may have two places.
    touched = {id(network.get_parameter(name)) for name in changed}
    left_out = (weight for cut in cuts for module in cut.modules for weight in module.parameters())
    return () if any(id(weight) in touched for weight in left_out) else tuple(cuts)


def _place(network: nn.Module, parameter: str) -> tuple[str, int] | None:
    """The outermost list of layers that a parameter is in, and its layer's number there."""
    for path, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and parameter.startswith(f"{path}."):
            return path, int(parameter.removeprefix(f"{path}.").partition(".")[0])
    return None


@contextmanager
def _giving(modules: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Modules that give `output` and do nothing; afterwards they are exactly as before."""
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            # The module stays, with all that others may read of it.
            vars(module)["forward"] = lambda *_, **__: output
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            vars(module).pop("forward") if own is None else vars(module).update(forward=own)


class _Reached(Exception):
    """A pass has come as far as it should."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
    raise _Reached(output if isinstance(output, Tensor) else output.last_hidden_state)
