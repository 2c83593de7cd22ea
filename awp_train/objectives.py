"""What is minimised over the weights, and what crafts training images; bench.catalogue names both.

B images (B, C, H, W) in [0, 1], K classes. The adversary of the weights (awp.py) ascends the same loss
that is minimised. Where a loss looks at clean and adversarial images, each of the two passes through
the network alone, so that BatchNorm sees two batches, as in the released codes; both get gradients.

Images are crafted by projected gradient ascent. The last iterate is returned, inside the ball and the
box, and parameters are left without gradients. In train mode the passes move the BatchNorm statistics
and every image is seen among its batch, as in the released AT code; the released TRADES, MART and RST
craft in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import catalogue
from bench.attacks.geometry import Ball
from bench.attacks.losses import cross_entropy
from bench.attacks.problem import frozen, logits_and_gradient
from bench.schema import ThreatModel
from bench.streams import Streams

# (model, x, y, threat, streams, steps, relative_step) -> x_adv
Craft = Callable[[nn.Module, Tensor, Tensor, ThreatModel, Streams, int, float], Tensor]
Network = Callable[[Tensor], Tensor]  # images -> logits (B, K)
# (model, x, x_adv, y, beta) -> scalar, mean over the batch; beta weighs the KL term where there is one
Loss = Callable[[Network, Tensor, Tensor, Tensor, float], Tensor]

NEARBY = 0.001  # standard deviation in pixel units of the start that TRADES and MART use


@dataclass(frozen=True)
class TrainingObjective:
    """How training images are crafted, and the loss of them."""

    craft: Craft | None  # None: x_adv is x itself
    loss: Loss


# ---------------------------------------------------------------- losses


def cross_entropy_of_adversarial(
    model: Network, x: Tensor, x_adv: Tensor, y: Tensor, beta: float
) -> Tensor:
    """Mean cross-entropy of model(x_adv) in nats; y (B,) classes, or (B, K) shares of them."""
    return F.cross_entropy(model(x_adv), y)


def trades(model: Network, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """CE(f(x), y) + beta * KL(p(x) || p(x')), means over the batch in nats (arXiv 1901.08573)."""
    logits = model(x)
    kl = divergence(logits.log_softmax(1), model(x_adv).log_softmax(1))
    return F.cross_entropy(logits, y) + beta * kl.mean()


def mart(model: Network, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
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


def of_easy_examples(
    loss: Loss, model: Network, x: Tensor, x_adv: Tensor, y: Tensor, beta: float, threshold: float
) -> Tensor:
    """The sum of a loss over examples of adversarial cross-entropy below a threshold, over B.

    y (B,). What robust weight perturbation climbs (arXiv 2205.14826): examples that are hard already
    do not lead the weights astray. All pass through the network, so BatchNorm sees the whole batch;
    where none is easy the sum is 0, and so is its gradient. The released code adds up the gradients of
    its steps and brings the sum to the radius; here each step is as long as the radius (awp.py).
    """
    adversarial = model(x_adv)
    easy = F.cross_entropy(adversarial.detach(), y, reduction="none") < threshold
    if not easy.any():  # a mean over none is NaN
        return adversarial[easy].sum()

    def of_them(images: Tensor) -> Tensor:
        return (adversarial if images is x_adv else model(images))[easy]

    return easy.float().mean() * loss(of_them, x, x_adv, y[easy], beta)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(B,) KL(p || q) in nats, of log-probabilities (B, K).

    As a sum of p * (log p - log q): the gradient of PyTorch's kl_div to p is NaN where p is 0, which
    float32 reaches with logits 104 apart.
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


# ---------------------------------------------------------------- crafting


def from_uniform_on_cross_entropy(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams,
    steps: int, relative_step: float,
) -> Tensor:  # fmt: skip
    """PGD from a uniform start, as in Madry et al. 2018, arXiv 1706.06083."""
    ball = Ball.around(x, threat)
    start = ball.random_start(streams.at("start", 0))
    return _ascend(model, ball, start, y, cross_entropy, steps, relative_step)


def from_nearby_on_cross_entropy(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams,
    steps: int, relative_step: float,
) -> Tensor:  # fmt: skip
    """PGD from x + 0.001 * N(0, 1), as MART crafts (Wang et al. 2020)."""
    ball = Ball.around(x, threat)
    return _ascend(model, ball, _nearby(ball, streams), y, cross_entropy, steps, relative_step)


def from_nearby_on_divergence(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams,
    steps: int, relative_step: float,
) -> Tensor:  # fmt: skip
    """PGD from x + 0.001 * N(0, 1) on KL(p(x) || p(x')), as TRADES crafts (arXiv 1901.08573).

    The gradient at x itself is zero, hence the noise. The clean answer p(x) is computed once: the
    released code computes it again in every step, with the same outcome in eval mode; in train mode
    the outcome is the same but the clean batch moves the BatchNorm statistics once, not `steps`
    times. Under L2 the released code ascends with another optimiser; here it is the same PGD.
    """
    ball = Ball.around(x, threat)
    with torch.no_grad():
        clean = model(x).log_softmax(1)

    def from_clean(logits: Tensor, clean: Tensor) -> Tensor:
        return divergence(clean, logits.log_softmax(1))

    return _ascend(model, ball, _nearby(ball, streams), clean, from_clean, steps, relative_step)


def _nearby(ball: Ball, streams: Streams) -> Tensor:
    noise = streams.at("start", 0).normal(tuple(ball.x.shape[1:]))
    return ball.project(ball.x + NEARBY * noise.to(ball.x))


def _ascend(
    model: nn.Module,
    ball: Ball,
    z: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    relative_step: float,
) -> Tensor:
    with frozen(model):
        for _ in range(steps):
            _, _, grad = logits_and_gradient(model, z, target, loss)
            z = ball.project(z + relative_step * ball.eps * ball.ascent(grad))
    return z.detach()


OBJECTIVES: dict[str, TrainingObjective] = {
    name: TrainingObjective(globals()[info.craft] if info.craft else None, globals()[info.loss])
    for name, info in catalogue.OBJECTIVES.items()
}
