"""Fine-tuning on one edit, free and within a ball."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import tiny
import torch
import torch.nn.functional as F
from alone import updates_of
from dense_reference import really_edited
from hypothesis import given, settings
from hypothesis import strategies as st
from kebench.baselines.constrained_fine_tuning import ConstrainedFineTuning
from kebench.baselines.constrained_fine_tuning.editor import nearest_in_ball, project
from kebench.baselines.fine_tuning import FineTuning
from kebench.baselines.fine_tuning import editor as fine_tuning
from tolerance import assert_same, through, tolerance
from torch import Tensor, nn

from kebench.edits.edit import Edit
from kebench.edits.versions import Versions, reached
from kebench.models.changes import Changes, Dense, dense_applied, substituted
from kebench.models.identity import fingerprint
from kebench.models.layers import editable
from kebench.models.model import AbstractModel
from kebench.models.rows import all_argmax, target_loss
from kebench.running.cases import Case
from kebench.running.trial import edit_and_ask
from kebench.scoring.normalise import normalise_decao2021
from kebench.scoring.protocols import DECAO2021, STRICT

KINDS = pytest.mark.parametrize("kind", [tiny.slow_if_stood_in_for(kind) for kind in tiny.KINDS])
QUICK = FineTuning(learning_rate=1e-3, max_steps=60)


def an_edit(base: AbstractModel, kind: str) -> Edit:
    """One that the model does not fulfil yet."""
    for edit in tiny.edits(base, kind, 12):
        if not base.says([edit.prompt], [edit.target])[0]:
            return edit
    raise AssertionError("every edit is fulfilled")


def deltas_of(update: Changes) -> dict[str, Tensor]:
    found = {}
    for name, change in update.items():
        assert isinstance(change, Dense)
        found[name] = change.delta
    return found


@pytest.mark.parametrize("kind", ["bert", "gpt2", *map(tiny.slow, ("bart", "t5", "llama"))])
def test_it_stops_with_the_step_that_makes_the_target_the_answer(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)  # in float32, rounding can decide how many steps it takes
    edit = an_edit(base, kind)
    before = fingerprint(base.network)
    (update,) = updates_of(QUICK, {}, base, [edit])
    assert fingerprint(base.network) == before
    assert set(update) == set(editable(base.network))
    assert really_edited(base, update).says([edit.prompt], [edit.target]) == [True]
    # The fewest steps that do it: with that cap it is the same update, with a cap of one fewer it does not.
    _, steps = one_at_a_time(QUICK, base, edit, lambda _deltas: None)
    assert 0 < steps < QUICK.max_steps
    capped = updates_of(replace(QUICK, max_steps=steps), {}, base, [edit])[0]
    assert all(torch.equal(delta, deltas_of(update)[name]) for name, delta in deltas_of(capped).items())
    fewer = updates_of(replace(QUICK, max_steps=steps - 1), {}, base, [edit])[0]
    assert really_edited(base, fewer).says([edit.prompt], [edit.target]) == [False]


@KINDS
def test_the_cap_is_kept_and_no_step_is_no_change(kind: str) -> None:
    base = tiny.model(kind)
    edit = an_edit(base, kind)
    assert updates_of(replace(QUICK, max_steps=0), {}, base, [edit]) == [{}]
    # RMSprop's first step has length 10 · rate in every entry, later ones are shorter.
    for steps in (1, 3):
        slow = replace(QUICK, learning_rate=1e-6, max_steps=steps)
        moved = max(
            delta.abs().max().item() for delta in deltas_of(updates_of(slow, {}, base, [edit])[0]).values()
        )
        assert 0 < moved <= 1.001 * steps * 10 * 1e-6


def already_so(base: AbstractModel, kind: str) -> tuple[str, str]:
    """A prompt, and what the model says to it."""
    for prompt in tiny.prompts(kind, 60):
        (answer,) = base.answer([prompt])
        if answer and base.says([prompt], [answer])[0]:
            return prompt, answer
    raise AssertionError("it says nothing that ends")


@KINDS
def test_what_is_already_so_is_left_alone(kind: str) -> None:
    base = tiny.fitted(kind)
    prompt, answer = already_so(base, kind)
    assert updates_of(QUICK, {}, base, [Edit("e", prompt, answer, answer)]) == [{}]


def test_under_decao2021_it_stops_when_the_answer_of_the_beams_is_the_target() -> None:
    base = tiny.fitted("bart")
    judged = base.judged(DECAO2021)
    prompts = tiny.prompts("bart", 6)
    said = base.answer(prompts, beams=5)
    assert any(said)
    # Normalised as they do, these are said already; as tokens they are not.
    there = [Edit("e", prompt, y, f"{y.upper()} .") for prompt, y in zip(prompts, said, strict=True) if y]
    assert updates_of(QUICK, {}, judged, there) == [{}] * len(there)
    assert updates_of(QUICK, {}, base, there[:1]) != [{}]

    edits = tiny.edits(base, "bart", 6)
    updates = updates_of(QUICK, {}, judged, edits)
    assert any(updates)
    assert reached(judged, updates, [(edit,) for edit in edits]) == [[True]] * 6
    answers = Versions(base, updates).answer([edit.prompt for edit in edits], range(6), [""] * 6, beams=5)
    assert [normalise_decao2021(answer) for answer in answers] == [
        normalise_decao2021(edit.target) for edit in edits
    ]


def test_an_update_that_is_not_finite_has_not_reached_its_target() -> None:
    judged = tiny.fitted("bart").judged(DECAO2021)
    (name, *_) = editable(judged.network)
    broken = {name: Dense(torch.full_like(judged.network.get_parameter(name), torch.nan))}
    (edit,) = tiny.edits(judged, "bart", 1)
    assert reached(judged, [broken], [(edit,)]) == [[False]]


def loss_by_hand(base: AbstractModel, edit: Edit) -> Tensor:
    """Cross-entropy of every target token after the ones before it, EOS last, a mean."""
    network, tokenizer = base.network, base.tokenizer
    prompt = torch.tensor(base.prompt_ids([edit.prompt]))
    if base.family == "classifier":
        label = torch.tensor([base.prompt_format.labels.index(edit.target)])
        return F.cross_entropy(network(input_ids=prompt).logits, label)
    if base.family == "seq2seq":
        target = [*tokenizer(edit.target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        decoder = torch.tensor([[network.config.decoder_start_token_id, *target[:-1]]])
        logits = network(input_ids=prompt, decoder_input_ids=decoder).logits[0]
        return F.cross_entropy(logits, torch.tensor(target))
    whole = tokenizer(f"{edit.prompt} {edit.target}")["input_ids"]
    start = prompt.shape[1]
    logits = network(input_ids=torch.tensor([whole])).logits[0, start - 1 :]
    return F.cross_entropy(logits, torch.tensor([*whole[start:], tokenizer.eos_token_id]))


@KINDS
def test_the_first_step_follows_the_loss_over_all_target_tokens(kind: str) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    target = "SUPPORTS" if kind == "bert" else "New York"
    prompt = next(p for p in tiny.prompts(kind) if not base.says([p], [target])[0])
    edit = Edit("e", prompt, "", target)
    update = updates_of(replace(QUICK, max_steps=1), {}, base, [edit])[0]

    names = editable(base.network)
    weights = [base.network.get_parameter(name).requires_grad_(True) for name in names]
    gradients = torch.autograd.grad(loss_by_hand(base, edit), weights)
    base.network.requires_grad_(False)
    expected = {
        name: -1e-3 * gradient / ((0.01 * gradient.square()).sqrt() + 1e-8)
        for name, gradient in zip(names, gradients, strict=True)
    }
    assert_near(deltas_of(update), expected, base, QUICK.learning_rate, steps=1)


def assert_near(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], base: AbstractModel, rate: float, steps: int
) -> None:
    """Equal but for the gradients' rounding: RMSprop divides it by 1e-8 where a gradient is nearly zero."""
    rounding = tolerance(torch.float64, **through(base, passes=2)) / 1e-8
    assert set(found) == set(expected)
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected[name], rtol=0, atol=steps * rate * rounding)


# --- many at a time


def one_at_a_time(
    editor: FineTuning, base: AbstractModel, edit: Edit, into_ball: Callable[[dict[str, Tensor]], None]
) -> tuple[dict[str, Tensor], int]:
    """The method with PyTorch's optimiser and autograd on replaced weights; θ' − θ, and the steps it took."""
    theta = {name: base.network.get_parameter(name) for name in editable(base.network, editor.layers)}
    deltas = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in theta.items()}
    optimizer = torch.optim.RMSprop(deltas.values(), lr=editor.learning_rate)
    rows = base.rows([edit.prompt], [edit.target])
    for step in range(editor.max_steps):
        with substituted(base.network, {name: theta[name] + deltas[name] for name in theta}):
            logits = base.logits(rows)
        if bool(all_argmax(logits, rows)):
            return {name: delta.detach() for name, delta in deltas.items()}, step
        optimizer.zero_grad()
        target_loss(logits, rows).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            into_ball(deltas)
    return {name: delta.detach() for name, delta in deltas.items()}, editor.max_steps


SLOW = {
    kind: replace(QUICK, learning_rate=1e-4 if kind == "bert" else 1e-3, max_steps=12) for kind in tiny.KINDS
}
"""Steps so small that a group's edits finish one after the other."""


def precise(kind: str) -> AbstractModel:
    """Where rounding is far below what a step changes; the fitted classifier is too sure of itself."""
    return (tiny.model if kind == "bert" else tiny.fitted)(kind, dtype=torch.float64)


def group(base: AbstractModel, kind: str) -> list[Edit]:
    """Edits of different lengths, one of them fulfilled already."""
    asked = tiny.edits(base, kind, 6)
    said = already_so(base, kind)
    return [*asked[:2], Edit("so", said[0], said[1], said[1]), *asked[2:]]


def compare(
    editor: FineTuning | ConstrainedFineTuning,
    base: AbstractModel,
    edits: list[Edit],
    into_ball: Callable[[dict[str, Tensor]], None] = lambda _deltas: None,
) -> set[int]:
    """Holds a group's updates against those of one at a time; the numbers of steps that were taken.

    A step is of the order of the learning rate, so equal changes took equally many.
    """
    plain = FineTuning(editor.layers, editor.learning_rate, editor.max_steps)
    counts = set()
    for edit, update in zip(edits, updates_of(editor, {}, base, edits), strict=True):
        expected, steps = one_at_a_time(plain, base, edit, into_ball)
        counts.add(steps)
        assert_near(deltas_of(update), expected if steps else {}, base, editor.learning_rate, steps)
        answers = [
            copy.says([edit.prompt], [edit.target])
            for copy in (
                really_edited(base, update),
                really_edited(base, {n: Dense(d) for n, d in expected.items()}),
            )
        ]
        assert answers[0] == answers[1]
    return counts


@KINDS
@pytest.mark.parametrize("layers", [tiny.slow("first"), "last", "all"])
def test_a_group_is_tuned_as_one_edit_at_a_time(kind: str, layers: Literal["first", "last", "all"]) -> None:
    base = precise(kind)
    before = fingerprint(base.network)
    counts = compare(replace(SLOW[kind], layers=layers), base, group(base, kind))
    assert 0 in counts, "one is right already"
    assert len(counts) > 2, "they must finish at different steps"
    assert fingerprint(base.network) == before
    assert not [module for module in base.network.modules() if module._forward_hooks]


@pytest.mark.parametrize("kind", ["bert", tiny.slow("gpt2")])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("scope", ["parameter", "global"])
def test_every_edit_of_a_group_has_a_ball_of_its_own(
    kind: str, norm: Literal["1", "2", "inf"], scope: Literal["parameter", "global"]
) -> None:
    base = precise(kind)
    radius = {"1": 0.05, "2": 0.01, "inf": 1e-3}[norm]
    editor = ConstrainedFineTuning(norm, radius, scope, learning_rate=1e-3, max_steps=4)
    compare(editor, base, group(base, kind), partial(project, norm=norm, radius=radius, scope=scope))


@pytest.mark.parametrize(
    ("edits_worth", "sizes"), [tiny.slow(0, {1}), (1, {1}), tiny.slow(2, {1, 2}), (3, {1, 2, 3}), (99, None)]
)
def test_how_many_fit_in_memory_changes_an_update_by_rounding_alone(
    edits_worth: int, sizes: set[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, editor = precise("bart"), SLOW["bart"]
    edits = group(base, "bart")
    expected = updates_of(editor, {}, base, edits)
    each = 2 * sum(base.network.get_parameter(name).nbytes for name in editable(base.network))
    monkeypatch.setattr(fine_tuning, "BYTES_AT_ONCE", edits_worth * each)
    seen = set()

    def spy(network: nn.Module, deltas: list[dict[str, Tensor]]) -> AbstractContextManager[None]:
        seen.add(len(deltas))
        return dense_applied(network, deltas)

    monkeypatch.setattr(fine_tuning, "dense_applied", spy)
    found = updates_of(editor, {}, base, edits)
    assert seen <= sizes if sizes else max(seen) == len(edits)
    for one, other in zip(found, expected, strict=True):
        assert_near(deltas_of(one), deltas_of(other), base, editor.learning_rate, editor.max_steps)


def test_the_same_group_gives_the_same_bytes() -> None:
    base = tiny.model("bart")
    edits = group(base, "bart")
    first, again = (updates_of(replace(SLOW["bart"], max_steps=4), {}, base, edits) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(delta, deltas_of(other)[name]) for name, delta in deltas_of(one).items())


def test_a_group_that_does_not_fit_is_tuned_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    base, editor = precise("bert"), SLOW["bert"]
    cases = [
        Case(edit, edit.id, paraphrases=(), held_out=False, held_out_wordings=frozenset())
        for edit in group(base, "bert")
    ]
    inputs = SimpleNamespace(model=base, protocol=STRICT)
    setting = SimpleNamespace(edit_timeout=None)
    plan: Any = SimpleNamespace(inputs=inputs, setting=setting, fail_fast=False, sample=lambda case: ())
    expected = [trial.answers for trial in edit_and_ask(editor, {}, plan, cases)]

    def scarce(network: nn.Module, deltas: list[dict[str, Tensor]]) -> AbstractContextManager[None]:
        if len(deltas) > 1 and deltas[0]:  # in the second step
            raise torch.OutOfMemoryError
        return dense_applied(network, deltas)

    monkeypatch.setattr(fine_tuning, "dense_applied", scarce)
    assert [trial.answers for trial in edit_and_ask(editor, {}, plan, cases)] == expected
    assert not [row for row in expected if row.failure]


def test_no_edits_no_updates() -> None:
    assert updates_of(QUICK, {}, tiny.model("bert"), []) == []


def test_only_the_chosen_layers_move() -> None:
    base = tiny.model("bart")
    (update,) = updates_of(replace(QUICK, layers="first", max_steps=2), {}, base, [an_edit(base, "bart")])
    assert set(update) == set(editable(base.network, "first"))


# --- the ball


def p_norm(vector: Tensor, norm: str) -> float:
    return vector.norm(p=math.inf if norm == "inf" else float(norm)).item()


DUAL = {"1": math.inf, "2": 2.0, "inf": 1.0}
NORMS = pytest.mark.parametrize("norm", list(DUAL))


@NORMS
@given(
    values=st.lists(st.floats(-5, 5), min_size=1, max_size=8),
    radius=st.floats(1e-3, 20),
)
@settings(max_examples=60, deadline=None)
def test_a_projection_is_the_nearest_point_of_the_ball(norm: str, values: list[float], radius: float) -> None:
    vector = torch.tensor(values, dtype=torch.float64)
    point = nearest_in_ball(vector, norm, radius)
    assert p_norm(point, norm) <= radius * (1 + 1e-9)
    # z is no nearer than P for any z in the ball: max over z of ⟨v − P, z − P⟩ ≤ 0, where the largest
    # ⟨v − P, z⟩ is the radius times the dual norm.
    away = vector - point
    assert radius * away.norm(p=DUAL[norm]) - away @ point <= 1e-9
    if p_norm(vector, norm) <= radius:
        assert torch.equal(point, vector)


@NORMS
def test_a_projection_against_brute_force(norm: str) -> None:
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    size = points.norm(p=math.inf if norm == "inf" else float(norm), dim=1)
    inside = points[size <= 1]
    for vector in torch.tensor([[2.0, 0.5], [-0.7, 0.9], [3, 3], [0.2, -0.1]], dtype=torch.float64):
        nearest = inside[(inside - vector).norm(dim=1).argmin()]
        found = nearest_in_ball(vector, norm, 1.0)
        assert (found - vector).norm() <= (nearest - vector).norm() + 1e-9
        assert (found - nearest).norm() < 0.11  # the grid is 0.005 wide, and the 2-ball's border is flat


@NORMS
def test_a_radius_too_small_for_the_numbers_still_projects(norm: str) -> None:
    for radius in (0.0, 1e-12):
        point = nearest_in_ball(torch.tensor([1.0, -1.0, 0.5]), norm, radius)
        assert p_norm(point, norm) <= 1e-6


@NORMS
def test_the_ball_holds_each_parameter_or_all_together(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = {name: torch.randn(3, 4, generator=generator, dtype=torch.float64) for name in "ab"}
    each = {name: delta.clone() for name, delta in start.items()}
    project(each, norm=norm, radius=0.5)
    for name, delta in each.items():
        assert p_norm(delta.reshape(-1), norm) <= 0.5 + tolerance(torch.float64, terms=12)
        assert_same(delta, nearest_in_ball(start[name].reshape(-1), norm, 0.5).view(3, 4), terms=12)
    together = {name: delta.clone() for name, delta in start.items()}
    project(together, norm=norm, radius=0.5, scope="global")
    flat = torch.cat([delta.reshape(-1) for delta in together.values()])
    assert p_norm(flat, norm) <= 0.5 + tolerance(torch.float64, terms=24)
    whole = torch.cat([delta.reshape(-1) for delta in start.values()])
    assert_same(flat, nearest_in_ball(whole, norm, 0.5), terms=24)
    same = all(torch.allclose(each[name], together[name]) for name in "ab")
    assert same == (norm == "inf")  # the one ball that is a product


@NORMS
@pytest.mark.parametrize("scope", ["parameter", "global"])
def test_constrained_tuning_stays_in_the_ball(norm: str, scope: str) -> None:
    base = tiny.model("bart")
    radius = {"1": 0.05, "2": 0.01, "inf": 1e-3}[norm]
    editor = ConstrainedFineTuning(norm, radius, scope, learning_rate=1e-3, max_steps=4)  # type: ignore[arg-type]
    (update,) = updates_of(editor, {}, base, [an_edit(base, "bart")])
    deltas = [delta.reshape(-1) for delta in deltas_of(update).values()]
    balls = [torch.cat(deltas)] if scope == "global" else deltas
    sizes = [p_norm(ball, norm) for ball in balls]
    assert max(sizes) <= radius * 1.0001
    assert max(sizes) >= radius * 0.5, "it must reach the border, or this shows nothing"


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_a_radius_below_ten_times_the_rate_binds_in_the_first_step(kind: str) -> None:
    """In float64, where 1e-8 beside √v is far less than a thousandth of it for almost every weight."""
    base = tiny.model(kind, dtype=torch.float64)
    edit, rate = an_edit(base, kind), 1e-5
    for times, steps, binds in ((9.99, 1, True), (10.01, 1, False), (30.01, 3, False), (9.99, 3, True)):
        editor = ConstrainedFineTuning(radius=times * rate, learning_rate=rate, max_steps=steps)
        held = torch.cat(
            [each.reshape(-1) for each in deltas_of(updates_of(editor, {}, base, [edit])[0]).values()]
        )
        free = updates_of(FineTuning(learning_rate=rate, max_steps=steps), {}, base, [edit])[0]
        far = torch.cat([each.reshape(-1) for each in deltas_of(free).values()])
        assert torch.equal(held, far) != binds
        moved = far.abs() > rate
        if binds and steps == 1:
            assert (held[moved].abs() == times * rate).float().mean() > 0.9


@NORMS
@pytest.mark.parametrize("scope", ["parameter", "global"])
def test_an_endless_ball_constrains_nothing(norm: str, scope: str) -> None:
    base = tiny.fitted("bart")
    edit = an_edit(base, "bart")
    editor = ConstrainedFineTuning(norm, math.inf, scope, learning_rate=1e-3, max_steps=60)  # type: ignore[arg-type]
    free = deltas_of(updates_of(QUICK, {}, base, [edit])[0])
    assert free
    held = deltas_of(updates_of(editor, {}, base, [edit])[0])
    assert all(torch.equal(delta, held[name]) for name, delta in free.items())
