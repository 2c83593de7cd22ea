"""What attacks ascend: losses of logits (B, K) and labels (B,), one value an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) cross-entropy in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) max_{j != y} z_j - z_y, unclamped (Carlini & Wagner 2017, arXiv 1608.04644).

    At least 0 exactly where the image is misclassified or tied.
    """
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - logits.gather(1, y[:, None])[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) difference of logits ratio, untargeted; needs 3 classes (arXiv 2003.01690, eq. 6)."""
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def normalised(logits: Tensor) -> Tensor:
    """(B, K) logits divided by their own standard deviation over classes (arXiv 2302.07011, eq. 8).

    A factor on all logits changes nothing. Equal logits stay as they are.
    """
    spread = logits.std(dim=1, correction=0, keepdim=True)
    return logits / torch.where(spread > 0, spread, 1.0)


def normalised_margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) margin of normalised logits."""
    return margin(normalised(logits), y)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy, "margin": margin, "dlr": dlr,
    "normalised_margin": normalised_margin,
}  # fmt: skip


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(B,) z_target - z_y: positive where the target wins against the true class."""
    return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(B,) difference of logits ratio towards a class; needs 4 (arXiv 2003.01690, eq. 7)."""
    top = logits.topk(4, dim=1).values
    spread = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12
    return targeted_margin(logits, y, target) / spread


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) bool: the true class does not win alone; ties and non-finite logits count as fooled."""
    finite = torch.isfinite(logits).all(1)
    return ~((margin(logits.detach(), y) < 0) & finite)
