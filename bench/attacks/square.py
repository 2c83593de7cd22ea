"""Square, the black-box attack by random search (Andriushchenko et al. 2020, arXiv 1912.00049).

Every image draws its own squares from its own stream; the published code draws one square for the
whole batch. B images, C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, per_image
from bench.attacks.losses import margin
from bench.attacks.pgd import Model, frozen
from bench.schema import ThreatModel
from bench.streams import Streams

_BLOCK = 50  # queries whose random numbers are drawn together
# After so many queries the share of pixels in a square is halved (paper, section 4).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    queries: int = 5000,
    p_init: float = 0.8,
    restarts: int = 1,
) -> Tensor:
    """Random search on the margin; images leave when misclassified. Returns (B, C, H, W), detached."""
    search = {"linf": _linf, "l2": _l2}[threat.norm]
    ball, x_adv = Ball.around(x.detach(), threat), x.detach().clone()
    standing = torch.arange(len(y), device=y.device)
    with torch.no_grad(), frozen(model):
        for restart in range(restarts):
            drawn = streams[standing].at("restart", restart)
            found, broken = search(model, ball[standing], y[standing], drawn, queries, p_init)
            x_adv[standing[broken]] = found[broken]
            standing = standing[~broken]
            if not len(standing):
                break
    return x_adv


def side(query: int, p_init: float, pixels: int, smallest: int = 1) -> int:
    """Side of the square at a query, for images of so many pixels."""
    share = p_init / 2 ** sum(query > limit for limit in _HALVINGS)
    return max(round(math.sqrt(share * pixels)), smallest)


def _linf(
    model: Model, ball: Ball, y: Tensor, streams: Streams, queries: int, p_init: float
) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) best points and (B,) whether they are misclassified."""
    channels, height, width = ball.x.shape[1:]
    stripes = streams.uniform((channels, 1, width), draw=0) < 0.5
    best = torch.where(stripes, ball.low, ball.high)
    out, broken = best.clone(), torch.zeros(len(y), dtype=torch.bool, device=y.device)
    lowest = -margin(model(best), y)
    active = torch.arange(len(y), device=y.device)
    rows = torch.arange(height, device=y.device)[:, None]
    columns = torch.arange(width, device=y.device)[None, :]
    keep = ~_is_broken(lowest)
    draws = streams.uniform((0,))
    for query in range(queries):
        if not bool(keep.all()):
            gone = active[~keep]
            out[gone], broken[gone] = best[~keep], True
            active, best, lowest = active[keep], best[keep], lowest[keep]
            ball, y, streams = ball[keep], y[keep], streams[keep]
            draws = draws[:, keep] if query % _BLOCK else draws
        if not len(active):
            break
        if query % _BLOCK == 0:
            block = streams.uniform((_BLOCK, 2 + channels), draw=1 + query // _BLOCK)
            draws = block.transpose(0, 1)  # (query, B, 2 + C)
        drawn = draws[query % _BLOCK]
        size = min(side(query, p_init, height * width), height, width)
        top = per_image((drawn[:, 0] * (height - size)).long(), ball.x)
        left = per_image((drawn[:, 1] * (width - size)).long(), ball.x)
        inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
        up = (drawn[:, 2:] < 0.5)[:, :, None, None]
        new = torch.where(inside, torch.where(up, ball.high, ball.low), best)
        value = -margin(model(new), y)
        better = (value < lowest) | _is_broken(value)
        lowest = torch.where(better, value, lowest)
        best = torch.where(per_image(better, best), new, best)
        keep = ~_is_broken(lowest)
    out[active], broken[active] = best, _is_broken(lowest)
    return out, broken


def _is_broken(value: Tensor) -> Tensor:
    """Margin of the true class not positive; NaN counts as broken."""
    return ~(value > 0)


def _l2(
    model: Model, ball: Ball, y: Tensor, streams: Streams, queries: int, p_init: float
) -> tuple[Tensor, Tensor]:
    """As _linf: moves the perturbation's mass between two windows (paper, algorithm 3)."""
    channels, height, width = ball.x.shape[1:]
    best = _l2_start(ball, streams)
    out, broken = best.clone(), torch.zeros(len(y), dtype=torch.bool, device=y.device)
    lowest = -margin(model(best), y)
    active = torch.arange(len(y), device=y.device)
    keep = ~_is_broken(lowest)
    for query in range(queries):
        if not bool(keep.all()):
            gone = active[~keep]
            out[gone], broken[gone] = best[~keep], True
            active, best, lowest = active[keep], best[keep], lowest[keep]
            ball, y, streams = ball[keep], y[keep], streams[keep]
        if not len(active):
            break
        size = side(query, p_init, height * width, smallest=3) | 1  # odd
        size = min(size, height, width)
        new = _l2_proposal(ball, best, streams.uniform((5 + channels,), draw=1000 + query), size)
        value = -margin(model(new), y)
        better = (value < lowest) | _is_broken(value)
        lowest = torch.where(better, value, lowest)
        best = torch.where(per_image(better, best), new, best)
        keep = ~_is_broken(lowest)
    out[active], broken[active] = best, _is_broken(lowest)
    return out, broken


def _l2_proposal(ball: Ball, best: Tensor, drawn: Tensor, size: int) -> Tensor:
    channels, height, width = ball.x.shape[1:]
    delta = best - ball.x
    place = [(drawn[:, i] * (side - size)).long() for i, side in
             enumerate((height, width, height, width))]  # fmt: skip
    to = _window(place[0], place[1], size, channels)
    source = _window(place[2], place[3], size, channels)
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


def _window(top: Tensor, left: Tensor, size: int, channels: int) -> tuple[Tensor, ...]:
    """Indices (B, C, size, size) of one window an image."""
    reach = torch.arange(size, device=top.device)
    image = torch.arange(len(top), device=top.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=top.device).view(1, -1, 1, 1)
    rows = (top[:, None] + reach).view(len(top), 1, size, 1)
    columns = (left[:, None] + reach).view(len(top), 1, 1, size)
    return image, channel, rows, columns


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
