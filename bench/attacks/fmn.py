"""FMN, the fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827, algorithm 1).

It walks along the decision boundary in a ball whose radius shrinks while the iterate is misclassified
and grows while it is not, so one run answers for every radius at once. B images, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.attacks.geometry import distance, length, per_image, shrunk_l1
from bench.attacks.losses import fooled, margin
from bench.attacks.problem import Problem, frozen, logits_and_gradient
from bench.schema.threat import Norm

_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
# Points on the very boundary are in other batches, or in float64, on its other side. So much margin,
# relative to the logits, keeps a point; it is ten times the rounding seen between batch sizes.
CLEAR = 1e-5


def fmn(
    problem: Problem,
    *,
    steps: int = 100,
    step: float = 1.0,
    final_step: float = 0.01,
    gamma: float = 0.05,
    final_gamma: float = 0.001,
) -> Tensor:
    """The nearest misclassified point seen in `steps` looks, whatever its distance.

    Of the threat only the norm counts. The step, an L2 length in the pixel range, and the relative
    change gamma of the radius fall to their final values along a cosine. Every image takes all steps,
    and nothing is drawn. Returns (B, C, H, W) in [0, 1], detached; the image itself where it is
    misclassified already, or where no such point was seen.

    The defaults are those of the published code but for its 10 steps; the last move is not looked at.
    Differs from it: a point counts when it is misclassified by a margin of CLEAR, so that it stays so
    when it is judged in another batch; the found distance grows by about as much, relatively.
    """
    found = problem.x.clone()
    with frozen(problem.model):
        for places in torch.arange(len(found), device=found.device).split(problem.search.rows):
            here = problem.at(places)
            found[places] = _walk(here, steps, (step, final_step), (gamma, final_gamma))
    return found


def _walk(
    problem: Problem, steps: int, lengths: tuple[float, float], rates: tuple[float, float]
) -> Tensor:
    x, norm = problem.x, problem.threat.norm
    z, nearest = x, x.clone()
    farthest = distance(x, (x < 0.5).to(x), norm)  # the corner of the box that is farthest away
    smallest = torch.full_like(farthest, torch.inf)
    radius = smallest
    for k in range(steps):
        problem.search.tick()
        cosine = (1 + math.cos(math.pi * k / steps)) / 2
        stride, rate = (last + (first - last) * cosine for first, last in (lengths, rates))
        logits, value, grad = logits_and_gradient(problem.model, z, problem.y, margin)
        clear = CLEAR * (1 + logits.abs().amax(1))
        wrong = fooled(logits, problem.y)
        if k:  # the image itself needs no clearance
            wrong &= (value >= clear) | ~torch.isfinite(logits).all(1)
        size = distance(x, z, norm)
        better = wrong & (size < smallest)
        smallest = torch.where(better, size, smallest)
        nearest = torch.where(per_image(better, z), z, nearest)
        blocked = (z <= 0) & (grad < 0) | (z >= 1) & (grad > 0)  # the box ends here
        free = torch.where(blocked, 0, grad)
        slope = length(free.to(torch.float64), _DUAL[norm])
        outside = torch.where(
            smallest < torch.inf,
            radius * (1 + rate),
            size + (2 * clear - value).to(size) / slope.clamp_min(1e-12),  # just across it
        )
        inside = torch.minimum(radius * (1 - rate), smallest)
        radius = torch.minimum(torch.where(wrong, inside, outside), farthest)
        unit = length(free, "l2").clamp_min(1e-12)
        moved = z - x + free * per_image(stride / unit, grad)
        z = (x + project(x, moved, radius.to(x), norm)).clamp(0, 1)
    return nearest


def project(x: Tensor, delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """delta (B, C, H, W) brought to norm at most radius (B,): the nearest such perturbation.

    Under l1 also the nearest with x + delta in the box, which would otherwise swallow all of a step
    that goes to few pixels; under linf and l2 clipping to the box may follow.
    """
    if norm == "linf":
        limit = per_image(radius, delta)
        return torch.minimum(torch.maximum(delta, -limit), limit)
    if norm == "l2":
        size = length(delta, "l2").clamp_min(1e-12)
        return delta * per_image((radius / size).clamp_max(1), delta)
    # Moves, not points: x + d - x would round each of them.
    flat, room = delta.flatten(1), torch.where(delta > 0, 1 - x, x).flatten(1)
    moves = shrunk_l1(flat.abs().double(), room.double(), radius.double())
    return torch.copysign(moves.to(delta), flat).view_as(delta)
