"""FGSM (arXiv 1412.6572) and projected gradient ascent (PGD, arXiv 1706.06083) on any loss.

B images, K classes. Models map (B, C, H, W) in [0, 1] to logits (B, K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks.geometry import Ball, per_image
from bench.attacks.losses import LOSSES, Loss, cross_entropy
from bench.attacks.rows import DEFAULT, Rows, Search, run
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
    if not bool(torch.isfinite(grad.sum())):  # a sum of finite numbers may overflow: no harm
        grad = grad.nan_to_num()
    return logits.detach(), losses.detach(), grad


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    relative_step: float = 1.0,
    search: Search = DEFAULT,
) -> Tensor:
    """One step of relative_step * eps on cross-entropy, without a random start.

    Returns (B, C, H, W), detached. Goodfellow et al. 2015, arXiv 1412.6572, section 4.
    """
    ball = Ball.around(x.detach(), threat)
    with frozen(model):
        parts = [
            logits_and_gradient(model, z, labels, cross_entropy)[2]
            for z, labels in zip(ball.x.split(search.rows), y.split(search.rows), strict=True)
        ]
    grad = torch.cat(parts) if parts else ball.x
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
    search: Search = DEFAULT,
) -> Tensor:
    """Projected gradient ascent with steps of relative_step * eps.

    iterate "any" returns the first iterate 1..steps that fools the model and drops that image from
    then on (the last iterate where none does); "last" returns iterate `steps` of the restart with the
    highest loss. start is "uniform" (in the cube or the ball) or "none" (the image itself).
    Returns (B, C, H, W), detached, inside the ball and the box. Madry et al. 2018, arXiv 1706.06083.
    """
    walk = {"any": _any_iterate, "last": _last_iterate}[iterate]
    with frozen(model):
        return walk(
            model, Ball.around(x.detach(), threat), y, streams, steps, relative_step, restarts,
            start == "uniform", LOSSES[loss], search,
        )  # fmt: skip


@dataclass
class _Walkers(Rows):
    """State of PGD rows; every field has R entries."""

    owner: Tensor
    y: Tensor
    x: Tensor  # with low and high, the ball
    low: Tensor
    high: Tensor
    z: Tensor
    grad: Tensor  # at z
    looks: Tensor  # how many points were looked at, the start included


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
    search: Search,
) -> Tensor:
    x_adv = ball.x.clone()
    standing = torch.arange(len(y), device=y.device)
    for restart in range(restarts):
        here, drawn = ball[standing], streams[standing].at("start", restart)
        first = here.random_start(drawn) if random_start else here.x
        ends, broken = _walk(
            model, standing, here, y[standing], first, steps, relative_step * ball.eps, loss, search
        )
        x_adv[standing] = ends
        standing = standing[~broken]
        if not len(standing):
            break
    return x_adv


def _walk(
    model: Model,
    images: Tensor,
    ball: Ball,
    y: Tensor,
    first: Tensor,
    steps: int,
    step: float,
    loss: Loss,
    search: Search,
) -> tuple[Tensor, Tensor]:
    """One restart: (B, C, H, W) first fooling iterates, else the last ones; and (B,) which fooled."""
    ends = ball.x.clone()

    def begin(places: Tensor) -> _Walkers:
        z, here = first[places], ball[places]
        return _Walkers(
            places, y[places], here.x, here.low, here.high, z, z, torch.zeros_like(places)
        )

    def advance(rows: _Walkers) -> tuple[Tensor, Tensor]:
        here = Ball(rows.x, ball.norm, ball.eps, rows.low, rows.high)
        started, last = rows.looks > 0, rows.looks == steps
        if bool(started.any()):
            moved = here.project(rows.z + step * here.ascent(rows.grad))
            rows.z = torch.lerp(rows.z, moved, per_image(started.to(moved), moved))
        if bool(last.all()):
            with torch.no_grad():
                logits = model(rows.z)
        else:
            logits, _, rows.grad = logits_and_gradient(model, rows.z, rows.y, loss)
        rows.looks = rows.looks + 1
        ends[rows.owner[last]] = rows.z[last]
        # The start itself does not count.
        hit = search.verdict(rows.z, rows.y, logits, images[rows.owner])
        return hit & started, last

    found, broken = run(begin, advance, ball.x, per_image=1, search=search)
    return torch.where(per_image(broken, ends), found, ends), broken


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
    search: Search,
) -> Tensor:
    best, highest = (
        ball.x.clone(),
        torch.full((len(y),), -torch.inf, dtype=torch.float64, device=y.device),
    )
    for places in torch.arange(len(y), device=y.device).split(search.rows):
        here, labels = ball[places], y[places]
        for restart in range(restarts):
            z = here.x
            if random_start:
                z = here.random_start(streams[places].at("start", restart))
            for _ in range(steps):
                search.tick()
                _, _, grad = logits_and_gradient(model, z, labels, loss)
                z = here.project(z + relative_step * ball.eps * here.ascent(grad))
            reached = torch.zeros(len(places), dtype=torch.float64, device=y.device)
            if restarts > 1:
                with torch.no_grad():
                    reached = loss(model(z), labels).double()
            better = reached > highest[places]
            best[places] = torch.where(per_image(better, z), z, best[places])
            highest[places] = torch.where(better, reached, highest[places])
    return best.detach()
