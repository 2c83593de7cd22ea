"""Square under L1, the random search of Croce & Hein 2021 (arXiv 2103.01208, after 1912.00049).

A query moves the perturbation's mass between two windows and projects it on the ball and the box. As in
square.py, every image draws its own windows from its own stream; the published code draws one pair of
windows for the whole batch. B images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.attacks.geometry import per_image
from bench.attacks.l1 import project_l1
from bench.attacks.losses import margin
from bench.attacks.pgd import Model, frozen
from bench.attacks.square import side
from bench.schema import ThreatModel
from bench.streams import Streams

_BLOCK = 50  # queries whose random numbers are drawn together


def square_l1(
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
    x, x_adv = x.detach(), x.detach().clone()
    standing = torch.arange(len(y), device=y.device)
    with torch.no_grad(), frozen(model):
        for restart in range(restarts):
            drawn = streams[standing].at("restart", restart)
            found, broken = _search(
                model, x[standing], y[standing], threat.epsilon, drawn, queries, p_init
            )
            x_adv[standing[broken]] = found[broken]
            standing = standing[~broken]
            if not len(standing):
                break
    return x_adv


def _search(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    streams: Streams,
    queries: int,
    p_init: float,
) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) best points and (B,) whether they are misclassified."""
    channels, height, width = x.shape[1:]
    bump = max(height // 5, 1)
    cells = (height // bump, width // bump)
    best = square_l1_start(
        x, eps, streams.uniform((channels, *cells)), streams.uniform(cells, draw=1)
    )
    out, broken = best.clone(), torch.zeros(len(y), dtype=torch.bool, device=y.device)
    lowest = -margin(model(best), y)
    active = torch.arange(len(y), device=y.device)
    keep = _stands(lowest)
    draws = streams.uniform((0,))
    for query in range(queries):
        if not bool(keep.all()):
            gone = active[~keep]
            out[gone], broken[gone] = best[~keep], True
            active, best, lowest = active[keep], best[keep], lowest[keep]
            x, y, streams = x[keep], y[keep], streams[keep]
            draws = draws[:, keep] if query % _BLOCK else draws
        if not len(active):
            break
        if query % _BLOCK == 0:
            block = streams.uniform((_BLOCK, 5 + channels), draw=2 + query // _BLOCK)
            draws = block.transpose(0, 1)  # (query, B, 5 + C)
        size = min(side(query, p_init, height * width, smallest=3) | 1, height, width)  # odd
        new = square_l1_proposal(x, best, draws[query % _BLOCK], size, eps)
        value = -margin(model(new), y)
        better = (value < lowest) | ~_stands(value)
        lowest = torch.where(better, value, lowest)
        best = torch.where(per_image(better, best), new, best)
        keep = _stands(lowest)
    out[active], broken[active] = best, ~_stands(lowest)
    return out, broken


def _stands(value: Tensor) -> Tensor:
    """Margin of the true class positive; NaN counts as broken."""
    return value > 0


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
    to, source = (_window(places[i], places[i + 1], size, channels, delta.device) for i in (0, 2))
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


def _window(
    top: Tensor, left: Tensor, size: int, channels: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of one window (size, size) an image; they broadcast to (B, C, size, size)."""
    reach = torch.arange(size, device=device)
    image = torch.arange(len(top), device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    rows = (top[:, None] + reach).view(-1, 1, size, 1)
    columns = (left[:, None] + reach).view(-1, 1, 1, size)
    return image, channel, rows, columns


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
