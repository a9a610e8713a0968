"""The settings of the benchmarks: the device, and the amounts of work."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

DTYPES = ("float32", "bfloat16", "float16")
LAYERS = 12
"""The number of layers of BERT-base, and of BART-base's encoder and decoder together."""


@dataclass(frozen=True)
class Settings:
    """The settings of one run of the benchmarks.

    Attributes:
        device: the device to compute on, `cpu` or `cuda`.
        type: the type of the weights, a name in `DTYPES`.
        runs: the number of timed rounds, after one warm-up.
        rows: the number of rows (a).
        fever_rows, zsre_rows: the number of test rows answered after each edit (b, g).
        edits: the number of edits (b).
        mini_edits: the number of edits on which variances are measured (c).
        tuning_steps: the number of gradient steps of each edit (e).
        layers: the number of layers of the models of base size; fewer only test that everything works.
        scored_edits: the largest number of edits whose rows are scored (j).
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
    scored_edits: int = 100_000

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
        """Returns the settings as JSON, for a subprocess."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Settings":
        """Reads settings written by `to_json`."""
        return Settings(**json.loads(text))

    @staticmethod
    def of(device: str, type: str, *, quick: bool, changes: Mapping[str, Any]) -> "Settings":
        """Returns the settings for a device. With `quick`, they only test that everything works."""
        if quick:
            sizes = Settings(device, type, 2, 64, 32, 16, 2, 16, 1, 2, 1000)
        elif device == "cpu":
            sizes = Settings(device, type)
        else:
            sizes = Settings(
                device, type, rows=4096, fever_rows=4096, zsre_rows=1024, edits=8, tuning_steps=20
            )
        return replace(sizes, **changes)
