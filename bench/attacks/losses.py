"""What attacks ascend: losses of logits (B, K) and labels (B,), one value an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) cross-entropy in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) max_{j != y} z_j - z_y, unclamped (Carlini & Wagner 2017, arXiv 1608.04644).

    At least 0 exactly where the image is misclassified or tied.
    """
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - logits.gather(1, y[:, None])[:, 0]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) bool: the true class does not win alone; ties and non-finite logits count as fooled."""
    finite = torch.isfinite(logits).all(1)
    return ~((margin(logits.detach(), y) < 0) & finite)
