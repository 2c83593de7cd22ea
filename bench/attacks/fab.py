"""FAB, the fast adaptive boundary attack (Croce & Hein 2020, arXiv 1907.02044).

It walks along the linearised decision boundary towards the image. Here it is asked only whether a
misclassified point lies within eps, so an image leaves as soon as one does. All targets of an image
walk at the same time. R rows (image x target), D = C * H * W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.attacks.geometry import distance, length, noise, per_image
from bench.attacks.losses import fooled, targeted_margin
from bench.attacks.problem import Model, Problem, gradient, logits_and_gradient
from bench.attacks.rows import Rows, restarted, run

CLOSE = 1e-7  # relative change below which a projection is exact in float32
CHUNK = 32  # rows whose arithmetic is done together on a CPU: their state stays in the cache
ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9  # bias to the image, overshoot, step back (paper, section 4)
# A plane of the linearised boundary for every row: (z_target - z_y) at z, and its gradient.
Plane = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def fab_t(problem: Problem, *, steps: int = 100, restarts: int = 1, targets: int = 9) -> Tensor:
    """FAB towards each of the likeliest wrong classes; the first point within eps counts.

    Returns (B, C, H, W), detached; the clean image where no such point was found.
    """
    wrong = problem.likeliest_wrong(targets)
    return _walked(problem, wrong, partial(_plane_towards, problem.model), steps, restarts)


def fab(problem: Problem, *, steps: int = 100, restarts: int = 5) -> Tensor:
    """Untargeted FAB: each step goes to the nearest of the K - 1 linearised boundaries.

    A step costs K backward passes, one a class. Returns (B, C, H, W), detached; the clean image where
    no point within eps was found.
    """
    plane = partial(_nearest_plane, problem.model, problem.threat.norm)
    return _walked(problem, problem.no_target(), plane, steps, restarts)


@dataclass
class _Walkers(Rows):
    """State of FAB rows; every field has R entries."""

    target: Tensor
    back: Tensor  # 1.0 where z was misclassified: the next step starts nearer to x
    looks: Tensor


def _walked(
    problem: Problem,
    targets: Tensor,  # (B, T)
    plane: Plane,
    steps: int,
    restarts: int,
) -> Tensor:
    threat, count = problem.threat, targets.shape[1]

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        here = problem.at(places, "restart", restart)
        first = _random_start(here) if restart else here.x

        def begin(chosen: Tensor) -> _Walkers:
            owner = chosen.repeat_interleave(count)
            target = targets[places[chosen]].flatten()
            back, looks = torch.zeros_like(owner, dtype=first.dtype), torch.zeros_like(owner)
            return _Walkers(owner, here.x[owner], here.y[owner], first[owner], target, back, looks)

        def advance(rows: _Walkers) -> tuple[Tensor, Tensor]:
            # A weight of 0 leaves z as it is, to the bit.
            z = torch.lerp(rows.z, rows.x, per_image(rows.back * (1 - BETA), rows.z))
            gap, grad = plane(z, rows.y, rows.target)
            rows.z = _towards_boundary(rows.x, z, gap, grad, threat.norm)
            with torch.no_grad():
                logits = problem.model(rows.z)
            rows.back = fooled(logits, rows.y).to(z)
            near = length(rows.z - rows.x, threat.norm) <= threat.epsilon * 1.0001
            hit = torch.zeros_like(near)
            if bool(near.any()):  # the exact distance costs more, and few rows come near
                some = near.nonzero()[:, 0]
                exact = distance(rows.x[some], rows.z[some], threat.norm) <= threat.epsilon
                some = some[exact]
                hit[some] = here.search.verdict(
                    rows.z[some], rows.y[some], logits[some], rows.owner[some]
                )
            rows.looks = rows.looks + 1
            return hit, rows.looks >= steps

        return run(begin, advance, here, per_image=count)

    return restarted(problem, restarts, attempt)


def _plane_towards(model: Model, z: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The boundary to the row's own target."""
    _, gap, grad = logits_and_gradient(
        model, z, y, lambda logits, y: targeted_margin(logits, y, target)
    )
    return gap.to(z), grad  # a network may answer in another precision than it is asked in


def _nearest_plane(
    model: Model, norm: str, z: Tensor, y: Tensor, _: Tensor
) -> tuple[Tensor, Tensor]:
    """The boundary that is nearest to z to first order, |gap| / ||grad|| in the dual norm."""
    dual = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm]
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(z)
        gaps = logits - logits.gather(1, y[:, None])
        classes = gaps.shape[1]
        grads = [gradient(gaps[:, k].sum(), z, again=k < classes - 1) for k in range(classes)]
    grad = torch.stack([torch.zeros_like(z) if g is None else g for g in grads], 1).nan_to_num()
    size = torch.linalg.vector_norm(grad.flatten(2), ord=dual, dim=2)
    far = (gaps.detach().abs() / size.clamp_min(1e-12)).scatter(1, y[:, None], torch.inf)
    nearest = far.argmin(1)
    row = torch.arange(len(y), device=y.device)
    return gaps.detach().to(z)[row, nearest], grad[row, nearest]


def _random_start(problem: Problem) -> Tensor:
    """A point at half the radius, for restarts after the first."""
    x, threat = problem.x, problem.threat
    delta = noise(x, threat.norm, problem.streams)
    size = length(delta.to(torch.float64), threat.norm).to(x).clamp_min(1e-12)
    return (x + delta * per_image(0.5 * threat.epsilon / size, x)).clamp(0, 1)


def _towards_boundary(x: Tensor, z: Tensor, gap: Tensor, grad: Tensor, norm: str) -> Tensor:
    """One step: project z and x on the linearised boundary, overshoot, lean to x (eq. 9 and 10)."""
    size = CHUNK if z.device.type == "cpu" else max(len(z), 1)
    parts = zip(*(t.flatten(1).split(size) for t in (x, z, grad)), gap.split(size), strict=True)
    moved = [_step(start, flat, w, gap, norm) for start, flat, w, gap in parts]
    return torch.cat(moved).view_as(z)


def _step(start: Tensor, flat: Tensor, w: Tensor, gap: Tensor, norm: str) -> Tensor:
    offset = (w * flat).sum(1) - gap  # the boundary is {p : w . p = offset}
    from_z = project_on_plane(flat, w, offset, norm)
    from_x = project_on_plane(start, w, offset, norm)
    size_z, size_x = (length(d, norm).clamp_min(1e-8) for d in (from_z, from_x))
    alpha = (size_z / (size_z + size_x)).clamp(0, ALPHA_MAX)[:, None]
    moved = (flat + ETA * from_z) * (1 - alpha) + (start + ETA * from_x) * alpha
    return moved.clamp(0, 1)


def project_on_plane(p: Tensor, w: Tensor, offset: Tensor, norm: str) -> Tensor:
    """The shortest moves (R, D) that take p (R, D) to the plane w . p = offset inside [0, 1]^D.

    Where the box does not reach the plane, the move goes as near as it can. Every coordinate may
    only move against the sign of the distance, by at most its room, so the length of a move is found
    on a sorted, piecewise linear curve (arXiv 1907.02044, section 2).
    """
    away = (w * p).sum(1) - offset  # signed; to be brought to 0
    slope = w * torch.where(away >= 0, 1.0, -1.0)[:, None]
    need, rate = away.abs(), slope.abs()
    # Comparisons are written as floats: selecting by boolean masks costs ten times as much here.
    downwards = torch.gt(slope, 0, out=torch.empty_like(slope))
    room = torch.lerp(1 - p, p, downwards)
    if norm == "linf":
        moves = torch.minimum(room, _reach(rate, room, need)[:, None])
    elif norm == "l2":
        moves = torch.minimum(room, _reach(rate, room, need, rate)[:, None] * rate)
    else:
        moves = _l1_moves(rate, room * (rate > 0), need)
    return -slope.sign() * moves


def _reach(rate: Tensor, room: Tensor, need: Tensor, pace: Tensor | None = None) -> Tensor:
    """t with sum_i rate_i * min(t * pace_i, room_i) = need; uses all room where that is too little.

    Every coordinate has the pace 1 where none is given. The sum is concave and piecewise linear in t,
    so Newton's method from 0 climbs to the root without passing it and ends after finitely many steps:
    sorting the rooms is not needed.
    """
    mask, gain = torch.empty_like(rate), rate if pace is None else rate * pace
    t = need / gain.sum(1).clamp_min(1e-30)
    for _ in range(room.shape[1]):
        moves = t[:, None] if pace is None else t[:, None] * pace
        slope = (gain * torch.gt(room, moves, out=mask)).sum(1)
        missing = need - (rate * torch.minimum(room, moves)).sum(1)
        step = torch.where(slope > 0, missing / slope.clamp_min(1e-30), 0.0)
        t = t + step.clamp_min(0)
        if not bool((step > CLOSE * t).any()):
            break
    return t


def _l1_moves(rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The steepest coordinates first, each by its room, until need is met."""
    steep, order = rate.sort(dim=1, descending=True)
    space = room.gather(1, order)
    gained = (steep * space).cumsum(1)
    missing = (need[:, None] - (gained - steep * space)).clamp_min(0)
    moves = torch.minimum(space, missing / steep.clamp_min(1e-30))
    return torch.zeros_like(room).scatter(1, order, moves)
