"""Norm balls and the pixel box: distances, projections, random starts, steepest ascent.

B images, C channels, H, W, D = C * H * W. eps is a fraction of the pixel range [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.schema import InvalidInput, Protocol, ThreatModel
from bench.stats.curve import largest_admissible
from bench.streams import Streams

_INSIDE = 1 - 1e-9  # of an L1 radius is aimed at: more than float64 sums are wrong by


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped to broadcast over images (B, C, H, W)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def length(delta: Tensor, norm: str) -> Tensor:
    """(B,) norms of perturbations (B, ...), in their own precision."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)


def distance(x: Tensor, x_adv: Tensor, norm: str) -> Tensor:
    """(B,) float64 distances between two batches of images."""
    return length(x_adv.detach().to(torch.float64) - x.detach().to(torch.float64), norm)


def admissible(x: Tensor, x_adv: Tensor, threat: ThreatModel, protocol: Protocol) -> Tensor:
    """(B,) bool: inside the ball with the protocol's tolerance, and exactly inside [0, 1]."""
    limit = largest_admissible(threat.epsilon, norm=threat.norm, protocol=protocol)
    flat = x_adv.detach().flatten(1)
    in_box = ((flat >= 0) & (flat <= 1)).all(1)  # also refuses NaN
    return in_box & (distance(x, x_adv, threat.norm) <= limit)


def noise(x: Tensor, norm: str, streams: Streams) -> Tensor:
    """A random perturbation (B, C, H, W): uniform in [-1, 1) (Linf), else standard normal."""
    shape = tuple(x.shape[1:])
    drawn = 2 * streams.uniform(shape) - 1 if norm == "linf" else streams.normal(shape)
    return drawn.to(x)


@dataclass(frozen=True)
class Ball:
    """The admissible set around each image of x (B, C, H, W), with strictly inside projections."""

    x: Tensor
    norm: str
    eps: float
    low: Tensor  # the float32 box: [0, 1], and under Linf also [x - eps, x + eps] rounded inwards
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, threat: ThreatModel) -> Ball:
        """Raises InvalidInput for norms without a Euclidean-style projection here."""
        if threat.norm == "l1":
            raise InvalidInput("PGD and FGSM are defined under linf and l2; l1 needs AutoAttack")
        if threat.norm == "l2":
            # 5e-7 covers float32 rounding of the norm, so that the projection stays inside.
            bounds = torch.zeros_like(x), torch.ones_like(x)
            return cls(x, "l2", threat.epsilon * (1 - 5e-7), *bounds)
        exact = x.to(torch.float64)
        low, high = (exact - threat.epsilon).clamp_min(0), (exact + threat.epsilon).clamp_max(1)
        low32, high32 = low.to(x.dtype), high.to(x.dtype)
        infinity = torch.full_like(x, torch.inf)
        low32 = torch.where(low32 < low, torch.nextafter(low32, infinity), low32)
        high32 = torch.where(high32 > high, torch.nextafter(high32, -infinity), high32)
        return cls(x, "linf", threat.epsilon, low32, high32)

    def __getitem__(self, index: Tensor) -> Ball:
        return Ball(self.x[index], self.norm, self.eps, self.low[index], self.high[index])

    def project(self, z: Tensor) -> Tensor:
        """The nearest admissible images (Linf); into the ball, then the box (L2)."""
        if self.norm == "l2":
            delta = z - self.x
            size = length(delta, "l2").clamp_min(1e-12)
            z = self.x + delta * per_image((self.eps / size).clamp_max(1), delta)
        return torch.minimum(torch.maximum(z, self.low), self.high)

    def random_start(self, streams: Streams) -> Tensor:
        """Uniform in the cube (Linf) or in the ball (L2), clipped to [0, 1]."""
        direction = noise(self.x, self.norm, streams)
        if self.norm == "linf":
            return self.project(self.x + self.eps * direction)
        size = length(direction, "l2").clamp_min(1e-12)
        radius = streams.uniform((1,), draw=1)[:, 0].to(self.x) ** (1 / self.x[0].numel())
        return self.project(self.x + direction * per_image(self.eps * radius / size, self.x))

    def on_surface(self, delta: Tensor) -> Tensor:
        """x + delta (B, C, H, W) scaled to the distance eps, then clipped."""
        size = length(delta, self.norm).clamp_min(1e-12)
        return self.project(self.x + delta * per_image(self.eps / size, delta))

    def ascent(self, grad: Tensor) -> Tensor:
        """The unit-length direction in which the linearised loss grows fastest."""
        if self.norm == "linf":
            return grad.sign()
        size = length(grad, "l2")
        # A zero gradient gives a zero step, not NaN.
        return grad * per_image(torch.where(size > 0, 1 / size.clamp_min(1e-30), size), grad)


def project_l1(x: Tensor, z: Tensor, eps: float | Tensor) -> Tensor:
    """The nearest points (B, C, H, W) to z with 0 <= p <= 1 and ||p - x||_1 <= eps.

    x in [0, 1]; eps a number or (B,). The distance, summed in float64, is at most eps: points are
    rounded towards x. Components that should not move are exactly those of x, and an image that is
    inside comes back as it is (Croce & Hein 2021, arXiv 2103.01208, section 3).
    """
    start, far = x.flatten(1).to(torch.float64), z.flatten(1).to(torch.float64)
    away = far - start
    room = torch.where(away > 0, 1 - start, start)
    reach = away.abs()
    size = torch.as_tensor(eps, dtype=torch.float64, device=x.device).expand(len(x))
    outside = torch.minimum(reach, room).sum(1) > size
    clipped = z.clamp(0, 1)
    if not bool(outside.any()):
        return clipped
    moves = shrunk_l1(reach, room, size)
    point = (torch.copysign(moves, away) + start).to(x.dtype)
    too_far = (point.to(torch.float64) - start).abs() > moves
    point = torch.where(too_far, torch.nextafter(point, x.flatten(1)), point)
    return torch.where(per_image(outside, x), point.view_as(x), clipped)


def shrunk_l1(reach: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """(B, D) moves min(max(reach - shift, 0), room), with the shift (B,) that makes their sum eps.

    reach, room (B, D) and eps (B,) are float64. No shift where the sum is small enough without.
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
