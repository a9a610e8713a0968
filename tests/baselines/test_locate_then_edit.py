"""Laws of the closed forms, in float64; what the editors refuse; and every architecture that they meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from alone import updates_of
from kebench.baselines.alphaedit import AlphaEdit
from kebench.baselines.memit import MEMIT
from kebench.baselines.rome import ROME
from kebench.baselines.ultraedit import UltraEdit
from kebench.baselines.ultraedit.editor import Moments
from torch import Tensor

from kebench.edits.covariances import Covariances, context_texts
from kebench.edits.edit import Edit
from kebench.edits.editor import Carried, State, Workspace
from kebench.edits.locate import Values, ValueSettings, facts_of, learn_values, mlp_layer, read
from kebench.edits.versions import in_force
from kebench.errors import BadSetting
from kebench.models.changes import LowRank
from kebench.models.model import AbstractModel

D_IN, D_OUT, N = 12, 7, 3


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def moment() -> Tensor:
    """C, a well-conditioned one."""
    x = random(40, D_IN)
    return x.T @ x / 40


@pytest.fixture
def state(moment: Tensor) -> State:
    values, vectors = torch.linalg.eigh(moment)
    return {"w/values": values, "w/vectors": vectors}


def test_r_rome_with_prompt_keys_adds_delta_at_the_prompts_key(state: State) -> None:
    k, delta = random(4, D_IN), random(D_OUT)
    value = Values(random(D_OUT), delta)
    left, u = ROME(variant="prompt").solve(
        k, random(4, D_OUT), value, (state["w/values"], state["w/vectors"])
    )
    torch.testing.assert_close(torch.outer(left, u) @ k[0], delta)


def test_r_rome_with_mean_keys_gives_the_value_at_the_mean_key(state: State) -> None:
    w, b, k = random(D_OUT, D_IN), random(D_OUT), random(4, D_IN)
    value = Values(random(D_OUT), random(1, D_OUT)[0])
    left, u = ROME(variant="mean").solve(k, k @ w.T + b, value, (state["w/values"], state["w/vectors"]))
    changed = w + torch.outer(left, u)
    torch.testing.assert_close(changed @ k.mean(0) + b, value.m0 + value.delta)


def test_rome_is_exact_at_the_prompts_key_and_not_at_the_mean_key(state: State, moment: Tensor) -> None:
    k, value = random(4, D_IN), Values(random(D_OUT), random(1, D_OUT)[0])
    left, u = ROME().solve(k, random(4, D_OUT), value, (state["w/values"], state["w/vectors"]))
    change = torch.outer(left, u)
    torch.testing.assert_close(change @ k[0], value.delta)
    assert not torch.allclose(change @ k.mean(0), value.delta, rtol=1e-3)
    direction = torch.linalg.solve(moment, k.mean(0))
    torch.testing.assert_close(u, direction / direction.norm())


def test_memit_is_its_dense_form_and_of_low_rank(state: State, moment: Tensor) -> None:
    k, r = random(D_IN, N), random(D_OUT, N)
    editor = MEMIT(covariance_weight=5.0)
    left, right = editor.solve(k, r, state, "w", Carried())
    dense = r @ k.T @ torch.linalg.inv(5.0 * moment + k @ k.T)
    torch.testing.assert_close(left @ right, dense)
    assert left.shape[1] == N


@pytest.mark.parametrize("later", [False, True], ids=["first batch", "later batch"])
def test_alphaedit_stays_in_the_null_space_and_is_its_published_form(state: State, later: bool) -> None:
    k, r, earlier = random(D_IN, N), random(D_OUT, N), random(D_IN, 2 * N)
    editor = AlphaEdit(ridge=3.0, kept=0.3)
    m = earlier @ earlier.T
    carried = Carried({"w": m}) if later else Carried()
    left, right = editor.solve(k, r, state, "w", carried)
    change, q = left @ right, editor.null_space(state, "w")
    p = q @ q.T
    assert 0 < q.shape[1] < D_IN
    torch.testing.assert_close(change @ p, change)
    whole = p @ (k @ k.T + (m if later else 0 * m)) + 3.0 * torch.eye(D_IN, dtype=torch.float64)
    torch.testing.assert_close(change, torch.linalg.solve(whole, p @ k @ r.T).T)


def test_the_null_space_is_chosen_by_its_share_of_the_trace(state: State) -> None:
    values = state["w/values"]
    chosen = AlphaEdit(kept=0.3).null_space(state, "w").shape[1]
    assert values[:chosen].sum() <= 0.3 * values.sum() < values[: chosen + 1].sum()
    threshold = float(values[5])
    assert AlphaEdit(threshold=threshold).null_space(state, "w").shape[1] == 5


def test_one_row_of_an_answer_has_no_variance_of_its_own() -> None:
    zeros = torch.zeros(4, dtype=torch.float64)
    one = Moments(0.0, zeros, zeros).with_rows(random(1, 4))
    assert torch.equal(one.std, torch.ones(4, dtype=torch.float64))
    more = one.with_rows(random(3, 4))
    assert torch.isfinite(more.std).all()


# In models -------------------------------------------------------------------------------------------


EDITORS = {
    "rome": ROME(layers=(1,), steps=4, contexts=2),
    "r_rome": ROME(layers=(1,), steps=4, contexts=2, variant="mean"),
    "memit": MEMIT(layers=(0, 1), steps=4, contexts=2),
    "alphaedit": AlphaEdit(layers=(0, 1), steps=4, contexts=2),
    "ultraedit": UltraEdit(scale=1e-3, parts=("mlp_in", "mlp_out")),
}


def prepared(editor: object, base: AbstractModel, kind: str, folder: Path) -> State:
    if not isinstance(editor, ROME | MEMIT):
        return {}
    workspace = Workspace(folder, lambda *_: None)
    return editor.prepared_by().prepare(base, tiny.training_set(base, kind), workspace)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rome_brings_the_models_own_value_to_where_it_was_learnt(kind: str, tmp_path: Path) -> None:
    """(W + Δ) k + b = m₀ + δ at the bare prompt, read from the model with the update in force."""
    base = tiny.fitted(kind)
    editor = ROME(layers=(1,), steps=6, contexts=2, variant="prompt")
    state = prepared(editor, base, kind, tmp_path)
    edits = tiny.edits(base, kind, 2)
    (weight,) = mlp_layer(base, 1).mlp_out
    module = weight.removesuffix(".weight")
    settings = ValueSettings(6, editor.learning_rate, editor.weight_decay, editor.kl_factor, editor.clamp)
    for edit in edits:
        facts = facts_of(base, [edit], context_texts(base, state))
        values = learn_values(base, facts, module, weight, settings)
        (made,) = editor.insert(state, base, facts)
        _, gave = read(in_force(base, made), [facts[0].contexts[0]], weight, module)
        torch.testing.assert_close(gave[0], (values.m0 + values.delta)[0], rtol=1e-3, atol=1e-3)
        assert values.delta.norm() > 0.01


@pytest.mark.parametrize("name", ["memit", "alphaedit", "ultraedit"])
def test_the_rank_is_at_most_that_of_the_batch(name: str, tmp_path: Path) -> None:
    base = tiny.fitted("llama")
    editor = EDITORS[name]
    edits = tiny.edits(base, "llama", 3)
    state = prepared(editor, base, "llama", tmp_path)
    (update,), (carried,) = editor.update(state, base, [edits], [Carried()])
    tokens = sum(len(base.rows([each.prompt], [each.target]).labels) for each in edits)
    for change in update.values():
        assert isinstance(change, LowRank)
        assert len(change.A) <= (tokens if name == "ultraedit" else len(edits))
    assert bool(carried.tensors) == (name != "memit")


def test_rome_makes_the_edits_of_a_batch_one_after_another(tmp_path: Path) -> None:
    base = tiny.fitted("gpt2")
    editor = ROME(layers=(1,), steps=4, contexts=0)
    state = prepared(editor, base, "gpt2", tmp_path)
    first, second = tiny.edits(base, "gpt2", 2)
    (both,), _ = editor.update(state, base, [[first, second]], [Carried()])
    (one,), _ = editor.update(state, base, [[first]], [Carried()])
    (two,), _ = editor.update(state, in_force(base, one), [[second]], [Carried()])
    (name,) = both
    left, right = both[name], one[name]
    assert isinstance(left, LowRank)
    assert isinstance(right, LowRank)
    later = two[name]
    assert isinstance(later, LowRank)
    torch.testing.assert_close(left.B @ left.A, right.B @ right.A + later.B @ later.A)


@pytest.mark.parametrize("name", ["rome", "memit", "alphaedit"])
def test_without_a_subject_an_edit_is_refused_in_words(name: str, tmp_path: Path) -> None:
    base = tiny.model("gpt2")
    editor = EDITORS[name]
    state = prepared(editor, base, "gpt2", tmp_path)
    edit = Edit("a", "In which city was Ada Bell born?", "Rome", "Oslo")
    with pytest.raises(BadSetting, match="found no subject with the prompt 'In which city"):
        updates_of(editor, state, base, [edit])
    with pytest.raises(BadSetting, match="subject"):
        updates_of(editor, state, base, [replace(edit, subject="Bea Ames")])


def test_a_layer_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    base = tiny.model("gpt2")
    with pytest.raises(BadSetting, match="layer: found 40, wanted 0 to 1"):
        prepared(ROME(layers=(40,)), base, "gpt2", tmp_path)


def test_editors_of_the_same_layers_share_one_state() -> None:
    rome, memit, alphaedit = ROME(layers=(2,)), MEMIT(layers=(2,)), AlphaEdit(layers=(2,))
    assert rome.prepared_by() == memit.prepared_by() == alphaedit.prepared_by() == Covariances((2,))
    assert replace(rome, steps=3, clamp=9.0).prepared_by() == rome.prepared_by()
