"""Input normalisation as part of the model, so that every attack works on pixels in [0, 1].

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """`net((x - mean) / std)` with one mean and one std a channel; None leaves that step out.

    (B, C, H, W) in [0, 1] -> (B, K). mean and std belong to the model card, not to the weights: the
    buffers are not in the state dict. They are rounded to float32, and `.double()` keeps that
    rounding, so that a verdict taken in float64 is about the same network. Raises ValueError for
    values that are not finite, and a std that is not positive.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__()
        for kind, values in (("mean", mean), ("std", std)):
            if values is not None and not all(map(math.isfinite, values)):
                raise ValueError(f"{kind} must be finite, got {tuple(values)}")
        if std is not None and min(std, default=0.0) <= 0:
            raise ValueError(f"std must be positive in every channel, got {tuple(std)}")
        self.net = net
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        return self.net(x)


def _per_channel(values: Sequence[float] | None) -> Tensor | None:
    """(C, 1, 1), or None."""
    if values is None:
        return None
    # On the CPU even under `torch.device("meta")`: loading weights into a model that was built on
    # meta fills its parameters, and nothing would ever fill these.
    return torch.tensor(tuple(values), dtype=torch.float32, device="cpu").view(-1, 1, 1)
