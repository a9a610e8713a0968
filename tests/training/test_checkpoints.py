"""A training run put down and taken up again, and the schedule of its rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from kebench.training.checkpoints import load_checkpoint, save_checkpoint
from kebench.training.schedule import warmup_then_decay

OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


def made(name: str) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return module, OPTIMIZERS[name](list(module.parameters()))


def go(module: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_run_taken_up_again_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, optimizer = made(name)
    go(whole, optimizer, range(6))

    first, optimizer = made(name)
    go(first, optimizer, range(3))
    save_checkpoint(
        tmp_path / "c.safetensors", first, optimizer, {"step": 3, "history": [[1, 0.1]]}, made_of="x"
    )

    second, optimizer = made(name)
    counters = load_checkpoint(tmp_path / "c.safetensors", second, optimizer, made_of="x")
    assert counters == {"step": 3, "history": [[1, 0.1]]}
    go(second, optimizer, range(3, 6))
    for key, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor), key


def test_no_checkpoint_is_none_and_changes_nothing(tmp_path: Path) -> None:
    module, optimizer = made("AdamW")
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    assert load_checkpoint(tmp_path / "c.safetensors", module, optimizer, made_of="x") is None
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("damage", ["cut", "scaled", "another's"])
def test_a_damaged_checkpoint_changes_nothing_and_is_one_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, (module, optimizer) = tmp_path / "c.safetensors", made("AdamW")
    go(module, optimizer, range(2))
    save_checkpoint(file, module, optimizer, {"step": 2}, made_of="other" if damage == "another's" else "x")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    if damage == "scaled":
        with safe_open(file, "pt") as opened:
            texts = opened.metadata()
        save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file, texts)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    assert load_checkpoint(file, module, optimizer, made_of="x") is None
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    (line,) = caplog.messages
    assert line.startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("step", "warmup", "decay", "share"),
    [
        (0, 4, 12, 0.25),
        (3, 4, 12, 1.0),
        (4, 4, 12, 1.0),
        (8, 4, 12, 0.5),
        (12, 4, 12, 0.0),
        (50, 4, 12, 0.0),
        (0, 0, 10, 1.0),
        (5, 0, 10, 0.5),
        (0, 5, 5, 0.2),
        (5, 5, 5, 0.0),
    ],
)
def test_the_schedule(step: int, warmup: int, decay: int, share: float) -> None:
    assert warmup_then_decay(step, warmup, decay) == pytest.approx(share)
