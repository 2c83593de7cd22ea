"""Square, the black-box attack by random search (Andriushchenko et al. 2020, arXiv 1912.00049).

Every image draws its own squares from its own stream; the published code draws one square for the
whole batch. Most proposals are refused, so where few images are left several proposals of one image go
through the network at once, and count until the first that is accepted: the walk is the same, in fuller
batches. The L1 form is that of Croce & Hein 2021, arXiv 2103.01208. B images, C channels, H x W pixels;
R rows, each a proposal of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, project_l1
from bench.attacks.losses import margin
from bench.attacks.problem import Problem
from bench.attacks.rows import restarted
from bench.streams import Streams

# After so many queries the share of pixels in a square is halved (paper, section 4).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BLOCK = 50  # queries whose random numbers are drawn together
_STRETCH = 5 * _BLOCK  # queries after which the images of a batch wait for each other, at most
# Of the proposals looked at ahead so many, at most, are expected to come after an accepted one.
_WASTED = 0.1

# (best (B, C, H, W), which images (R,), at which query of the stretch (R,)) -> (R, C, H, W)
Propose = Callable[[Tensor, Tensor, Tensor], Tensor]


def square(
    problem: Problem, *, queries: int = 5000, p_init: float = 0.8, restarts: int = 1
) -> Tensor:
    """Random search on the margin; images leave when misclassified. Returns (B, C, H, W), detached."""
    x, threat = problem.x, problem.threat
    if threat.norm == "l1":
        ball = Ball(x, "l1", threat.epsilon, torch.zeros_like(x), torch.ones_like(x))
    else:
        ball = Ball.around(x, threat)

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        return _walk(problem.at(places, "restart", restart), ball[places], queries, p_init)

    with torch.no_grad():
        return restarted(problem, restarts, attempt, at_once=problem.search.rows)


def _walk(problem: Problem, ball: Ball, queries: int, p_init: float) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) the points that are misclassified, else those of x; and (B,) which are."""
    shape, linf = ball.x.shape[1:], ball.norm == "linf"
    draws = (2 if linf else 5) + shape[0]  # random numbers a query
    best = (_stripes if linf else _bumps)(ball, problem.streams).contiguous()
    logits = problem.model(best)
    every = torch.arange(len(best), device=best.device)
    lowest, hit = -margin(logits, problem.y), problem.search.verdict(best, problem.y, logits, every)
    ahead = _Ahead(problem.search.rows)

    def size(query: int) -> int:
        side = _side(query, p_init, shape[1] * shape[2])
        return min(side if linf else max(side, 3) | 1, *shape[1:])  # odd, for two equal halves

    for first, last in _stretches(queries, size):
        active = (~hit).nonzero()[:, 0]
        if not len(active):
            break
        here = problem.at(active)
        drawn = _draws(here.streams, first, last, draws)
        propose = (_squares if linf else _windows)(ball[active], drawn, size(first))
        state = best[active], lowest[active], hit[active]
        _stretch(here, propose, last - first, ahead, *state)
        best[active], lowest[active], hit[active] = state
    return torch.where(hit.view(-1, 1, 1, 1), best, ball.x), hit


def _side(query: int, p_init: float, pixels: int) -> int:
    """Side of the square at a query, for images of so many pixels."""
    share = p_init / 2 ** sum(query > limit for limit in _HALVINGS)
    return max(round(math.sqrt(share * pixels)), 1)


def _stretches(queries: int, size: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Queries [first, last) with squares of one size."""
    first = 0
    for query in range(1, queries + 1):
        if query == queries or size(query) != size(first) or query - first == _STRETCH:
            yield first, query
            first = query


def _draws(streams: Streams, first: int, last: int, count: int) -> Tensor:
    """(queries, B, count) uniform random numbers of the queries [first, last)."""
    blocks = range(first // _BLOCK, math.ceil(last / _BLOCK))
    drawn = torch.cat([streams.uniform((_BLOCK, count), draw=2 + block) for block in blocks], 1)
    start = first - blocks[0] * _BLOCK
    return drawn[:, start : start + last - first].transpose(0, 1)


class _Ahead:
    """How many proposals an image are looked at together, from how many were accepted lately."""

    def __init__(self, rows: int) -> None:
        self.room = rows // 2  # a batch fuller than half gains less than is wasted
        self.tried = self.accepted = 1.0

    def count(self, images: int) -> int:
        share = self.accepted / self.tried
        return max(1, min(self.room // images, int(1 + 2 * _WASTED / share)))

    def learn(self, tried: int, accepted: int) -> None:
        """The last few hundred proposals count."""
        kept = max(0.0, 1 - tried / 500)
        self.tried = kept * self.tried + tried
        self.accepted = max(kept * self.accepted + accepted, 1e-9 * self.tried)


def _stretch(
    problem: Problem,
    propose: Propose,
    queries: int,
    ahead: _Ahead,
    best: Tensor,  # (B, C, H, W) changed in place, as the next two
    lowest: Tensor,  # (B,) the margin there
    hit: Tensor,  # (B,) bool
) -> None:
    """Every image to the end of a stretch of queries, or to its hit; each at its own query."""
    y, at = problem.y, torch.zeros_like(problem.y)
    going = torch.arange(len(y), device=y.device)
    while len(going):
        problem.search.tick()
        count = min(ahead.count(len(going)), int((queries - at[going]).max()))
        steps = at[going, None] + torch.arange(count, device=y.device)  # (going, count)
        who = going.repeat_interleave(count) if count > 1 else going
        # Beyond the end of the stretch the last query is looked at again, and does not count.
        new = propose(best, who, steps.clamp_max(queries - 1).flatten())
        logits = problem.model(new)
        value, hits = -margin(logits, y[who]), problem.search.verdict(new, y[who], logits, who)
        better = ((value < lowest[who]) | hits).view(-1, count) & (steps < queries)
        some, first = better.max(1)  # of several accepted ones the first
        passed = torch.where(some, first + 1, (queries - at[going]).clamp_max(count))
        at[going] += passed
        if bool(some.any()):
            moved = going[some]
            row = (torch.arange(len(going), device=y.device) * count + first)[some]
            best[moved], lowest[moved], hit[moved] = new[row], value[row], hits[row]
        ahead.learn(int(passed.sum()), int(some.sum()))
        going = going[(at[going] < queries) & ~hit[going]]


# ---------------------------------------------------------------- Linf: squares at the ball's ends


def _stripes(ball: Ball, streams: Streams) -> Tensor:
    """Vertical stripes of +-eps."""
    channels, _, width = ball.x.shape[1:]
    stripes = streams.uniform((channels, 1, width), draw=0) < 0.5
    return torch.where(stripes, ball.low, ball.high)


def _squares(ball: Ball, draws: Tensor, size: int) -> Propose:
    """One square an image and query, at +eps or -eps in each channel (paper, algorithm 2).

    draws (queries, B, 2 + C). What a stretch of queries needs is computed at once: a query alone would
    be all overhead.
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


# ---------------------------------------------------------------- L2, L1: bumps whose mass is moved


def _bumps(ball: Ball, streams: Streams) -> Tensor:
    """A 5 x 5 grid of bumps with random signs: under L2 at distance eps, under L1 not scaled to it."""
    channels, height, width = ball.x.shape[1:]
    size = max(height // 5, 1)
    cells = height // size, width // size
    corner = max((height - size * 5) // 2, 0)
    signs, flips = streams.uniform((channels, *cells)), streams.uniform(cells, draw=1)
    pieces = _signed(
        size, signs[..., None, None], flips[:, None], ball
    )  # (B, C, down, across, ...)
    grid = pieces.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    grid = grid[:, :, : height - corner, : width - corner]
    delta = torch.zeros_like(ball.x)
    delta[:, :, corner : corner + grid.shape[2], corner : corner + grid.shape[3]] = grid
    return _inside(ball, delta)


def _windows(ball: Ball, draws: Tensor, size: int) -> Propose:
    """The mass of two windows of the perturbation, moved into the first (paper, algorithm 3).

    draws (queries, B, 5 + C): the corners of both windows, the bump's direction and a sign a channel.
    Each channel takes the mass of both its windows and its part of what is left of eps; under L1 times
    C as published, and the projection takes back what is too much.
    """
    channels, height, width = ball.x.shape[1:]
    lengths = (height, width, height, width)
    factor = channels if ball.norm == "l1" else 1

    def propose(best: Tensor, who: Tensor, step: Tensor) -> Tensor:
        here, drawn = ball[who], draws[step, who]
        delta = best[who] - here.x
        corners = [(drawn[:, i] * (side - size)).long() for i, side in enumerate(lengths)]
        to, source = (_window(corners[i], corners[i + 1], size, channels) for i in (0, 2))
        both = torch.zeros_like(delta, dtype=torch.bool)
        both[to], both[source] = True, True
        mass = _mass(delta * both, ball.norm, (2, 3))
        whole = ball.eps**2 if ball.norm == "l2" else ball.eps
        unused = (whole - _mass(delta, ball.norm, (1, 2, 3))).clamp_min(0)
        room = unused / channels + mass
        fresh = _signed(size, drawn[:, 5:, None, None], drawn[:, 4:5], ball)
        fresh = _unit(fresh + _unit(delta[to], ball.norm), ball.norm)
        delta[source] = 0
        delta[to] = fresh * (room.sqrt() if ball.norm == "l2" else room) * factor
        return _inside(here, delta)

    return propose


def _inside(ball: Ball, delta: Tensor) -> Tensor:
    if ball.norm == "l1":
        return project_l1(ball.x, ball.x + delta, ball.eps)
    return ball.on_surface(delta)


def _window(top: Tensor, left: Tensor, size: int, channels: int) -> tuple[Tensor, ...]:
    """Indices (B, C, size, size) of one window an image."""
    reach = torch.arange(size, device=top.device)
    image = torch.arange(len(top), device=top.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=top.device).view(1, -1, 1, 1)
    rows = (top[:, None] + reach).view(len(top), 1, size, 1)
    columns = (left[:, None] + reach).view(len(top), 1, 1, size)
    return image, channel, rows, columns


def _mass(delta: Tensor, norm: str, dims: tuple[int, ...]) -> Tensor:
    """What adds up to the budget: squares (L2) or sizes (L1), summed over dims, which stay."""
    return (delta.square() if norm == "l2" else delta.abs()).sum(dims, keepdim=True)


def _unit(pieces: Tensor, norm: str) -> Tensor:
    """Pieces (..., s, s) at length 1, or 0 where they are."""
    mass = _mass(pieces, norm, (-2, -1))
    return pieces / (1e-12 + (mass.sqrt() if norm == "l2" else mass))


def _signed(size: int, signs: Tensor, flips: Tensor, ball: Ball) -> Tensor:
    """The bump (..., size, size), upright or lying, positive or negative, by uniform numbers."""
    upright = bump(size, ball.norm).to(ball.x)
    turned = torch.where(flips[..., None, None] > 0.5, upright.T, upright)
    return turned * torch.where(signs < 0.5, -1.0, 1.0).to(ball.x)


def bump(size: int, norm: str) -> Tensor:
    """The bump (size, size) of length 1: two halves of opposite sign and equal mass (paper, eq. 3)."""
    if size == 1:
        return torch.ones(1, 1)
    halves = torch.cat([_half(size // 2, size, norm), -_half(size - size // 2, size, norm)])
    return halves / (halves.norm() if norm == "l2" else halves.abs().sum())


def _half(height: int, width: int, norm: str) -> Tensor:
    """Concentric rectangles from the centre, length 1: weights 1, 1/4, 1/9 (L2) or 1, 1/16, 1/81."""
    plane, power = torch.zeros(height, width), 2 if norm == "l2" else 4
    row, column = height // 2, width // 2
    for ring in range(max(row, column) + 1):
        top, left = max(row - ring, 0), max(column - ring, 0)
        plane[top : row + ring + 1, left : column + ring + 1] += 1.0 / (ring + 1) ** power
    return plane / (plane.norm() if norm == "l2" else plane.abs().sum())
