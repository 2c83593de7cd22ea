"""OBJECTIVES: what is minimised over the weights, with the attack that crafts its training images.

B images, K classes. The adversary of the weights (awp.py) ascends the same loss that is minimised.
Where a loss looks at clean and adversarial images, each of the two passes through the network alone,
so that BatchNorm sees two batches, as in the released codes; both get gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from awp_train.crafting import (
    divergence,
    from_nearby_on_cross_entropy,
    from_nearby_on_divergence,
    from_uniform_on_cross_entropy,
)
from bench.schema import ThreatModel
from bench.streams import Streams

# (model, x, y, threat, streams, steps, relative_step) -> x_adv
Craft = Callable[[nn.Module, Tensor, Tensor, ThreatModel, Streams, int, float], Tensor]
# (model, x, x_adv, y, beta) -> scalar, mean over the batch; beta weighs the KL term where there is one
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class TrainingObjective:
    """How training images are crafted, and the loss of them."""

    craft: Craft | None  # None: x_adv is x itself
    loss: Loss
    passes: int = 1  # forward passes an image of one loss


def cross_entropy_of_adversarial(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float
) -> Tensor:
    """Mean cross-entropy of model(x_adv) in nats; y (B,) classes, or (B, K) shares of them."""
    return F.cross_entropy(model(x_adv), y)


def trades(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """CE(f(x), y) + beta * KL(p(x) || p(x')), means over the batch in nats (arXiv 1901.08573)."""
    logits = model(x)
    kl = divergence(logits.log_softmax(1), model(x_adv).log_softmax(1))
    return F.cross_entropy(logits, y) + beta * kl.mean()


def mart(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Boosted CE of f(x') + beta * mean of KL(p(x) || p(x')) * (1 - p(x)_y), in nats.

    Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples",
    eq. 11, with the constants of its code, which keep logarithms finite: 1.0001 and 1e-12 in
    -log(1 - p(x')_z) with z the likeliest wrong class, 1e-12 in log p(x'), 1.0000001 in the weight.
    """
    logits, logits_adv = model(x), model(x_adv)
    adversarial = logits_adv.softmax(1)
    likeliest_wrong = adversarial.scatter(1, y[:, None], -1.0).amax(1)
    boosted = F.cross_entropy(logits_adv, y) - (1.0001 - likeliest_wrong + 1e-12).log().mean()
    kl = divergence(logits.log_softmax(1), (adversarial + 1e-12).log())
    doubt = 1.0000001 - logits.softmax(1).gather(1, y[:, None])[:, 0]
    return boosted + beta * (kl * doubt).mean()


# RST is TRADES on labelled and pseudo-labelled images together (arXiv 1905.13736); pre-training is AT
# from a checkpoint (arXiv 1901.09960).
OBJECTIVES: dict[str, TrainingObjective] = {
    "natural": TrainingObjective(None, cross_entropy_of_adversarial),
    "at": TrainingObjective(from_uniform_on_cross_entropy, cross_entropy_of_adversarial),
    "trades": TrainingObjective(from_nearby_on_divergence, trades, passes=2),
    "mart": TrainingObjective(from_nearby_on_cross_entropy, mart, passes=2),
    "rst": TrainingObjective(from_nearby_on_divergence, trades, passes=2),
    "pretrain": TrainingObjective(from_uniform_on_cross_entropy, cross_entropy_of_adversarial),
}
