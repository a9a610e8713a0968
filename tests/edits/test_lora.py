"""An update as a LoRA adapter: peft reads it and answers as the edited model; the rest is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import tiny
import torch
from dense_reference import really_edited
from safetensors.torch import load_file
from test_updates import scored
from tolerance import assert_same, through
from torch import Tensor, nn

from kebench.edits import lora
from kebench.edits.updates import Update
from kebench.errors import BadSetting, NotFound
from kebench.models.changes import Dense, LowRank
from kebench.models.layers import as_stored, editable, linear_maps, map_shape
from kebench.models.model import AbstractModel

# transformers warns of a name that peft asks it by.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
KINDS = pytest.mark.parametrize("kind", tiny.KINDS)


def edit_of(base: AbstractModel, names: tuple[str, ...], *, most: int = 3, seed: int = 0) -> Update:
    """Factors such as KnowledgeEditor gives: of different ranks, one column of zeros for padding."""
    generator, maps = torch.Generator().manual_seed(seed), linear_maps(base.network)
    changes = {}
    for index, name in enumerate(names):
        (d_out, d_in), rank = map_shape(maps[name]), 1 + index % most
        like = base.network.get_parameter(name)
        b = 0.1 * torch.randn(d_out, rank + 1, generator=generator).to(like)
        b[:, rank] = 0.0
        changes[name] = LowRank(b, torch.randn(rank + 1, d_in, generator=generator).to(like))
    return Update(changes)


def adapted(base: AbstractModel, folder: Path) -> AbstractModel:
    """A copy of a model, with the adapter that peft reads from a folder."""
    peft = pytest.importorskip("peft", reason="peft, of the extra 'test', is not installed")
    copied = copy.deepcopy(base)
    peft.PeftModel.from_pretrained(copied.network, folder).eval()  # puts its layers into the network
    return copied


def check_same_logits(base: AbstractModel, edited: AbstractModel, folder: Path, kind: str) -> None:
    with torch.no_grad():
        found, expected, plain = (
            scored(each, tiny.prompts(kind, 6)) for each in (adapted(base, folder), edited, base)
        )
    assert_same(found, expected, **through(base))
    assert not torch.allclose(plain, expected, atol=1e-2), "the update must matter"


@KINDS
@pytest.mark.parametrize("layers", ["first", "all"])
def test_peft_answers_as_the_edited_model(kind: str, layers: str, tmp_path: Path) -> None:
    base = tiny.model(kind, dtype=torch.float64)
    update = edit_of(base, editable(base.network, layers))
    residuals = update.to_lora(tmp_path, base.network, "tiny")
    assert residuals == dict.fromkeys(update, 0.0)
    check_same_logits(base, really_edited(base, update), tmp_path, kind)


def test_an_adapters_files(tmp_path: Path) -> None:
    base = tiny.model("gpt2")
    names = ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_fc.weight")
    update = edit_of(base, names) + {
        "transformer.h.1.attn.c_proj.weight": LowRank(torch.zeros(16, 0), torch.ones(0, 16))
    }
    update.to_lora(tmp_path, base.network, "some/model")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some/model"
    assert config["target_modules"] == ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"]
    assert config["r"] == config["lora_alpha"] == 2
    assert config["rank_pattern"] == config["alpha_pattern"] == {r"^transformer\.h\.0\.attn\.c_attn": 1}
    assert config["fan_in_fan_out"] is True
    shapes = {key: tuple(t.shape) for key, t in load_file(tmp_path / "adapter_model.safetensors").items()}
    assert shapes == {  # as of a linear layer (d_out, d_in), though the weights are stored as (d_in, d_out)
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": (1, 16),
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight": (48, 1),
        "base_model.model.transformer.h.1.mlp.c_fc.lora_A.weight": (2, 16),
        "base_model.model.transformer.h.1.mlp.c_fc.lora_B.weight": (64, 2),
    }


def test_linear_layers_of_both_layouts_in_one_adapter(tmp_path: Path) -> None:
    base = tiny.model("gpt2", dtype=torch.float64)
    head = base.network.get_submodule("lm_head")
    assert isinstance(head.weight, Tensor)
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)  # untied
    base.network.config.tie_word_embeddings = False
    update = edit_of(base, ("transformer.h.0.attn.c_proj.weight", "lm_head.weight"))
    update.to_lora(tmp_path, base.network, "tiny")
    with pytest.warns(UserWarning, match="fan_in_fan_out is set to"):  # peft finds out by itself
        check_same_logits(base, really_edited(base, update), tmp_path, "gpt2")


def test_peft_finds_the_base_model_by_the_name_in_the_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft, of the extra 'test', is not installed")
    base = tiny.model("gpt2")
    update = edit_of(base, editable(base.network, "last"))
    update.to_lora(tmp_path / "adapter", base.network, str(tiny.save("gpt2", tmp_path / "base")))
    loaded = peft.AutoPeftModel.from_pretrained(tmp_path / "adapter").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = really_edited(base, update).network(ids).logits
        assert_same(loaded(ids).logits, expected, **through(base))


class TwoOfAName(nn.Module):
    """A layer `out`, and another whose name ends with `.out`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"out": nn.Linear(4, 4)})
        self.out = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.inner["out"](x))
        return found


def test_a_layer_whose_name_only_ends_alike_is_left_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft, of the extra 'test', is not installed")
    network, x = TwoOfAName().requires_grad_(False), torch.randn(3, 4)
    update = Update({"out.weight": LowRank(torch.ones(4, 1), torch.ones(1, 4))})
    update.to_lora(tmp_path, network, "none")
    edited = copy.deepcopy(network)
    update.apply_to(edited)
    loaded = peft.PeftModel.from_pretrained(network, tmp_path).eval()
    assert_same(loaded(x), edited(x), layers=2, terms=5)
    assert type(network.out) is not nn.Linear
    assert type(network.inner["out"]) is nn.Linear


# Approximations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_dense_change_by_the_given_rank(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kebench.edits.lora")
    base = tiny.model(kind, dtype=torch.float64)
    name = editable(base.network, "first")[0]
    module = linear_maps(base.network)[name]
    generator = torch.Generator().manual_seed(0)
    delta = 0.1 * torch.randn(map_shape(module), generator=generator).double()
    update = Update({name: Dense(as_stored(module, delta))})
    u, values, v = torch.linalg.svd(delta, full_matrices=False)
    for rank in (2, 16):
        residual = update.to_lora(tmp_path, base.network, "tiny", rank)[name]
        assert residual == pytest.approx(float(values[rank:].norm() / values.norm()), rel=1e-9, abs=1e-12)
        written = u[:, :rank] * values[:rank] @ v[:rank]
        really = really_edited(base, {name: Dense(as_stored(module, written))})
        check_same_logits(base, really, tmp_path, kind)
        assert (
            caplog.messages.pop() == f"{name}: approximated by rank {rank}, relative residual {residual:.1e}"
        )


def test_a_rank_that_is_too_high_is_cut_and_a_lower_one_kept(tmp_path: Path) -> None:
    base = tiny.model("bart")
    update = edit_of(base, editable(base.network, "first"))  # ranks 1, 2 and 3 by turns
    residuals = list(update.to_lora(tmp_path, base.network, "tiny", 2).values())
    assert residuals[0::3] == [0.0] * len(residuals[0::3])
    assert residuals[1::3] == [0.0] * len(residuals[1::3])
    assert all(0.01 < residual < 1 for residual in residuals[2::3])
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == 2


# Refusals --------------------------------------------------------------------------------------------

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changes", "rank", "text"),
    [
        (
            {"lm_head.weight": Dense(torch.ones(90, 16))},
            4,
            "lm_head.weight: found a weight that is tied to model.embed_tokens.weight, which an adapter",
        ),
        (
            {QUERY: Dense(torch.ones(16, 16))},
            None,
            f"{QUERY}: found a dense change, .* give the rank of the app",
        ),
        (
            {"model.norm.weight": Dense(torch.ones(16))},
            4,
            "model.norm.weight: found a parameter that is not the matrix of a linear layer, .* Update.save",
        ),
        ({}, None, "the update changes no weight"),
        ({QUERY: LowRank(torch.zeros(16, 2), torch.ones(2, 16))}, None, "the update changes no weight"),
        ({QUERY: Dense(torch.zeros(16, 16))}, 3, "the update changes no weight"),
        ({QUERY: Dense(torch.full((16, 16), float("nan")))}, 3, "a number that is not finite"),
        ({QUERY: Dense(torch.ones(16, 16))}, 0, "rank: found 0, wanted 1 or more"),
        ({QUERY: Dense(torch.ones(16, 8))}, 2, r"found a change of shape \(16, 8\), wanted \(16, 16\)"),
    ],
)
def test_what_an_adapter_cannot_hold_is_refused(
    changes: dict[str, Dense | LowRank], rank: int | None, text: str, tmp_path: Path
) -> None:
    network = tiny.model("llama").network
    if "lm_head.weight" in changes:
        changes = {"lm_head.weight": Dense(torch.ones(network.get_parameter("lm_head.weight").shape))}
    with pytest.raises(BadSetting, match=text):
        Update(changes).to_lora(tmp_path / "adapter", network, "tiny", rank)
    assert not (tmp_path / "adapter").exists()


def test_a_parameter_that_the_network_lacks_is_named(tmp_path: Path) -> None:
    update = Update({"model.layers.0.self_attn.p_proj.weight": LowRank(torch.ones(16, 1), torch.ones(1, 16))})
    with pytest.raises(NotFound, match=r"no parameter named .*p_proj.weight'; did you mean 'model.layers.0"):
        update.to_lora(tmp_path, tiny.model("llama").network, "tiny")


def test_an_adapter_cut_off_half_way_is_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.model("bert")
    update = edit_of(base, editable(base.network, "first"))
    update.to_lora(tmp_path, base.network, "tiny")

    def cut_off(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(lora, "save_tensors", cut_off)
    with pytest.raises(OSError, match="disk full"):
        update.to_lora(tmp_path, base.network, "tiny")
    assert not (tmp_path / "adapter_config.json").exists()
