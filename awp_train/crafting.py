"""Crafting training images: projected gradient ascent on what an objective's attack maximises.

B images (B, C, H, W) in [0, 1], K classes. Every attack returns its last iterate, inside the ball and
the box, and leaves parameters without gradients. In train mode its passes move the BatchNorm
statistics and every image is seen among its batch, as in the released AT code; the released TRADES,
MART and RST craft in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.attacks.geometry import Ball
from bench.attacks.losses import cross_entropy
from bench.attacks.problem import frozen, logits_and_gradient
from bench.schema import ThreatModel
from bench.streams import Streams

NEARBY = 0.001  # standard deviation in pixel units of the start that TRADES and MART use


def from_uniform_on_cross_entropy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    streams: Streams,
    steps: int,
    relative_step: float,
) -> Tensor:
    """PGD from a uniform start, as in Madry et al. 2018, arXiv 1706.06083."""
    ball = Ball.around(x, threat)
    start = ball.random_start(streams.at("start", 0))
    return _ascend(model, ball, start, y, cross_entropy, steps, relative_step)


def from_nearby_on_cross_entropy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    streams: Streams,
    steps: int,
    relative_step: float,
) -> Tensor:
    """PGD from x + 0.001 * N(0, 1), as MART crafts (Wang et al. 2020)."""
    ball = Ball.around(x, threat)
    return _ascend(model, ball, _nearby(ball, streams), y, cross_entropy, steps, relative_step)


def from_nearby_on_divergence(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    streams: Streams,
    steps: int,
    relative_step: float,
) -> Tensor:
    """PGD from x + 0.001 * N(0, 1) on KL(p(x) || p(x')), as TRADES crafts (arXiv 1901.08573).

    The gradient at x itself is zero, hence the noise. The clean answer p(x) is computed once: the
    released code computes it again in every step, with the same outcome in eval mode; in train mode
    the outcome is the same but the clean batch moves the BatchNorm statistics once, not `steps`
    times. Under L2 the released code ascends with another optimiser; here it is the same PGD.
    """
    ball = Ball.around(x, threat)
    with torch.no_grad():
        clean = model(x).log_softmax(1)
    return _ascend(model, ball, _nearby(ball, streams), clean, _from_clean, steps, relative_step)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(B,) KL(p || q) in nats, of log-probabilities (B, K).

    As a sum of p * (log p - log q): the gradient of PyTorch's kl_div to p is NaN where p is 0, which
    float32 reaches with logits 104 apart.
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _from_clean(logits: Tensor, clean: Tensor) -> Tensor:
    return divergence(clean, logits.log_softmax(1))


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
