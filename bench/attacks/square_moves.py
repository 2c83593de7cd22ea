"""What Square tries under each norm: where it starts, and the squares it proposes.

Andriushchenko et al. 2020 (arXiv 1912.00049), algorithms 2 and 3. B images, C channels, H x W pixels; R
rows, each a proposal of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, per_image, window
from bench.attacks.square_l1 import square_l1_proposal, square_l1_start
from bench.streams import Streams

# After so many queries the share of pixels in a square is halved (paper, section 4).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Moves:
    """What Square does under one norm."""

    start: Callable[[Ball, Streams], Tensor]  # (B, C, H, W)
    # (ball, draws (queries, B, draws), size) -> the proposals of a stretch of queries
    plan: Callable[[Ball, Tensor, int], Propose]
    size: Callable[[int, float, int, int], int]  # (query, p_init, height, width) -> side
    draws: Callable[[int], int]  # random numbers a query, for so many channels


# (best (B, C, H, W), which images (R,), at which query of the stretch (R,)) -> (R, C, H, W)
Propose = Callable[[Tensor, Tensor, Tensor], Tensor]


def side(query: int, p_init: float, pixels: int, smallest: int = 1) -> int:
    """Side of the square at a query, for images of so many pixels."""
    share = p_init / 2 ** sum(query > limit for limit in _HALVINGS)
    return max(round(math.sqrt(share * pixels)), smallest)


def _linf_start(ball: Ball, streams: Streams) -> Tensor:
    """Vertical stripes of +-eps."""
    channels, _, width = ball.x.shape[1:]
    stripes = streams.uniform((channels, 1, width), draw=0) < 0.5
    return torch.where(stripes, ball.low, ball.high)


def _linf_plan(ball: Ball, draws: Tensor, size: int) -> Propose:
    """One square an image and query, at +eps or -eps in each channel.

    What a stretch of queries needs is computed at once: a query alone would be all overhead.
    """
    channels, height, width = ball.x.shape[1:]
    pixels = height * width
    corner = (draws[..., 0] * (height - size)).long() * width
    corner = corner + (draws[..., 1] * (width - size)).long()  # (queries, B)
    # Both ends of the ball side by side: +eps lies C * H * W further on.
    up = (draws[..., 2:] < 0.5).long() * (channels * pixels)  # (queries, B, C)
    ends = torch.cat([ball.low.flatten(1), ball.high.flatten(1)], 1).flatten()
    channel = torch.arange(channels, device=draws.device)[:, None] * pixels
    reach = torch.arange(size, device=draws.device)
    offsets = channel + (reach[:, None] * width + reach).flatten()  # (C, size * size)

    def propose(best: Tensor, who: Tensor, step: Tensor) -> Tensor:
        places = corner[step, who][:, None, None] + offsets  # (R, C, size * size)
        source = places + (up[step, who] + who[:, None] * (2 * channels * pixels))[:, :, None]
        new = best[who]
        values = ends.index_select(0, source.flatten()).view(len(who), -1)
        new.view(len(who), -1).scatter_(1, places.flatten(1), values)
        return new

    return propose


def _wholly(proposal: Callable[[Ball, Tensor, Tensor, int], Tensor]) -> Callable[..., Propose]:
    """A plan whose proposals are whole images."""

    def plan(ball: Ball, draws: Tensor, size: int) -> Propose:
        return lambda best, who, step: proposal(ball[who], best[who], draws[step, who], size)

    return plan


def _linf_size(query: int, p_init: float, height: int, width: int) -> int:
    return min(side(query, p_init, height * width), height, width)


def _odd_size(query: int, p_init: float, height: int, width: int) -> int:
    """Odd, and at least 3."""
    return min(side(query, p_init, height * width, smallest=3) | 1, height, width)


def _l2_proposal(ball: Ball, best: Tensor, drawn: Tensor, size: int) -> Tensor:
    """Moves the perturbation's mass between two windows (paper, algorithm 3)."""
    channels, height, width = ball.x.shape[1:]
    delta = best - ball.x
    place = [(drawn[:, i] * (side - size)).long() for i, side in
             enumerate((height, width, height, width))]  # fmt: skip
    to = window(place[0], place[1], size, channels)
    source = window(place[2], place[3], size, channels)
    rooms = torch.zeros_like(delta, dtype=torch.bool)
    rooms[source] = True
    rooms[to] = True
    mass = (delta * rooms).square().sum((2, 3), keepdim=True)  # in both windows
    old = delta[to]
    bump = eta(size, delta)
    bump = torch.where((drawn[:, 4] > 0.5).view(-1, 1, 1), bump.T, bump)[:, None]
    sign = torch.where(drawn[:, 5:] < 0.5, -1.0, 1.0).to(delta)[:, :, None, None]
    fresh = bump * sign + old / (1e-12 + old.square().sum((2, 3), keepdim=True).sqrt())
    unused = (ball.eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    length = (unused / channels + mass).sqrt()
    fresh = fresh / (1e-12 + fresh.square().sum((2, 3), keepdim=True).sqrt()) * length
    delta = delta.clone()
    delta[source] = 0
    delta[to] = fresh
    return _on_sphere(ball, delta)


def _on_sphere(ball: Ball, delta: Tensor) -> Tensor:
    size = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
    return ball.project(ball.x + delta * per_image(ball.eps / size, delta))


def _l2_start(ball: Ball, streams: Streams) -> Tensor:
    """A 5 x 5 grid of bumps with random signs."""
    channels, height, width = ball.x.shape[1:]
    size = max(height // 5, 1)
    down, across = height // size, width // size
    signs = torch.where(streams.uniform((channels, down, across)) < 0.5, -1.0, 1.0).to(ball.x)
    flips = streams.uniform((down, across), draw=1) > 0.5
    delta = torch.zeros_like(ball.x)
    margin_rows = (height - size * 5) // 2 if height >= 5 else 0
    bump = eta(size, delta)
    for i in range(down):
        for j in range(across):
            top, left = margin_rows + i * size, margin_rows + j * size
            piece = torch.where(flips[:, i, j].view(-1, 1, 1), bump.T, bump)[:, None]
            window = delta[:, :, top : top + size, left : left + size]
            window += (piece * signs[:, :, i, j][:, :, None, None])[
                :, :, : window.shape[2], : window.shape[3]
            ]
    return _on_sphere(ball, delta)


def eta(size: int, like: Tensor) -> Tensor:
    """The bump (size, size) of unit length: two halves of opposite sign (paper, eq. 3)."""
    if size == 1:
        return torch.ones(1, 1, device=like.device, dtype=like.dtype)
    top = _half(size // 2, size)
    bottom = _half(size - size // 2, size)
    bump = torch.cat([top, -bottom])
    return (bump / bump.norm()).to(like)


def _half(height: int, width: int) -> Tensor:
    """Concentric rectangles with weights 1, 1/4, 1/9 … from the centre, unit length."""
    plane = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for ring in range(max(height // 2 + 1, width // 2 + 1)):
        top, left = max(row - ring, 0), max(column - ring, 0)
        plane[top : row + ring + 1, left : column + ring + 1] += 1.0 / (ring + 1) ** 2
    return plane / plane.norm()


def _l1_start(ball: Ball, streams: Streams) -> Tensor:
    channels, height, width = ball.x.shape[1:]
    bump = max(height // 5, 1)
    cells = (height // bump, width // bump)
    signs, flips = streams.uniform((channels, *cells)), streams.uniform(cells, draw=1)
    return square_l1_start(ball.x, ball.eps, signs, flips)


def _l1_proposal(ball: Ball, best: Tensor, drawn: Tensor, size: int) -> Tensor:
    return square_l1_proposal(ball.x, best, drawn, size, ball.eps)


MOVES: dict[str, Moves] = {
    "linf": Moves(_linf_start, _linf_plan, _linf_size, lambda channels: 2 + channels),
    "l2": Moves(_l2_start, _wholly(_l2_proposal), _odd_size, lambda channels: 5 + channels),
    "l1": Moves(_l1_start, _wholly(_l1_proposal), _odd_size, lambda channels: 5 + channels),
}
