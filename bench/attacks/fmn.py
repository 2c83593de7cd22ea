"""FMN, the fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827, algorithm 1).

It walks along the decision boundary in a ball whose radius shrinks while the iterate is misclassified
and grows while it is not, so one run answers for every radius at once. B images, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.attacks.geometry import distance, per_image
from bench.attacks.l1 import shrunk_l1
from bench.attacks.losses import fooled, margin
from bench.attacks.pgd import Model, frozen, logits_and_gradient
from bench.attacks.rows import DEFAULT, Search
from bench.schema import ThreatModel
from bench.schema.threat import Norm
from bench.streams import Streams

_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
# Points on the very boundary are in other batches, or in float64, on its other side. So much margin,
# relative to the logits, keeps a point; it is ten times the rounding seen between batch sizes.
CLEAR = 1e-5


def fmn(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    steps: int = 100,
    step: float = 1.0,
    final_step: float = 0.01,
    gamma: float = 0.05,
    final_gamma: float = 0.001,
    search: Search = DEFAULT,
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
    x = x.detach()
    parts = zip(x.split(search.rows), y.split(search.rows), strict=True)
    with frozen(model):
        found = [
            _walk(model, part, labels, threat.norm, steps, (step, final_step), (gamma, final_gamma),
                  search)
            for part, labels in parts
        ]  # fmt: skip
    return torch.cat(found) if found else x


def _walk(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    steps: int,
    lengths: tuple[float, float],
    rates: tuple[float, float],
    search: Search,
) -> Tensor:
    z, nearest = x, x.clone()
    farthest = distance(x, (x < 0.5).to(x), norm)  # the corner of the box that is farthest away
    smallest = torch.full_like(farthest, torch.inf)
    radius = smallest
    for k in range(steps):
        search.tick()
        cosine = (1 + math.cos(math.pi * k / steps)) / 2
        rate = rates[1] + (rates[0] - rates[1]) * cosine
        length = lengths[1] + (lengths[0] - lengths[1]) * cosine
        logits, value, grad = logits_and_gradient(model, z, y, margin)
        clear = CLEAR * (1 + logits.abs().amax(1))
        wrong = fooled(logits, y)
        if k:  # the image itself needs no clearance
            wrong &= (value >= clear) | ~torch.isfinite(logits).all(1)
        size = distance(x, z, norm)
        better = wrong & (size < smallest)
        smallest = torch.where(better, size, smallest)
        nearest = torch.where(per_image(better, z), z, nearest)
        blocked = (z <= 0) & (grad < 0) | (z >= 1) & (grad > 0)  # the box ends here
        free = torch.where(blocked, 0, grad)
        slope = distance(torch.zeros_like(free), free, _DUAL[norm])
        outside = torch.where(
            smallest < torch.inf,
            radius * (1 + rate),
            size + (2 * clear - value).to(size) / slope.clamp_min(1e-12),  # just across it
        )
        inside = torch.minimum(radius * (1 - rate), smallest)
        radius = torch.minimum(torch.where(wrong, inside, outside), farthest)
        unit = free.flatten(1).norm(dim=1).clamp_min(1e-12)
        moved = z - x + free * per_image(length / unit, grad)
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
    flat = delta.flatten(1)
    if norm == "l2":
        size = flat.norm(dim=1).clamp_min(1e-12)
        return delta * per_image((radius / size).clamp_max(1), delta)
    # Moves, not points: x + d - x would round each of them.
    room = torch.where(delta > 0, 1 - x, x).flatten(1)
    moves = shrunk_l1(flat.abs().double(), room.double(), radius.double())
    return torch.copysign(moves.to(delta), flat).view_as(delta)
