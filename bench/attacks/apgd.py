"""APGD, the step-size-free PGD of AutoAttack (Croce & Hein 2020, arXiv 2003.01690, algorithm 1).

All targets of an image climb at the same time, and the image leaves with the first that succeeds: on
small networks that is the difference between a hundred and a thousand passes. The outcome for an image
depends on nothing but the image. B images, R rows (image x target), K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, per_image
from bench.attacks.losses import LOSSES, TargetedLoss, dlr_targeted, fooled, likeliest_wrong
from bench.attacks.pgd import Model, frozen, logits_and_gradient
from bench.schema import ThreatModel
from bench.streams import Streams

ROWS = 512  # rows that climb at once; a tuning constant of speed, not of the outcome


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    steps: int = 100,
    restarts: int = 1,
    loss: str = "cross_entropy",
) -> Tensor:
    """Untargeted APGD on a loss; images that are broken leave. Returns (B, C, H, W), detached."""
    objective = LOSSES[loss]
    none = torch.zeros((len(y), 1), dtype=torch.int64, device=y.device)
    return _search(
        model, x, y, threat, none, lambda z, y, _: objective(z, y), streams, steps, restarts
    )


def apgd_t(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
) -> Tensor:
    """APGD on the targeted DLR loss, towards each of the likeliest wrong classes.

    Needs at least 4 classes. Returns (B, C, H, W), detached.
    """
    with torch.no_grad():
        wrong = likeliest_wrong(model(x), y, targets)
    return _search(model, x, y, threat, wrong, dlr_targeted, streams, steps, restarts)


def _search(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    targets: Tensor,  # (B, T)
    loss: TargetedLoss,
    streams: Streams,
    steps: int,
    restarts: int,
) -> Tensor:
    ball, x_adv = Ball.around(x.detach(), threat), x.detach().clone()
    standing = torch.arange(len(y), device=y.device)
    per_chunk = max(1, ROWS // targets.shape[1])
    with frozen(model):
        for restart in range(restarts):
            left = []
            for chunk in standing.split(per_chunk):
                broken, found = _climb(
                    model, ball[chunk], y[chunk], targets[chunk], loss,
                    streams[chunk].at("restart", restart), steps,
                )  # fmt: skip
                x_adv[chunk[broken]] = found[broken]
                left.append(chunk[~broken])
            standing = torch.cat(left) if left else standing
            if not len(standing):
                break
    return x_adv


@dataclass
class _Rows:
    """What each climbing row remembers; every field has R entries."""

    owner: Tensor  # place of the row's image in the batch
    y: Tensor
    target: Tensor
    z: Tensor  # the current iterate
    z_old: Tensor
    grad: Tensor  # at z
    best: Tensor  # the iterate of highest loss, with its gradient and loss
    best_grad: Tensor
    best_loss: Tensor
    step: Tensor
    last_loss: Tensor
    rises: Tensor  # how often the loss rose since the last checkpoint
    checked_loss: Tensor  # best_loss at the last checkpoint
    halved: Tensor  # whether the step was halved there

    def keep(self, mask: Tensor) -> _Rows:
        return _Rows(*(getattr(self, f.name)[mask] for f in fields(self)))


def _climb(
    model: Model,
    images: Ball,
    y: Tensor,
    targets: Tensor,
    loss: TargetedLoss,
    streams: Streams,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """One restart: (B,) broken, and (B, C, H, W) with the images that break them."""
    count = targets.shape[1]
    owner = torch.arange(len(y), device=y.device).repeat_interleave(count)
    ball, labels, target = images[owner], y[owner], targets.flatten()
    z = torch.stack([_start(images, streams.at("target", t)) for t in range(count)], 1).flatten(
        0, 1
    )
    broken = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    found = images.x.clone()
    logits, value, grad = _evaluate(model, z, labels, target, loss)
    rows = _Rows(
        owner, labels, target, z, z, grad, z, grad, value,
        torch.full_like(value, 2 * ball.eps), torch.zeros_like(value), torch.zeros_like(value),
        value, torch.ones_like(value, dtype=torch.bool),
    )  # fmt: skip
    rows, ball = _leave(rows, ball, fooled(logits, labels), broken, found)
    window, smallest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    since = 0
    for step in range(steps):
        if not len(rows.owner):
            break
        _move(rows, ball, momentum=0.25 if step else 0.0)
        logits, value, rows.grad = _evaluate(model, rows.z, rows.y, rows.target, loss)
        _remember(rows, value)
        rows, ball = _leave(rows, ball, fooled(logits, rows.y), broken, found)
        since += 1
        if since == window:
            _check(rows, window)
            since, window = 0, max(window - shrink, smallest)
    return broken, found


def _start(ball: Ball, streams: Streams) -> Tensor:
    """A random point at distance eps: noise scaled to the ball's surface, then clipped."""
    shape = tuple(ball.x.shape[1:])
    if ball.norm == "linf":
        noise = (2 * streams.uniform(shape) - 1).to(ball.x)
        size = noise.flatten(1).abs().amax(1)
    else:
        noise = streams.normal(shape).to(ball.x)
        size = noise.flatten(1).norm(dim=1)
    return ball.project(ball.x + noise * per_image(ball.eps / size.clamp_min(1e-12), noise))


def _evaluate(
    model: Model, z: Tensor, y: Tensor, target: Tensor, loss: TargetedLoss
) -> tuple[Tensor, Tensor, Tensor]:
    closure: Callable[[Tensor, Tensor], Tensor] = lambda logits, y: loss(logits, y, target)  # noqa: E731
    return logits_and_gradient(model, z, y, closure)


def _move(rows: _Rows, ball: Ball, *, momentum: float) -> None:
    """A projected ascent step, mixed with the last move (algorithm 1, lines 7 and 8)."""
    z, last_move = rows.z, rows.z - rows.z_old
    ahead = ball.project(z + per_image(rows.step, z) * ball.ascent(rows.grad))
    if momentum:
        ahead = ball.project(z + (ahead - z) * (1 - momentum) + last_move * momentum)
    rows.z_old, rows.z = z, ahead


def _remember(rows: _Rows, value: Tensor) -> None:
    # The published code counts the first loss as a rise where it is positive; so does this.
    rows.rises = rows.rises + (value > rows.last_loss)
    rows.last_loss = value
    better = value > rows.best_loss
    rows.best_loss = torch.where(better, value, rows.best_loss)
    wide = per_image(better, rows.z)
    rows.best = torch.where(wide, rows.z, rows.best)
    rows.best_grad = torch.where(wide, rows.grad, rows.best_grad)


def _check(rows: _Rows, window: int) -> None:
    """Halve the step and go back to the best where the loss stopped rising (conditions 1, 2)."""
    oscillates = rows.rises <= 0.75 * window
    stalls = ~rows.halved & (rows.checked_loss >= rows.best_loss)
    rows.halved = oscillates | stalls
    rows.checked_loss = rows.best_loss
    rows.rises = torch.zeros_like(rows.rises)
    rows.step = torch.where(rows.halved, rows.step / 2, rows.step)
    wide = per_image(rows.halved, rows.z)
    rows.z = torch.where(wide, rows.best, rows.z)
    rows.grad = torch.where(wide, rows.best_grad, rows.grad)


def _leave(
    rows: _Rows, ball: Ball, hit: Tensor, broken: Tensor, found: Tensor
) -> tuple[_Rows, Ball]:
    """Notes the images that some row broke, and drops all rows of them."""
    if not bool(hit.any()):
        return rows, ball
    # Of several rows that break an image at once the first target counts: written last.
    places, images = rows.owner[hit].flip(0), rows.z[hit].flip(0)
    found[places] = images
    broken[places] = True
    keep = ~broken[rows.owner]
    return rows.keep(keep), ball[keep]
