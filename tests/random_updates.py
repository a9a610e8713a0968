"""Random updates of a model's matrices."""

from __future__ import annotations

import random

import torch

from kebench.models.changes import LowRank, LowRankBatch
from kebench.models.layers import editable, linear_maps, map_shape
from kebench.models.model import AbstractModel


def random_low_rank(base: AbstractModel, seed: int, *, size: float = 0.3) -> dict[str, LowRank]:
    """Factors of random ranks, for a random choice of matrices."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    maps = linear_maps(base.network)
    names = editable(base.network)
    update = {}
    for name in chance.sample(names, chance.randint(1, len(names))):
        d_out, d_in = map_shape(maps[name])
        rank = chance.randint(0, 4)
        like = base.network.get_parameter(name)
        b = torch.randn(d_out, rank, generator=generator).to(like) * size
        update[name] = LowRank(b, torch.randn(rank, d_in, generator=generator).to(like) * size)
    return update


def stacked(base: AbstractModel, updates: list[dict[str, LowRank]]) -> dict[str, LowRankBatch]:
    """The updates as one batch: rank 0 where one leaves a matrix alone."""
    found = {}
    maps = linear_maps(base.network)
    for name in editable(base.network):
        d_out, d_in = map_shape(maps[name])
        like = base.network.get_parameter(name)
        nothing = LowRank(like.new_zeros(d_out, 0), like.new_zeros(0, d_in))
        found[name] = LowRankBatch.stack([update.get(name, nothing) for update in updates])
    return found
