"""The settings of a base model: what it computes in, and how many rows it is asked at once."""

from __future__ import annotations

from typing import Literal

DType = Literal["float32", "tf32", "bfloat16"]
BatchSize = int | Literal["auto"]
