"""Moves in the intersection of an L1 ball and the pixel box (Croce & Hein 2021, arXiv 2103.01208).

R rows of C channels, H x W, or D = C * H * W numbers. Every function treats each row by itself, so rows
of different images, radii and iteration counts may stand side by side.

How L1-APGD uses them, a row at a time; `steps` is the length of the phase, `eps` its radius:

    without a schedule: one phase of radius eps; z = random_start_l1(x, eps, streams)
                        and stride = fresh_stride(x, eps)
    with one:           z = random_start_l1(x, 3 * eps, streams); then for each (factor, steps) of
                        large_step_phases: z = project_l1(x, z, factor * eps) and
                        stride = resumed_stride(x, z, factor * eps)

    evaluate loss and gradient at z; best = z
    for k = 1 … steps:
        z = project_l1(x, z + stride.step * sparse_ascent(grad, stride.share), radius)   # no momentum
        evaluate loss and gradient at z; best = z where the loss is higher than ever in this phase
        where k is a multiple of checkpoint_window(steps):
            stride, sparser = adapt(stride, nonzeros(x, best), D, radius)
            where sparser: z = best, with the gradient there
    the next phase starts from best

Only points of the last phase count, its start included: those before it lie outside the ball. A phase
of `steps` evaluates steps + 1 times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.geometry import per_image
from bench.schema import InvalidInput
from bench.streams import Streams

FIRST_SHARE = 0.2  # of the components that move at first, without a start to go by
SPARSER = 0.95  # the best point counts as sparser below this share of its former components
REDUCTION = 1.5  # step and share are divided by this (published: adasp_redstep)
SMALLEST = 10.0  # the step stays above eps / SMALLEST (published: adasp_minstep)
_INSIDE = 1 - 1e-9  # of eps is aimed at: more than float64 sums are wrong by


def project_l1(x: Tensor, z: Tensor, eps: float | Tensor) -> Tensor:
    """The nearest points (R, C, H, W) to z with 0 <= p <= 1 and ||p - x||_1 <= eps.

    x in [0, 1]; eps a number or (R,). The distance, summed in float64, is at most eps: points are
    rounded towards x. Components that should not move are exactly those of x, and a row that is inside
    comes back as it is.
    """
    start, far = x.flatten(1).to(torch.float64), z.flatten(1).to(torch.float64)
    away = far - start
    room = torch.where(away > 0, 1 - start, start)
    reach = away.abs()
    size = torch.as_tensor(eps, dtype=torch.float64, device=x.device).expand(len(x))
    moves = torch.minimum(reach, room)
    outside = moves.sum(1) > size
    clipped = z.clamp(0, 1)
    if not bool(outside.any()):
        return clipped
    moves = shrunk_l1(reach, room, size)
    exact = torch.copysign(moves, away) + start
    point = exact.to(x.dtype)
    too_far = (point.to(torch.float64) - start).abs() > moves
    point = torch.where(too_far, torch.nextafter(point, x.flatten(1)), point)
    return torch.where(per_image(outside, x), point.view_as(x), clipped)


def shrunk_l1(reach: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """(R, D) moves min(max(reach - shift, 0), room), with the shift (R,) that makes their sum eps.

    reach, room (R, D) and eps (R,) are float64. No shift where the sum is small enough without.
    The sum falls piecewise linearly in the shift: Newton steps, halving the bracket where one leaves
    it. A row that has arrived stays, whatever its neighbours do.
    """
    eps = (_INSIDE * eps)[:, None]
    low, high = torch.zeros_like(eps), reach.amax(1, keepdim=True)
    shift = low
    while True:
        left = reach - shift
        moves = torch.minimum(left.clamp_min(0), room)
        excess = moves.sum(1, keepdim=True) - eps
        free = ((left > 0) & (left < room)).sum(1, keepdim=True)
        low = torch.where(excess > 0, shift, low)
        high = torch.where(excess > 0, high, shift)
        ahead = shift + excess / free
        halfway = low + (high - low) / 2
        ahead = torch.where((ahead > low) & (ahead < high), ahead, halfway)
        arrived = (excess.abs() <= 1e-10 * eps) | (ahead == low) | (ahead == high)
        if bool(arrived.all()):
            return moves * (eps / (eps + excess.clamp_min(0)))
        shift = torch.where(arrived, shift, ahead)


def random_start_l1(x: Tensor, eps: float | Tensor, streams: Streams) -> Tensor:
    """Standard normal noise on every component, projected: (R, C, H, W)."""
    return project_l1(x, x + streams.normal(tuple(x.shape[1:])).to(x), eps)


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


def nonzeros(x: Tensor, z: Tensor) -> Tensor:
    """(R,) how many components differ, in the type of x."""
    return (z != x).flatten(1).sum(1).to(x.dtype)


@dataclass(frozen=True)
class Stride:
    """How far and on how many components a row moves; every field is (R,), in the type of x."""

    share: Tensor  # of the components that move in a step
    step: Tensor  # L1 length of a step
    before: Tensor  # nonzeros of the best point at the last checkpoint


def fresh_stride(x: Tensor, eps: float | Tensor) -> Stride:
    """For rows that start at random: a fifth of the components, steps of eps."""
    ones = torch.ones_like(x[:, 0, 0, 0])
    return Stride(FIRST_SHARE * ones, eps * ones, x[0].numel() * ones)


def resumed_stride(x: Tensor, z: Tensor, eps: float | Tensor) -> Stride:
    """For rows that start a phase at z: as many components as z moved, divided by 1.5."""
    moved = nonzeros(x, z)
    return Stride(moved / x[0].numel() / REDUCTION, eps * torch.ones_like(moved), moved)


def checkpoint_window(steps: int) -> int:
    """Steps between two checkpoints of a phase of so many steps."""
    return max(int(0.04 * steps), 1)


def adapt(
    stride: Stride, best: Tensor, numbers: int, eps: float | Tensor, due: Tensor | None = None
) -> tuple[Stride, Tensor]:
    """The stride after a checkpoint, and (R,) which rows go back to their best point.

    best (R,) are the nonzeros of the best point, numbers the components of an image. Where it became
    sparser the step is eps again and the row goes back; elsewhere the step shrinks. Rows that are not
    `due` (R,) stay as they are.
    """
    sparser = best / stride.before < SPARSER
    step = torch.where(sparser, eps, stride.step / REDUCTION)
    # Both bounds are numbers, or both tensors; the stubs of torch know no such union.
    step = torch.clamp(step, eps / SMALLEST, eps)  # type: ignore[arg-type]
    after = Stride(best / numbers / REDUCTION, step, best)
    if due is None:
        return after, sparser
    kept = Stride(
        torch.where(due, after.share, stride.share),
        torch.where(due, after.step, stride.step),
        torch.where(due, after.before, stride.before),
    )
    return kept, sparser & due


def large_step_phases(steps: int) -> tuple[tuple[float, int], ...]:
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
