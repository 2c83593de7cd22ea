"""FGSM (arXiv 1412.6572) and projected gradient ascent (PGD, arXiv 1706.06083) on any loss.

B images, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, per_image
from bench.attacks.losses import LOSSES, Loss
from bench.attacks.problem import Problem, frozen, logits_and_gradient
from bench.attacks.rows import Rows, restarted, run


def fgsm(problem: Problem, *, relative_step: float = 1.0) -> Tensor:
    """One step of relative_step * eps on cross-entropy, without a random start.

    Returns (B, C, H, W), detached. Goodfellow et al. 2015, arXiv 1412.6572, section 4.
    """
    return pgd(problem, steps=1, relative_step=relative_step, start="none", iterate="last")


def pgd(
    problem: Problem,
    *,
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
    walk = {"any": _first_fooling, "last": _to_the_end}[iterate]
    ball = Ball.around(problem.x, problem.threat)
    return walk(problem, ball, steps, relative_step, restarts, start == "uniform", LOSSES[loss])


@dataclass
class _Walkers(Rows):
    """State of PGD rows; every field has R entries."""

    low: Tensor  # with x and high, the ball
    high: Tensor
    grad: Tensor  # at z
    looks: Tensor  # how many points were looked at, the start included


def _first_fooling(
    problem: Problem,
    ball: Ball,
    steps: int,
    relative_step: float,
    restarts: int,
    random_start: bool,
    loss: Loss,
) -> Tensor:
    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        here, balls = problem.at(places, "start", restart), ball[places]
        first = balls.random_start(here.streams) if random_start else balls.x
        ends = first.clone()

        def begin(places: Tensor) -> _Walkers:
            some, z = balls[places], first[places]
            looks = torch.zeros_like(places)
            return _Walkers(places, some.x, here.y[places], z, some.low, some.high, z, looks)

        def advance(rows: _Walkers) -> tuple[Tensor, Tensor]:
            some = Ball(rows.x, ball.norm, ball.eps, rows.low, rows.high)
            started, last = rows.looks > 0, rows.looks == steps
            if bool(started.any()):
                moved = some.project(rows.z + relative_step * ball.eps * some.ascent(rows.grad))
                rows.z = torch.lerp(rows.z, moved, per_image(started.to(moved), moved))
            if bool(last.all()):
                with torch.no_grad():
                    logits = problem.model(rows.z)
            else:
                logits, _, rows.grad = logits_and_gradient(problem.model, rows.z, rows.y, loss)
            rows.looks = rows.looks + 1
            ends[rows.owner[last]] = rows.z[last]
            # The start itself does not count.
            return here.search.verdict(rows.z, rows.y, logits, rows.owner) & started, last

        found, broken = run(begin, advance, here, per_image=1)
        return torch.where(per_image(broken, ends), found, ends), broken

    return restarted(problem, restarts, attempt)


def _to_the_end(
    problem: Problem,
    ball: Ball,
    steps: int,
    relative_step: float,
    restarts: int,
    random_start: bool,
    loss: Loss,
) -> Tensor:
    best = problem.x.clone()
    highest = torch.full_like(problem.y, -torch.inf, dtype=torch.float64)

    def walk(ball: Ball, y: Tensor, z: Tensor) -> Tensor:
        for _ in range(steps):
            problem.search.tick()
            _, _, grad = logits_and_gradient(problem.model, z, y, loss)
            z = ball.project(z + relative_step * ball.eps * ball.ascent(grad))
        return z

    with frozen(problem.model):
        for places in torch.arange(len(best), device=best.device).split(problem.search.rows):
            some, y = ball[places], problem.y[places]
            for restart in range(restarts):
                streams = problem.streams[places].at("start", restart)
                z = walk(some, y, some.random_start(streams) if random_start else some.x)
                if restarts == 1:
                    best[places] = z
                    break
                with torch.no_grad():
                    reached = loss(problem.model(z), y).double()
                better = reached > highest[places]
                best[places] = torch.where(per_image(better, z), z, best[places])
                highest[places] = torch.where(better, reached, highest[places])
    return best
