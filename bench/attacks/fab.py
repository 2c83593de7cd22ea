"""FAB-T, the targeted fast adaptive boundary attack (Croce & Hein 2020, arXiv 1907.02044).

It walks along the linearised decision boundary towards the image. Here it is asked only whether a
misclassified point lies within eps, so an image leaves as soon as one does. All targets of an image
walk at the same time. R rows (image x target), D = C * H * W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.attacks.geometry import distance, per_image
from bench.attacks.losses import Loss, fooled, likeliest_wrong
from bench.attacks.pgd import Model, frozen, logits_and_gradient
from bench.schema import ThreatModel
from bench.streams import Streams

ROWS = 512  # rows that walk at once; a tuning constant of speed, not of the outcome
ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9  # bias to the image, overshoot, step back (paper, section 4)


def fab_t(
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
    """FAB towards each of the likeliest wrong classes; the first point within eps counts.

    Returns (B, C, H, W), detached; the clean image where no such point was found.
    """
    x, x_adv = x.detach(), x.detach().clone()
    standing = torch.arange(len(y), device=y.device)
    with torch.no_grad():
        wrong = likeliest_wrong(model(x), y, targets)
    with frozen(model):
        for restart in range(restarts):
            left = []
            for chunk in standing.split(max(1, ROWS // targets)):
                found = _walk(
                    model, x[chunk], y[chunk], wrong[chunk], threat,
                    streams[chunk].at("restart", restart) if restart else None, steps,
                )  # fmt: skip
                broken = (found != x[chunk]).flatten(1).any(1)
                x_adv[chunk[broken]] = found[broken]
                left.append(chunk[~broken])
            standing = torch.cat(left) if left else standing
            if not len(standing):
                break
    return x_adv


def _walk(
    model: Model,
    images: Tensor,
    y: Tensor,
    targets: Tensor,
    threat: ThreatModel,
    streams: Streams | None,
    steps: int,
) -> Tensor:
    """One restart over (B, T) targets: points within eps where found, else the images."""
    found = images.clone()
    broken = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    owner = torch.arange(len(y), device=y.device).repeat_interleave(targets.shape[1])
    target = targets.flatten()
    x, labels = images[owner], y[owner]
    z = x if streams is None else _random_start(images, threat, streams)[owner]
    for _ in range(steps):
        _, gap, grad = logits_and_gradient(model, z, labels, _gap_towards(target))
        z = _towards_boundary(x, z, gap, grad, threat.norm)
        with torch.no_grad():
            wrong = fooled(model(z), labels)
        hit = wrong & (distance(x, z, threat.norm) <= threat.epsilon)
        if bool(hit.any()):
            places = owner[hit].flip(0)
            found[places] = z[hit].flip(0)
            broken[places] = True
            keep = ~broken[owner]
            if not bool(keep.any()):
                break
            owner, target, x, labels = owner[keep], target[keep], x[keep], labels[keep]
            z, wrong = z[keep], wrong[keep]
        z = torch.where(per_image(wrong, z), x + (z - x) * BETA, z)
    return found


def _gap_towards(target: Tensor) -> Loss:
    """The loss z_target - z_y: positive where the target wins."""

    def gap(logits: Tensor, y: Tensor) -> Tensor:
        return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]

    return gap


def _random_start(x: Tensor, threat: ThreatModel, streams: Streams) -> Tensor:
    """A point at half the radius, for restarts after the first."""
    shape = tuple(x.shape[1:])
    if threat.norm == "linf":
        noise = (2 * streams.uniform(shape) - 1).to(x)
    else:
        noise = streams.normal(shape).to(x)
    size = distance(torch.zeros_like(noise), noise, threat.norm).to(x).clamp_min(1e-12)
    return (x + noise * per_image(0.5 * threat.epsilon / size, x)).clamp(0, 1)


def _towards_boundary(x: Tensor, z: Tensor, gap: Tensor, grad: Tensor, norm: str) -> Tensor:
    """One step: project z and x on the linearised boundary, overshoot, lean to x (eq. 9 and 10)."""
    w, start, flat = grad.flatten(1), x.flatten(1), z.flatten(1)
    offset = (w * flat).sum(1) - gap  # the boundary is {p : w . p = offset}
    both = project_on_plane(
        torch.cat([flat, start]), torch.cat([w, w]), torch.cat([offset, offset]), norm
    )
    from_z, from_x = both.chunk(2)
    size_z, size_x = (_size(d, norm).clamp_min(1e-8) for d in (from_z, from_x))
    alpha = (size_z / (size_z + size_x)).clamp(0, ALPHA_MAX)[:, None]
    moved = (flat + ETA * from_z) * (1 - alpha) + (start + ETA * from_x) * alpha
    return moved.clamp(0, 1).view_as(z)


def _size(delta: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return delta.abs().amax(1)
    return delta.norm(dim=1) if norm == "l2" else delta.abs().sum(1)


def project_on_plane(p: Tensor, w: Tensor, offset: Tensor, norm: str) -> Tensor:
    """The shortest moves (R, D) that take p (R, D) to the plane w . p = offset inside [0, 1]^D.

    Where the box does not reach the plane, the move goes as near as it can. Every coordinate may
    only move against the sign of the distance, by at most its room, so the length of a move is found
    on a sorted, piecewise linear curve (arXiv 1907.02044, section 2).
    """
    away = (w * p).sum(1) - offset  # signed; to be brought to 0
    slope = w * torch.where(away >= 0, 1.0, -1.0)[:, None]
    need, rate = away.abs(), slope.abs()
    room = torch.where(slope > 0, p, 1 - p) * (rate > 0)
    if norm == "linf":
        length = _linf_length(rate, room, need)[:, None]
        return -slope.sign() * torch.minimum(room, length)
    if norm == "l2":
        scale = _l2_scale(rate, room, need)[:, None]
        return -slope.sign() * torch.minimum(room, scale * rate)
    return -slope.sign() * _l1_moves(rate, room, need)


def _linf_length(rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """t with sum_i rate_i * min(t, room_i) = need."""
    room, order = room.sort(dim=1)
    rate = rate.gather(1, order)
    full = (rate * room).cumsum(1)  # gained by coordinates that used up their room
    behind = rate.flip(1).cumsum(1).flip(1)  # slope of those from here on
    gained = full - rate * room + behind * room  # at t = room_i
    return _interpolated(need, gained, room, full - rate * room, behind)


def _l2_scale(rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """s with sum_i rate_i * min(s * rate_i, room_i) = need."""
    turn = torch.where(rate > 0, room / rate.clamp_min(1e-30), 0.0)
    turn, order = turn.sort(dim=1)
    rate, room = rate.gather(1, order), room.gather(1, order)
    full = (rate * room).cumsum(1)
    behind = rate.square().flip(1).cumsum(1).flip(1)
    gained = full - rate * room + behind * turn
    return _interpolated(need, gained, turn, full - rate * room, behind)


def _interpolated(
    need: Tensor, gained: Tensor, at: Tensor, before: Tensor, slope: Tensor
) -> Tensor:
    """Where the rising curve through (at_i, gained_i) reaches need; its end where it never does."""
    place = torch.searchsorted(gained.contiguous(), need[:, None]).clamp_max(gained.shape[1] - 1)
    here = (need[:, None] - before.gather(1, place)) / slope.gather(1, place).clamp_min(1e-30)
    return torch.minimum(here, at.gather(1, place))[:, 0].clamp_min(0)


def _l1_moves(rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The steepest coordinates first, each by its room, until need is met."""
    steep, order = rate.sort(dim=1, descending=True)
    space = room.gather(1, order)
    gained = (steep * space).cumsum(1)
    missing = (need[:, None] - (gained - steep * space)).clamp_min(0)
    moves = torch.minimum(space, missing / steep.clamp_min(1e-30))
    return torch.zeros_like(room).scatter(1, order, moves)
