"""APGD, the step-size-free PGD of AutoAttack (Croce & Hein 2020, arXiv 2003.01690, algorithm 1).

Under L1 with sparse steps (Croce & Hein 2021, arXiv 2103.01208, algorithm 1). All targets of an image
climb at the same time, and the image leaves with the first that succeeds. B images, R rows (image x
target), K classes, D = C * H * W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, noise, per_image, project_l1
from bench.attacks.losses import LOSSES, TargetedLoss, dlr_targeted
from bench.attacks.problem import Problem, logits_and_gradient
from bench.attacks.rows import Rows, restarted, run
from bench.schema import InvalidInput

MOMENTUM, RISES = 0.25, 0.75  # share of the last move kept; share of steps that should rise (rho)

# L1: the share of the components that move at first, without a start to go by; below which share of
# its former components the best point counts as sparser; what step and share are divided by
# (published: adasp_redstep); the step stays above eps / SMALLEST (published: adasp_minstep).
FIRST_SHARE, SPARSER, REDUCTION, SMALLEST = 0.2, 0.95, 1.5, 10.0


def apgd(
    problem: Problem,
    *,
    steps: int = 100,
    restarts: int = 1,
    loss: str = "cross_entropy",
    samples: int = 1,
    large_steps: bool = False,
) -> Tensor:
    """Untargeted APGD on a loss; images that are broken leave. Returns (B, C, H, W), detached.

    samples above 1 averages gradients over so many passes, for randomised models (EoT).
    large_steps is for l1: it starts in larger balls.
    """
    objective = LOSSES[loss]
    return _climbed(
        problem, problem.no_target(), lambda logits, y, _: objective(logits, y), steps, restarts,
        samples, large_steps,
    )  # fmt: skip


def apgd_t(
    problem: Problem,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    large_steps: bool = False,
) -> Tensor:
    """APGD on the targeted DLR loss, towards each of the likeliest wrong classes.

    Needs at least 4 classes. large_steps is for l1. Returns (B, C, H, W), detached.
    """
    wrong = problem.likeliest_wrong(targets)
    return _climbed(problem, wrong, dlr_targeted, steps, restarts, 1, large_steps)


def _climbed(
    problem: Problem,
    targets: Tensor,  # (B, T)
    loss: TargetedLoss,
    steps: int,
    restarts: int,
    samples: int,
    large_steps: bool,
) -> Tensor:
    if problem.threat.norm == "l1":
        phases = large_step_phases(steps) if large_steps else ((1.0, steps),)

        def attempt_l1(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
            here = problem.at(places, "restart", restart)
            return _climb_l1(here, targets[places], loss, phases, samples)

        # Phases end together, so there is no refilling.
        at_once = max(1, problem.search.rows // targets.shape[1])
        return restarted(problem, restarts, attempt_l1, at_once=at_once)
    ball = Ball.around(problem.x, problem.threat)

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        here = problem.at(places, "restart", restart)
        return _climb(here, ball[places], targets[places], loss, steps, samples)

    return restarted(problem, restarts, attempt)


@dataclass
class _Climbers(Rows):
    """What a climbing row remembers under every norm."""

    target: Tensor
    grad: Tensor  # at z
    best: Tensor  # the iterate of highest loss (under L1 in this phase), with its gradient and loss
    best_grad: Tensor
    best_loss: Tensor
    step: Tensor

    def look(self, problem: Problem, loss: TargetedLoss, samples: int = 1) -> tuple[Tensor, Tensor]:
        """Logits (R, K) and losses (R,) at z, averaged over so many passes, as is the new grad."""

        def towards(logits: Tensor, y: Tensor) -> Tensor:
            return loss(logits, y, self.target)

        looks = [
            logits_and_gradient(problem.model, self.z, self.y, towards) for _ in range(samples)
        ]
        logits, value, self.grad = looks[0]
        for more in looks[1:]:
            logits, value, self.grad = logits + more[0], value + more[1], self.grad + more[2]
        if samples > 1:
            logits, value, self.grad = logits / samples, value / samples, self.grad / samples
        return logits, value

    def keep_best(self, better: Tensor, value: Tensor) -> None:
        """The iterate is the best where better (R,)."""
        self.best_loss = torch.where(better, value, self.best_loss)
        weight = per_image(better.to(self.z), self.z)  # 0 or 1, where lerp is exact and fast
        self.best = torch.lerp(self.best, self.z, weight)
        self.best_grad = torch.lerp(self.best_grad, self.grad, weight)

    def go_back(self, where: Tensor) -> None:
        """To the best iterate, where (R,)."""
        weight = per_image(where.to(self.z), self.z)
        self.z = torch.lerp(self.z, self.best, weight)
        self.grad = torch.lerp(self.grad, self.best_grad, weight)


# ---------------------------------------------------------------- Linf, L2


@dataclass
class _MomentumClimbers(_Climbers):
    """What is remembered besides under Linf and L2."""

    low: Tensor  # with x and high, the ball
    high: Tensor
    z_old: Tensor
    last_loss: Tensor
    rises: Tensor  # how often the loss rose since the last checkpoint
    checked_loss: Tensor  # best_loss at the last checkpoint
    halved: Tensor  # whether the step was halved there
    looks: Tensor  # how many iterates were looked at, the start included


def _climb(
    problem: Problem, ball: Ball, targets: Tensor, loss: TargetedLoss, steps: int, samples: int
) -> tuple[Tensor, Tensor]:
    """One restart: (B, C, H, W) with the hits, and (B,) whether there is one."""
    windows, count = checkpoints(steps).to(problem.y.device), targets.shape[1]

    def begin(places: Tensor) -> _MomentumClimbers:
        some, streams = ball[places], problem.streams[places]
        # A random point at distance eps: noise scaled to the ball's surface, then clipped.
        starts = [
            some.on_surface(noise(some.x, some.norm, streams.at("target", t))) for t in range(count)
        ]
        z = torch.stack(starts, 1).flatten(0, 1)
        row = torch.arange(len(places), device=places.device).repeat_interleave(count)
        owner = places[row]
        zero, nowhere = torch.zeros_like(z[:, 0, 0, 0]), torch.zeros_like(z)
        return _MomentumClimbers(
            owner, some.x[row], problem.y[owner], z, targets[places].flatten(),
            grad=nowhere, best=z, best_grad=nowhere, best_loss=zero - torch.inf,
            step=zero + 2 * ball.eps, low=some.low[row], high=some.high[row], z_old=z,
            last_loss=zero, rises=zero, checked_loss=zero,
            halved=torch.ones_like(owner, dtype=torch.bool), looks=torch.zeros_like(owner),
        )  # fmt: skip

    def advance(rows: _MomentumClimbers) -> tuple[Tensor, Tensor]:
        """Moves every row (but those at their start) and looks at where it came to."""
        if bool((rows.looks > 0).any()):
            _check(rows, windows[(rows.looks - 1).clamp_min(0)])
            _move(rows, Ball(rows.x, ball.norm, ball.eps, rows.low, rows.high))
        logits, value = rows.look(problem, loss, samples)
        first = rows.looks == 0
        # The published code counts the first loss after the start as a rise where it is positive.
        rows.rises = rows.rises + ((value > rows.last_loss) & ~first)
        rows.last_loss = torch.where(first, 0.0, value)
        rows.checked_loss = torch.where(first, value, rows.checked_loss)
        rows.keep_best((value > rows.best_loss) | first, value)
        rows.looks = rows.looks + 1
        hit = problem.search.verdict(rows.z, rows.y, logits, rows.owner)
        return hit, rows.looks > steps

    return run(begin, advance, problem, per_image=count)


def _move(rows: _MomentumClimbers, ball: Ball) -> None:
    """A projected ascent step, mixed with the last move (algorithm 1, lines 7 and 8)."""
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
    size, smallest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    windows = torch.zeros(steps + 1, dtype=torch.int64)
    at = size
    while at <= steps:
        windows[at] = size
        size = max(size - shrink, smallest)
        at += size
    return windows


def _check(rows: _MomentumClimbers, window: Tensor) -> None:
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
    rows.go_back(halve)


# ---------------------------------------------------------------- L1


@dataclass
class _SparseClimbers(_Climbers):
    """What is remembered besides under L1."""

    share: Tensor  # of the components that move in a step, whose L1 length is `step`
    before: Tensor  # how many components the best point had moved at the last checkpoint


Phases = tuple[tuple[float, int], ...]


def large_step_phases(steps: int) -> Phases:
    """(multiple of eps, steps) of each phase: 30 %, 30 % and 40 % of the steps in shrinking balls.

    Raises InvalidInput where the last phase would have no step.
    """
    early = math.ceil(0.3 * steps)
    last = steps - 2 * early
    if last < 1:
        raise InvalidInput(
            f"large_steps needs at least 5 steps, got {steps}: the last phase would have none"
        )
    return (3.0, early), (2.0, early), (1.0, last)


def _climb_l1(
    problem: Problem, targets: Tensor, loss: TargetedLoss, phases: Phases, samples: int = 1
) -> tuple[Tensor, Tensor]:
    """One restart: (B, C, H, W) with the hits, and (B,) whether there is one.

    Only points of the last phase count, its start included: those before it lie outside the ball.
    """
    x, eps, count = problem.x, problem.threat.epsilon, targets.shape[1]
    owner = torch.arange(len(x), device=x.device).repeat_interleave(count)
    found, broken = x.clone(), torch.zeros_like(problem.y, dtype=torch.bool)
    starts = [
        project_l1(x, x + noise(x, "l1", problem.streams.at("target", t)), phases[0][0] * eps)
        for t in range(count)
    ]
    z = torch.stack(starts, 1).flatten(0, 1)
    for factor, steps in phases:
        radius, window = factor * eps, max(int(0.04 * steps), 1)
        rows = _begin_l1(
            problem, owner, targets.flatten(), project_l1(x[owner], z, radius), radius,
            resumed=len(phases) > 1,
        )  # fmt: skip
        for step in range(steps + 1):  # step 0 is the start
            problem.search.tick()
            if step:  # a sparse step and the projection, without momentum
                ahead = rows.z + per_image(rows.step, rows.z) * sparse_ascent(rows.grad, rows.share)
                rows.z = project_l1(rows.x, ahead, radius)
            logits, value = rows.look(problem, loss, samples)
            rows.keep_best((value > rows.best_loss) | (step == 0), value)
            if factor == 1.0:
                hit = problem.search.verdict(rows.z, rows.y, logits, rows.owner)
                if bool(hit.any()):
                    rows = rows.keep(~rows.note(hit, found, broken))
                if not len(rows.owner):
                    break
            if step and step % window == 0:
                _check_l1(rows, radius)
        z = rows.best
    return found, broken


def _begin_l1(
    problem: Problem, owner: Tensor, target: Tensor, z: Tensor, radius: float, *, resumed: bool
) -> _SparseClimbers:
    """Rows at the start z of a phase, with steps of its radius.

    At first a fifth of the components moves; in a schedule as many as z has moved, divided by 1.5.
    """
    x, nowhere = problem.x[owner], torch.zeros_like(z)
    one, numbers = torch.ones_like(z[:, 0, 0, 0]), x[0].numel()
    moved = moved_components(x, z) if resumed else numbers * one
    share = moved / numbers / REDUCTION if resumed else FIRST_SHARE * one
    return _SparseClimbers(
        owner, x, problem.y[owner], z, target, nowhere, z, nowhere, one, radius * one, share, moved
    )


def moved_components(x: Tensor, z: Tensor) -> Tensor:
    """(R,) how many components differ, in the type of x."""
    return (z != x).flatten(1).sum(1).to(x.dtype)


def sparse_ascent(grad: Tensor, share: Tensor) -> Tensor:
    """Signs of the steepest share (R,) of the components of grad (R, C, H, W), of L1 length 1.

    At least one component; ties with the last that counts move too, zero gradients never. The box is
    not looked at here: the projection after the step takes back what it blocks.
    """
    steep, numbers = grad.flatten(1).abs(), grad[0].numel()
    # Rounded as published: a share of 0.2 of 10 components leaves out int(0.8 * 10).
    left_out = ((1 - share) * numbers).clamp(0, numbers - 1).long()
    kept = numbers - left_out
    largest = steep.topk(int(kept.max()), dim=1).values
    least = largest.gather(1, kept[:, None] - 1)
    signs = grad.flatten(1).sign() * (steep >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(grad)


def _check_l1(rows: _SparseClimbers, radius: float) -> None:
    """Back to the best point, with full steps, where that became sparser; shorter steps elsewhere."""
    moved = moved_components(rows.x, rows.best)
    sparser = moved / rows.before < SPARSER
    step = torch.where(sparser, radius, rows.step / REDUCTION)
    rows.step = step.clamp(radius / SMALLEST, radius)
    rows.share, rows.before = moved / rows.x[0].numel() / REDUCTION, moved
    rows.go_back(sparser)
