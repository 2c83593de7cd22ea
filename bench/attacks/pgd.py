"""FGSM (arXiv 1412.6572) and projected gradient ascent (PGD, arXiv 1706.06083) on any loss.

B images, K classes. Models map (B, C, H, W) in [0, 1] to logits (B, K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.attacks.geometry import Ball
from bench.attacks.losses import LOSSES, Loss, cross_entropy, fooled
from bench.schema import ThreatModel
from bench.streams import Streams

Model = Callable[[Tensor], Tensor]


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """No gradient reaches the parameters inside; requires_grad is put back as it was."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, needed in zip(parameters, before, strict=True):
            p.requires_grad_(needed)


def logits_and_gradient(
    model: Model, z: Tensor, y: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), losses (B,) and the gradient of their sum with respect to z (B, C, H, W)."""
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(z)
        losses = loss(logits, y)
        (grad,) = torch.autograd.grad(losses.sum(), z)
    return logits.detach(), losses.detach(), grad.nan_to_num()


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    relative_step: float = 1.0,
) -> Tensor:
    """One step of relative_step * eps on cross-entropy, without a random start.

    Returns (B, C, H, W), detached. Goodfellow et al. 2015, arXiv 1412.6572, section 4.
    """
    ball = Ball.around(x.detach(), threat)
    with frozen(model):
        _, _, grad = logits_and_gradient(model, ball.x, y, cross_entropy)
    return ball.project(ball.x + relative_step * ball.eps * ball.ascent(grad))


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    steps: int = 20,
    relative_step: float = 0.25,
    restarts: int = 1,
    start: str = "uniform",
    iterate: str = "any",
    loss: str = "cross_entropy",
) -> Tensor:
    """Projected gradient ascent with steps of relative_step * eps.

    iterate "any" returns the first iterate 1..steps that fools the model and drops that image from
    then on (the last iterate where none does); "last" returns iterate `steps` of the restart with the
    highest loss. start is "uniform" (in the cube or the ball) or "none" (the image itself).
    Returns (B, C, H, W), detached, inside the ball and the box. Madry et al. 2018, arXiv 1706.06083.
    """
    search = {"any": _any_iterate, "last": _last_iterate}[iterate]
    with frozen(model):
        return search(
            model, Ball.around(x.detach(), threat), y, streams, steps, relative_step, restarts,
            start == "uniform", LOSSES[loss],
        )  # fmt: skip


def _any_iterate(
    model: Model,
    ball: Ball,
    y: Tensor,
    streams: Streams,
    steps: int,
    relative_step: float,
    restarts: int,
    random_start: bool,
    loss: Loss,
) -> Tensor:
    x_adv = ball.x.clone()
    standing = torch.arange(len(y), device=y.device)
    for restart in range(restarts):
        active = standing  # places in the batch; shrinks while this restart runs
        here, labels = ball[active], y[active]
        z = here.random_start(streams[active].at("start", restart)) if random_start else here.x
        for step in range(steps + 1):
            if step < steps:
                logits, _, grad = logits_and_gradient(model, z, labels, loss)
            else:
                with torch.no_grad():
                    logits = model(z)
            if step:  # the start itself does not count
                hit = fooled(logits, labels)
                if bool(hit.any()):
                    x_adv[active[hit]] = z[hit]
                    keep = ~hit
                    active, labels, z, here = active[keep], labels[keep], z[keep], here[keep]
                    if not len(active):
                        break
                    grad = grad[keep] if step < steps else grad
            if step < steps:
                z = here.project(z + relative_step * here.eps * here.ascent(grad))
        x_adv[active] = z
        standing = active
        if not len(standing):
            break
    return x_adv


def _last_iterate(
    model: Model,
    ball: Ball,
    y: Tensor,
    streams: Streams,
    steps: int,
    relative_step: float,
    restarts: int,
    random_start: bool,
    loss: Loss,
) -> Tensor:
    best, highest = ball.x, torch.full((len(y),), -torch.inf, device=y.device)
    for restart in range(restarts):
        z = ball.random_start(streams.at("start", restart)) if random_start else ball.x
        for _ in range(steps):
            _, _, grad = logits_and_gradient(model, z, y, loss)
            z = ball.project(z + relative_step * ball.eps * ball.ascent(grad))
        if restarts == 1:
            return z.detach()
        with torch.no_grad():
            reached = loss(model(z), y)
        better = reached > highest
        best = torch.where(better.view(-1, *[1] * (z.ndim - 1)), z, best)
        highest = torch.where(better, reached, highest)
    return best.detach()
