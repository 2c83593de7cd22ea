"""APGD, the step-size-free PGD of AutoAttack (Croce & Hein 2020, arXiv 2003.01690, algorithm 1).

All targets of an image climb at the same time, and the image leaves with the first that succeeds.
B images, R rows (image x target), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.apgd_l1 import apgd_l1, apgd_l1_t
from bench.attacks.geometry import Ball, per_image
from bench.attacks.losses import LOSSES, TargetedLoss, dlr_targeted, likeliest_wrong
from bench.attacks.pgd import Model, frozen, logits_and_gradient
from bench.attacks.rows import DEFAULT, Rows, Search, restarted, run
from bench.schema import ThreatModel
from bench.streams import Streams

MOMENTUM, RISES = 0.25, 0.75  # share of the last move kept; share of steps that should rise (rho)


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
    samples: int = 1,
    large_steps: bool = False,
    search: Search = DEFAULT,
) -> Tensor:
    """Untargeted APGD on a loss; images that are broken leave. Returns (B, C, H, W), detached.

    samples above 1 averages gradients over so many passes, for randomised models (EoT). Under l1 the
    steps are sparse (apgd_l1.py), and large_steps starts in larger balls.
    """
    if threat.norm == "l1":
        return apgd_l1(
            model, x, y, threat, streams=streams, steps=steps, restarts=restarts,
            large_steps=large_steps, loss=loss, search=search,
        )  # fmt: skip
    objective = LOSSES[loss]
    none = torch.zeros((len(y), 1), dtype=torch.int64, device=y.device)
    return _climbed(
        model, x, y, threat, none, lambda z, y, _: objective(z, y), streams, steps, restarts,
        samples, search,
    )  # fmt: skip


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
    large_steps: bool = False,
    search: Search = DEFAULT,
) -> Tensor:
    """APGD on the targeted DLR loss, towards each of the likeliest wrong classes.

    Needs at least 4 classes. large_steps is for l1. Returns (B, C, H, W), detached.
    """
    if threat.norm == "l1":
        return apgd_l1_t(
            model, x, y, threat, streams=streams, steps=steps, restarts=restarts, targets=targets,
            large_steps=large_steps, search=search,
        )  # fmt: skip
    with torch.no_grad():
        wrong = likeliest_wrong(model(x), y, targets)
    return _climbed(model, x, y, threat, wrong, dlr_targeted, streams, steps, restarts, 1, search)


def _climbed(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    targets: Tensor,  # (B, T)
    loss: TargetedLoss,
    streams: Streams,
    steps: int,
    restarts: int,
    samples: int,
    search: Search,
) -> Tensor:
    ball = Ball.around(x.detach(), threat)

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        climb = _Climb(
            model, places, ball[places], y[places], targets[places], loss,
            streams[places].at("restart", restart), steps, samples, search,
        )  # fmt: skip
        return run(
            climb.begin, climb.advance, climb.ball.x, per_image=targets.shape[1], search=search
        )

    with frozen(model):
        return restarted(x, restarts, attempt)


@dataclass
class _Climbers(Rows):
    """What each climbing row remembers; every field has R entries."""

    owner: Tensor
    y: Tensor
    target: Tensor
    x: Tensor  # with low and high, the ball
    low: Tensor
    high: Tensor
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
    looks: Tensor  # how many iterates were looked at, the start included


@dataclass
class _Climb:
    """One restart of APGD over a batch."""

    model: Model
    images: Tensor  # (B,) their places in the attacked batch
    ball: Ball
    y: Tensor
    targets: Tensor
    loss: TargetedLoss
    streams: Streams
    steps: int
    samples: int
    search: Search

    def __post_init__(self) -> None:
        self.window = checkpoints(self.steps).to(self.y.device)

    def begin(self, places: Tensor) -> _Climbers:
        """Rows of the images at `places`, at their starts."""
        ball, count = self.ball[places], self.targets.shape[1]
        starts = [start(ball, self.streams[places].at("target", t)) for t in range(count)]
        z = torch.stack(starts, 1).flatten(0, 1)
        row = torch.arange(len(places), device=places.device).repeat_interleave(count)
        owner = places[row]
        number = torch.zeros(len(row), dtype=z.dtype, device=z.device)
        return _Climbers(
            owner, self.y[owner], self.targets[places].flatten(), ball.x[row], ball.low[row],
            ball.high[row], z, z, torch.zeros_like(z), z, torch.zeros_like(z),
            number - torch.inf, number + 2 * ball.eps, number, number, number,
            torch.ones_like(number, dtype=torch.bool), torch.zeros_like(owner),
        )  # fmt: skip

    def advance(self, rows: _Climbers) -> tuple[Tensor, Tensor]:
        """Moves every row (but those at their start) and looks at where it came to."""
        if bool((rows.looks > 0).any()):
            _check(rows, self.window[(rows.looks - 1).clamp_min(0)])
            self._move(rows)
        logits, value, rows.grad = self._look(rows)
        _remember(rows, value)
        rows.looks = rows.looks + 1
        hit = self.search.verdict(rows.z, rows.y, logits, self.images[rows.owner])
        return hit, rows.looks > self.steps

    def _look(self, rows: _Climbers) -> tuple[Tensor, Tensor, Tensor]:
        def loss(logits: Tensor, y: Tensor) -> Tensor:
            return self.loss(logits, y, rows.target)

        logits, losses, gradient = logits_and_gradient(self.model, rows.z, rows.y, loss)
        for _ in range(self.samples - 1):
            more = logits_and_gradient(self.model, rows.z, rows.y, loss)
            logits, losses, gradient = logits + more[0], losses + more[1], gradient + more[2]
        if self.samples == 1:
            return logits, losses, gradient
        return logits / self.samples, losses / self.samples, gradient / self.samples

    def _move(self, rows: _Climbers) -> None:
        """A projected ascent step, mixed with the last move (algorithm 1, lines 7 and 8)."""
        ball = Ball(rows.x, self.ball.norm, self.ball.eps, rows.low, rows.high)
        z, last_move = rows.z, rows.z - rows.z_old
        ahead = ball.project(z + per_image(rows.step, z) * ball.ascent(rows.grad))
        mix = per_image(torch.where(rows.looks > 1, MOMENTUM, 0.0).to(z), z)
        ahead = ball.project(z + (ahead - z) * (1 - mix) + last_move * mix)
        moves = rows.looks > 0
        if not bool(moves.all()):
            weight = per_image(moves.to(z), z)
            ahead, z = torch.lerp(z, ahead, weight), torch.lerp(rows.z_old, z, weight)
        rows.z_old, rows.z = z, ahead


def checkpoints(steps: int) -> Tensor:
    """(steps + 1,) after how many moves the progress is checked: the window's length there, else 0."""
    length, smallest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    windows = torch.zeros(steps + 1, dtype=torch.int64)
    at = length
    while at <= steps:
        windows[at] = length
        length = max(length - shrink, smallest)
        at += length
    return windows


def start(ball: Ball, streams: Streams) -> Tensor:
    """A random point at distance eps: noise scaled to the ball's surface, then clipped."""
    shape = tuple(ball.x.shape[1:])
    if ball.norm == "linf":
        noise = (2 * streams.uniform(shape) - 1).to(ball.x)
        size = noise.flatten(1).abs().amax(1)
    else:
        noise = streams.normal(shape).to(ball.x)
        size = noise.flatten(1).norm(dim=1)
    return ball.project(ball.x + noise * per_image(ball.eps / size.clamp_min(1e-12), noise))


def _remember(rows: _Climbers, value: Tensor) -> None:
    """Counts rises and keeps the best iterate."""
    # The published code counts the first loss after the start as a rise where it is positive.
    first = rows.looks == 0
    rows.rises = rows.rises + ((value > rows.last_loss) & ~first)
    rows.last_loss = torch.where(first, 0.0, value)
    better = (value > rows.best_loss) | first
    rows.best_loss = torch.where(better, value, rows.best_loss)
    rows.checked_loss = torch.where(first, value, rows.checked_loss)
    weight = per_image(better.to(rows.z), rows.z)  # 0 or 1, where lerp is exact and fast
    rows.best = torch.lerp(rows.best, rows.z, weight)
    rows.best_grad = torch.lerp(rows.best_grad, rows.grad, weight)


def _check(rows: _Climbers, window: Tensor) -> None:
    """Halve the step and go back to the best where the loss stopped rising (conditions 1, 2).

    window (R,) is 0 for rows that are not at a checkpoint.
    """
    due = window > 0
    if not bool(due.any()):
        return
    oscillates = rows.rises <= RISES * window
    stalls = ~rows.halved & (rows.checked_loss >= rows.best_loss)
    halve = due & (oscillates | stalls)
    rows.halved = torch.where(due, halve, rows.halved)
    rows.checked_loss = torch.where(due, rows.best_loss, rows.checked_loss)
    rows.rises = torch.where(due, 0.0, rows.rises)
    rows.step = torch.where(halve, rows.step / 2, rows.step)
    weight = per_image(halve.to(rows.z), rows.z)
    rows.z = torch.lerp(rows.z, rows.best, weight)
    rows.grad = torch.lerp(rows.grad, rows.best_grad, weight)
