"""The types of two settings of a base model: the type that it computes in, and its batch size."""

from __future__ import annotations

from typing import Literal

DType = Literal["float32", "tf32", "bfloat16"]
BatchSize = int | Literal["auto"]
