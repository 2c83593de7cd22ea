"""Norm balls and the pixel box: distances, projections, random starts, steepest ascent.

B images, C channels, H, W. eps is a fraction of the pixel range [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.schema import InvalidInput, Protocol, ThreatModel
from bench.streams import Streams


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped to broadcast over images (B, C, H, W)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def distance(x: Tensor, x_adv: Tensor, norm: str) -> Tensor:
    """(B,) float64 distances between two batches of images."""
    delta = (x_adv.detach().to(torch.float64) - x.detach().to(torch.float64)).flatten(1)
    if not delta.shape[1]:
        return delta.sum(1)
    if norm == "linf":
        return delta.abs().amax(1)
    return delta.norm(dim=1) if norm == "l2" else delta.abs().sum(1)


def admissible(x: Tensor, x_adv: Tensor, threat: ThreatModel, protocol: Protocol) -> Tensor:
    """(B,) bool: inside the ball with the protocol's tolerance, and exactly inside [0, 1]."""
    if threat.norm == "linf":
        limit = threat.epsilon + protocol.linf_tolerance
    else:
        limit = threat.epsilon * (1 + protocol.lp_tolerance)
    flat = x_adv.detach().flatten(1)
    in_box = ((flat >= 0) & (flat <= 1)).all(1)  # also refuses NaN
    return in_box & (distance(x, x_adv, threat.norm) <= limit)


def window(top: Tensor, left: Tensor, size: int, channels: int) -> tuple[Tensor, ...]:
    """Indices (B, C, size, size) of one window an image."""
    reach = torch.arange(size, device=top.device)
    image = torch.arange(len(top), device=top.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=top.device).view(1, -1, 1, 1)
    rows = (top[:, None] + reach).view(len(top), 1, size, 1)
    columns = (left[:, None] + reach).view(len(top), 1, 1, size)
    return image, channel, rows, columns


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

    @classmethod
    def box(cls, x: Tensor, threat: ThreatModel) -> Ball:
        """The radius beside the box alone, for norms whose projection is elsewhere (l1.py)."""
        return cls(x, threat.norm, threat.epsilon, torch.zeros_like(x), torch.ones_like(x))

    def __getitem__(self, index: Tensor) -> Ball:
        return Ball(self.x[index], self.norm, self.eps, self.low[index], self.high[index])

    def project(self, z: Tensor) -> Tensor:
        """The nearest admissible images (Linf); into the ball, then the box (L2)."""
        if self.norm == "l2":
            delta = z - self.x
            size = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            z = self.x + delta * per_image((self.eps / size).clamp_max(1), delta)
        return torch.minimum(torch.maximum(z, self.low), self.high)

    def random_start(self, streams: Streams) -> Tensor:
        """Uniform in the cube (Linf) or in the ball (L2), clipped to [0, 1]."""
        shape = tuple(self.x.shape[1:])
        if self.norm == "linf":
            return self.project(self.x + self.eps * (2 * streams.uniform(shape) - 1).to(self.x))
        direction = streams.normal(shape).to(self.x)
        size = direction.flatten(1).norm(dim=1).clamp_min(1e-12)
        radius = streams.uniform((1,), draw=1)[:, 0].to(self.x) ** (1 / self.x[0].numel())
        return self.project(self.x + direction * per_image(self.eps * radius / size, self.x))

    def ascent(self, grad: Tensor) -> Tensor:
        """The unit-length direction in which the linearised loss grows fastest."""
        if self.norm == "linf":
            return grad.sign()
        size = grad.flatten(1).norm(dim=1)
        # A zero gradient gives a zero step, not NaN.
        return grad * per_image(torch.where(size > 0, 1 / size.clamp_min(1e-30), size), grad)
