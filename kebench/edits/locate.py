"""Computes what locate-then-edit editors share: keys, values, and the value that yields the target.

These editors treat the last linear map of an MLP as a memory, W k = v. The key k is the input of the map at
the subject's last token. The value v is the output of the map, or of the whole layer, at that token.

Sources: Meng et al. 2022 (ROME, arXiv 2202.05262), section 3.1; Meng et al. 2023 (MEMIT, arXiv 2210.07229),
section 4.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kebench.edits.edit import Edit
from kebench.errors import BadSetting, shown
from kebench.models.causal import Causal
from kebench.models.model import AbstractModel, Prefixed
from kebench.models.parts import LayerParts
from kebench.models.rows import IGNORE, Rows, pad

FACTS_AT_ONCE = 32
"""The number of facts whose values are learnt in one forward pass."""
ROWS_AT_ONCE = 128
"""The number of rows in a forward pass that only reads keys and values."""


class Located(NamedTuple):
    """The tokens of a text, and the place of the subject's last token."""

    ids: tuple[int, ...]
    place: int


@dataclass(frozen=True)
class Fact:
    """An edit as tokens.

    Attributes:
        contexts: the prompt by itself, and then the prompt after each of some other texts.
        target: the answer's tokens.
        essence: the text "{subject} is a". The model's prediction at the subject should not change.
    """

    contexts: tuple[Located, ...]
    target: tuple[int, ...]
    essence: Located


def facts_of(
    base: AbstractModel, edits: Sequence[Edit], contexts: Sequence[str], *, end: bool = True
) -> list[Fact]:
    """Returns edits as tokens.

    Args:
        base: a causal language model.
        edits: edits with subjects.
        contexts: texts before the prompt.
        end: True if the end of the answer belongs to the target. In the papers it does not; then a model that
            decodes freely continues after the target.

    Raises:
        BadSetting: an edit has no subject, or its prompt does not contain it.
    """
    assert isinstance(base, Causal)
    found = []
    for edit in edits:
        alone = _located(base, edit.prompt, edit.subject)
        from_the_end = len(alone.ids) - alone.place
        behind = base.prompt_ids([Prefixed(context, edit.prompt) for context in contexts])
        others = [Located(tuple(ids), len(ids) - from_the_end) for ids in behind]
        target = base.target_ids(edit.prompt, edit.target)
        essence = _located(base, f"{edit.subject} is a", edit.subject)
        found.append(Fact((alone, *others), tuple(target if end else target[:-1]), essence))
    return found


def _located(base: AbstractModel, prompt: str, subject: str | None) -> Located:
    if subject is None:
        raise BadSetting(
            f"found no subject with the prompt {shown(prompt)}, wanted one: a locate-then-edit editor changes"
            " the model at the subject's last token"
        )
    place = base.subject_span(prompt, subject)[-1]
    return Located(tuple(base.prompt_ids([prompt])[0]), place)


def mlp_layer(base: AbstractModel, number: int) -> LayerParts:
    """Returns a layer of the model, after checking that its MLP ends in exactly one linear map.

    Args:
        base: the model.
        number: the number of the layer, counted from 0.

    Raises:
        BadSetting: there is no such layer, or its MLP ends in several linear maps, as one with experts does.
    """
    layers = base.parts.layers
    if not 0 <= number < len(layers):
        raise BadSetting(f"layer: found {number}, wanted 0 to {len(layers) - 1}, the layers of {base.name}")
    layer = layers[number]
    if len(layer.mlp_out) != 1:
        raise BadSetting(
            f"layer {number} of {base.name}: found {len(layer.mlp_out)} linear maps at the end of its MLP,"
            " wanted one"
        )
    return layer


# Keys and values -------------------------------------------------------------------------------------


@torch.no_grad()
def read(
    base: AbstractModel, texts: Sequence[Located], weight: str, module: str
) -> tuple[Float[Tensor, "texts d_in"], Float[Tensor, "texts d_out"]]:
    """Returns the input of a linear map and the output of a module, at the subject's last token of each text.

    Args:
        base: the model that reads the texts.
        texts: any number of texts.
        weight: the name of the linear map's weight.
        module: the path of the module: a linear map or a layer.

    Returns:
        (texts, d_in) and (texts, d_out), in float64.
    """
    map_ = base.network.get_submodule(weight.removesuffix(".weight"))
    place = base.network.get_submodule(module)
    given: list[Tensor] = []
    gave: list[Tensor] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        part = texts[start : start + ROWS_AT_ONCE]
        last = (torch.arange(len(part)), torch.tensor([text.place for text in part]))
        with _seen(map_, place) as (inputs, outputs):
            base.logits(_rows(base, part, [()] * len(part)))
        given.append(inputs[0][last].cpu().double())
        gave.append(outputs[0][last].cpu().double())
    return torch.cat(given), torch.cat(gave)


@contextmanager
def _seen(giver: nn.Module, taker: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collects the inputs of one module and the outputs of another; of several tensors, the first."""
    given: list[Tensor] = []
    gave: list[Tensor] = []

    def see_input(_module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        given.append(inputs[0])

    def see_output(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        gave.append(output if isinstance(output, Tensor) else output[0])

    handles = giver.register_forward_hook(see_input), taker.register_forward_hook(see_output)
    try:
        yield given, gave
    finally:
        for handle in handles:
            handle.remove()


def _rows(base: AbstractModel, texts: Sequence[Located], targets: Sequence[Sequence[int]]) -> Rows:
    """Returns texts with their targets as rows. If a target is empty, the subject's last token is scored."""
    assert isinstance(base, Causal)
    whole = [[*text.ids, *target[:-1]] for text, target in zip(texts, targets, strict=True)]
    labels = [
        [*[IGNORE] * (len(text.ids) - 1), *target] if target else [*[IGNORE] * text.place, 0]
        for text, target in zip(texts, targets, strict=True)
    ]
    inputs = {
        "input_ids": pad(whole, base.pad, base.device),
        "attention_mask": pad([[1] * len(row) for row in whole], 0, base.device),
    }
    width = inputs["input_ids"].shape[1]
    filled = [[*row, *[IGNORE] * (width - len(row))] for row in labels]
    return Rows.of(inputs, pad(filled, IGNORE, base.device))


# The value to be stored ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueSettings:
    """How δ is learnt (`learn_values`).

    Attributes:
        steps: the largest number of forward passes. There is one step of Adam less.
        learning_rate: the learning rate of Adam.
        weight_decay: the weight of ‖δ‖ / ‖m₀‖².
        kl_factor: the weight of the KL divergence at "{subject} is a".
        clamp: the largest norm of δ, as a multiple of the norm of m₀.
        stop_at: a fact is finished when its loss is below this.
    """

    steps: int = 25
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp: float = 4.0
    stop_at: float = 0.05


@dataclass(frozen=True)
class Values:
    """The output of a module at the subject's last token, and what must be added to it.

    Attributes:
        m0: (facts, d_out). The output for the prompt by itself.
        delta: (facts, d_out). δ, with which the model says the target.
    """

    m0: Float[Tensor, "facts d_out"]
    delta: Float[Tensor, "facts d_out"]


def learn_values(
    base: AbstractModel, facts: Sequence[Fact], module: str, below: str, settings: ValueSettings
) -> Values:
    """Learns the δ of each fact, which yields the target if it is added at the subject's last token.

        L(δ) = mean over contexts of −log p_δ(a | context) / |a|
             + kl_factor · KL(p_δ ‖ p) at the subject's last token of "{subject} is a"
             + weight_decay · ‖δ‖ / ‖m₀‖²

    L is minimised by Adam from δ = 0. After each step, δ is scaled to a norm of at most clamp · ‖m₀‖. Many
    facts share a forward pass, but each has its own loss, so they do not depend on each other.

    Args:
        base: the model with its present weights.
        facts: any number of facts.
        module: the path of the module to whose output δ is added: the last linear map of an MLP (ROME), or a
            whole layer (MEMIT).
        below: the name of a weight in that layer. The states before the layer are computed once.
        settings: the settings of the descent.

    Returns:
        Both tensors in float64.

    Source: ROME, equation 4; MEMIT, section 4.2. The released programs use KL(p_δ ‖ p), and ‖δ‖ without the
    square.
    """
    found = [
        _learn(base, facts[start : start + FACTS_AT_ONCE], module, below, settings)
        for start in range(0, len(facts), FACTS_AT_ONCE)
    ]
    m0, delta = zip(*found, strict=True)
    return Values(torch.cat(m0), torch.cat(delta))


def _learn(
    base: AbstractModel, facts: Sequence[Fact], module: str, below: str, settings: ValueSettings
) -> tuple[Tensor, Tensor]:
    layer = base.network.get_submodule(module)
    asked = _Asked.of(base, facts)
    clean_values: list[Tensor] = []
    with (
        torch.no_grad(),
        base.reuse.below(frozenset([below]), asked.rows),
        asked.adding(layer, None, clean_values),
    ):
        clean = asked.at_essence(base.logits(asked.rows)).log_softmax(1)
    m0 = clean_values[0]
    delta = torch.zeros_like(m0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=settings.learning_rate)
    longest = settings.clamp * m0.norm(dim=1, keepdim=True)
    active = list(range(len(facts)))  # the facts whose loss is not small enough yet
    for turn in range(settings.steps):
        with (
            base.reuse.below(frozenset([below]), asked.rows),
            torch.enable_grad(),
            asked.adding(layer, delta[active]),
        ):
            logits = base.logits(asked.rows)
            p = asked.at_essence(logits).log_softmax(1)
            kl = (p.exp() * (p - clean[active])).sum(1)
            decay = _norm(delta[active]) / m0[active].square().sum(1)
            loss = asked.nll(logits) + settings.kl_factor * kl + settings.weight_decay * decay
        going_on = [place for place, each in enumerate(loss.tolist()) if not each < settings.stop_at]
        if not going_on or turn == settings.steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss[going_on].sum(), delta)
        if len(going_on) < len(active):
            active = [active[place] for place in going_on]
            asked = _Asked.of(base, [facts[place] for place in active])
        before = delta.detach().clone()
        adam.step()
        with torch.no_grad():
            clamped = delta * (longest / delta.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1)
            before[active] = clamped[active]  # a finished fact does not move with Adam's momentum
            delta.copy_(before)
    return m0.cpu().double(), delta.detach().cpu().double()


def _norm(delta: Float[Tensor, "facts d_out"]) -> Float[Tensor, " facts"]:
    """Returns ‖δ‖ with the gradient 0 at δ = 0."""
    squares = delta.square().sum(1)
    zero = squares == 0
    return torch.where(zero, squares, torch.where(zero, torch.ones_like(squares), squares).sqrt())


@dataclass(frozen=True)
class _Asked:
    """Some facts as one batch: for each fact, its contexts with the target, and then its essence.

    Attributes:
        rows: the batch.
        fact: (rows,). The place of each row's fact.
        place: (rows,). The place of the subject's last token.
        first: (facts,). The row of each fact's prompt by itself.
        is_essence: (rows,). True for an essence.
        weight: (scored,). 1 / (contexts · |a|), and 0 at an essence.
    """

    rows: Rows
    fact: Tensor
    place: Tensor
    first: Tensor
    is_essence: Tensor
    weight: Tensor

    @staticmethod
    def of(base: AbstractModel, facts: Sequence[Fact]) -> "_Asked":
        texts = list(chain.from_iterable((*fact.contexts, fact.essence) for fact in facts))
        targets = list(chain.from_iterable([*[f.target] * len(f.contexts), ()] for f in facts))
        sizes = [len(fact.contexts) + 1 for fact in facts]
        rows = _rows(base, texts, targets)
        device = base.device
        fact = torch.arange(len(facts), device=device).repeat_interleave(torch.tensor(sizes, device=device))
        is_essence = torch.tensor([not target for target in targets], device=device)
        each = torch.tensor(
            [1 / ((n - 1) * len(f.target)) for n, f in zip(sizes, facts, strict=True)], dtype=torch.float64
        )
        weight = each.to(device)[fact] * ~is_essence
        first = torch.tensor(sizes, device=device).cumsum(0) - torch.tensor(sizes, device=device)
        place = torch.tensor([text.place for text in texts], device=device)
        return _Asked(rows, fact, place, first, is_essence, weight[rows.row])

    @contextmanager
    def adding(
        self, module: nn.Module, delta: Tensor | None, seen: list[Tensor] | None = None
    ) -> Iterator[None]:
        """Adds δ to the module's output at each subject's last token.

        Args:
            module: a linear map or a layer.
            delta: (facts, d_out), or None to add nothing.
            seen: a list to which the module's output for each prompt by itself is added, at least in float32.
        """
        order = torch.arange(len(self.fact), device=self.fact.device)

        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
            states = output if isinstance(output, Tensor) else output[0]
            if seen is not None:
                values = states[self.first, self.place[self.first]]
                seen.append(values.to(torch.promote_types(values.dtype, torch.float32)))
            if delta is None:
                return None
            change = torch.zeros_like(states).index_put((order, self.place), delta[self.fact].to(states))
            return states + change if isinstance(output, Tensor) else (states + change, *output[1:])

        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def at_essence(self, logits: Float[Tensor, "scored vocab"]) -> Float[Tensor, "facts vocab"]:
        """Returns the logits at the subject's last token of each essence."""
        return logits[self.is_essence[self.rows.row]]

    def nll(self, logits: Float[Tensor, "scored vocab"]) -> Float[Tensor, " facts"]:
        """Returns the mean over contexts of −log p(a | context) / |a|."""
        of_labels = logits.log_softmax(1).gather(1, self.rows.labels[:, None])[:, 0]
        fact = self.fact[self.rows.row]
        weighted = -of_labels * self.weight.to(of_labels)
        return torch.zeros(len(self.first), device=logits.device, dtype=logits.dtype).index_add(
            0, fact, weighted
        )
