"""How much is measured, on what."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

DTYPES = ("float32", "bfloat16", "float16")
LAYERS = 12
"""Of BERT-base, and of BART-base's encoder and decoder together."""


@dataclass(frozen=True)
class Settings:
    """What a benchmark run is asked to do.

    Attributes:
        device: where to compute, `cpu` or `cuda`.
        type: of the weights, a name in `DTYPES`.
        runs: how often each way is timed, after one run that is not.
        rows: rows asked under many edits and of the base model (a).
        fever_rows, zsre_rows: test rows asked after each edit (b, g).
        edits: edits made and asked (b).
        mini_edits: edits from which the variances are measured (c).
        tuning_steps: gradient steps of each edit (e).
        layers: of the base-size models; fewer only to see that everything works.
    """

    device: str = "cpu"
    type: str = "float32"
    runs: int = 5
    rows: int = 512
    fever_rows: int = 256
    zsre_rows: int = 96
    edits: int = 8
    mini_edits: int = 200
    tuning_steps: int = 4
    layers: int = LAYERS

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        found = getattr(torch, self.type)
        assert isinstance(found, torch.dtype)
        return found

    def to_json(self) -> str:
        """For a subprocess."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Settings":
        """Reads what `to_json` wrote."""
        return Settings(**json.loads(text))

    @staticmethod
    def of(device: str, type: str, *, quick: bool, changes: Mapping[str, Any]) -> "Settings":
        """The sizes that suit a device; `quick` ones only show that everything works."""
        if quick:
            sizes = Settings(device, type, 2, 64, 32, 16, 2, 16, 1, 2)
        elif device == "cpu":
            sizes = Settings(device, type)
        else:
            sizes = Settings(
                device, type, rows=4096, fever_rows=4096, zsre_rows=1024, edits=8, tuning_steps=20
            )
        return replace(sizes, **changes)
