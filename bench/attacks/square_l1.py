"""What Square does under L1 (Croce & Hein 2021, arXiv 2103.01208, after 1912.00049).

A query moves the perturbation's mass between two windows and projects it on the ball and the box.
B images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.attacks.geometry import window
from bench.attacks.l1 import project_l1


def square_l1_start(x: Tensor, eps: float, signs: Tensor, flips: Tensor) -> Tensor:
    """A grid of bumps, each of L1 length 1 with a random sign a channel, projected.

    x (B, C, H, W); uniform numbers signs (B, C, H // s, W // s) and flips (B, H // s, W // s), where
    s = H // 5 is the side of a bump. The grid is not scaled to eps: in a large ball it lies inside.
    """
    height, width = x.shape[2:]
    size = max(height // 5, 1)
    corner = max((height - size * 5) // 2, 0)
    bumps = _signed_bumps(
        size, signs[..., None, None], flips[:, None], x
    )  # (B, C, down, across, …)
    grid = (
        bumps.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, : height - corner, : width - corner]
    )
    delta = torch.zeros_like(x)
    delta[:, :, corner : corner + grid.shape[2], corner : corner + grid.shape[3]] = grid
    return project_l1(x, x + delta, eps)


def square_l1_proposal(x: Tensor, best: Tensor, drawn: Tensor, size: int, eps: float) -> Tensor:
    """A candidate (B, C, H, W): the mass of two windows of best, moved into the first.

    drawn (B, 5 + C) uniform numbers: the corners of both windows, the bump's direction and a sign a
    channel. Each channel takes the mass of both its windows and its part of what is left of eps,
    times C as published; the projection takes back what is too much.
    """
    channels, height, width = x.shape[1:]
    delta = best - x
    places = [(drawn[:, i] * (length - size)).long() for i, length in
              enumerate((height, width, height, width))]  # fmt: skip
    to, source = (window(places[i], places[i + 1], size, channels) for i in (0, 2))
    both = torch.zeros_like(delta, dtype=torch.bool)
    both[to], both[source] = True, True
    mass = (delta * both).abs().sum((2, 3), keepdim=True)
    unused = (eps - delta.abs().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    fresh = _signed_bumps(size, drawn[:, 5:, None, None], drawn[:, 4:5], x) + _unit(delta[to])
    delta[source] = 0
    delta[to] = _unit(fresh) * (unused / channels + mass) * channels
    return project_l1(x, x + delta, eps)


def _unit(pieces: Tensor) -> Tensor:
    """Pieces (…, s, s) at L1 length 1, or 0 where they are."""
    return pieces / (1e-12 + pieces.abs().sum((-2, -1), keepdim=True))


def _signed_bumps(size: int, signs: Tensor, flips: Tensor, like: Tensor) -> Tensor:
    """The bump (…, size, size), upright or lying, positive or negative, by uniform numbers."""
    bump = bump_l1(size).to(like)
    bump = torch.where(flips[..., None, None] > 0.5, bump.T, bump)
    return bump * torch.where(signs < 0.5, -1.0, 1.0).to(like)


def bump_l1(size: int) -> Tensor:
    """The bump (size, size) of L1 length 1: two halves of opposite sign and equal mass."""
    if size == 1:
        return torch.ones(1, 1)
    bump = torch.cat([_half(size // 2, size), -_half(size - size // 2, size)])
    return bump / bump.abs().sum()


def _half(height: int, width: int) -> Tensor:
    """Concentric rectangles with weights 1, 1/16, 1/81 … from the centre, L1 length 1."""
    plane = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for ring in range(max(row, column) + 1):
        top, left = max(row - ring, 0), max(column - ring, 0)
        plane[top : row + ring + 1, left : column + ring + 1] += 1.0 / (ring + 1) ** 4
    return plane / plane.abs().sum()
