"""OBJECTIVES: what is minimised over the weights, with the attack that crafts its training images.

B images, K classes. The adversary of the weights (awp.py) ascends the same loss that is minimised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks import pgd
from bench.schema import ThreatModel
from bench.streams import Streams

Craft = Callable[[nn.Module, Tensor, Tensor, ThreatModel, Streams, int, float], Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingObjective:
    """How training images are crafted, and the loss of them."""

    # (model, x, y, threat, streams, steps, relative_step) -> x_adv; None: x_adv is x itself
    craft: Craft | None
    loss: Loss  # (model, x, x_adv, y) -> scalar, mean over the batch


def pgd_on_cross_entropy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    streams: Streams,
    steps: int,
    relative_step: float,
) -> Tensor:
    """The last iterate of PGD from a uniform start, as in Madry et al. 2018, arXiv 1706.06083."""
    return pgd(
        model, x, y, threat,
        streams=streams, steps=steps, relative_step=relative_step, start="uniform", iterate="last",
    )  # fmt: skip


def cross_entropy_of_adversarial(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of model(x_adv) in nats."""
    return F.cross_entropy(model(x_adv), y)


OBJECTIVES: dict[str, TrainingObjective] = {
    "natural": TrainingObjective(craft=None, loss=cross_entropy_of_adversarial),
    "at": TrainingObjective(craft=pgd_on_cross_entropy, loss=cross_entropy_of_adversarial),
}
