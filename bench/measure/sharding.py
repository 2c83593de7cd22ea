"""Dealing: which images form a shard, so that every shard has its share of those that stay robust.

An image that is broken early costs next to nothing, one that stays robust nearly everything. Images are
therefore ranked by how far they seem to lie from the decision boundary and dealt like cards: as many
hard ones in each shard. The answer does not depend on it, since random numbers belong to an image.
B images, N in all.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bench.attacks.losses import margin
from bench.attacks.problem import Model, frozen
from bench.judge import exact_float32

LARGEST = 256  # images of a shard, the unit of resuming
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}  # order of the norm that measures gradients


def shard_count(n: int) -> int:
    """Of at most 256 images each; at least two, so that two processes have work.

    A function of n alone. On few images more shards would cost more than they balance: on a ResNet-18
    an image alone takes 1.7 times the time of one in a batch of 32.
    """
    return max(math.ceil(n / LARGEST), 2 if n >= 16 else 1)


def deal(hardness: np.ndarray, count: int) -> list[np.ndarray]:
    """The images (N,) of each of `count` shards, ascending; sizes differ by at most one.

    The hardest go to shards 0, 1 … count - 1, the next ones back again, and so on.
    """
    rank = np.empty(len(hardness), dtype=np.int64)
    rank[np.argsort(-hardness, kind="stable")] = np.arange(len(hardness))
    turn, place = np.divmod(rank, count)
    shard = np.where(turn % 2 == 0, place, count - 1 - place)
    return [np.flatnonzero(shard == number) for number in range(count)]


def in_order(n: int, count: int) -> list[np.ndarray]:
    """n images cut into `count` equal runs of neighbours."""
    ends = [round(n * k / count) for k in range(count + 1)]
    return [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]


def boundary_distance(model: Model, x: Tensor, y: Tensor, norm: str) -> np.ndarray:
    """(B,) distance to the decision boundary to first order, |margin| / ||gradient||; 0 where wrong.

    x (B, C, H, W) in [0, 1]; norm is that of the distance. Where a model has no gradient the margin
    alone says what it can.
    """
    z = x.detach().requires_grad_(True)
    with frozen(model), torch.enable_grad(), exact_float32():
        gap = -margin(model(z).float(), y)
        grad = None
        if gap.requires_grad:
            grad = torch.autograd.grad(gap.sum(), z, allow_unused=True)[0]
    slope = torch.ones_like(gap) if grad is None else grad.flatten(1).norm(p=_DUAL[norm], dim=1)
    far = gap.detach().clamp_min(0) / slope.clamp_min(1e-30)
    return far.nan_to_num().double().cpu().numpy()
