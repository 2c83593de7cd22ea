"""Square, the black-box attack by random search (Andriushchenko et al. 2020, arXiv 1912.00049).

Every image draws its own squares from its own stream; the published code draws one square for the
whole batch. Most proposals are refused, so where few images are left several proposals of one image go
through the network at once, and count until the first that is accepted: the walk is the same, in fuller
batches. B images, C channels, H x W pixels; R rows, each a proposal of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.geometry import Ball, per_image, window
from bench.attacks.losses import margin
from bench.attacks.pgd import Model, frozen
from bench.attacks.rows import DEFAULT, Search, restarted
from bench.attacks.square_l1 import square_l1_proposal, square_l1_start
from bench.schema import ThreatModel
from bench.streams import Streams

_BLOCK = 50  # queries whose random numbers are drawn together
_STRETCH = 5 * _BLOCK  # queries after which the images of a batch wait for each other, at most
# Of the proposals looked at ahead so many, at most, are expected to come after an accepted one.
_WASTED = 0.1
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
    search: Search = DEFAULT,
) -> Tensor:
    """Random search on the margin; images leave when misclassified. Returns (B, C, H, W), detached."""
    moves, x = MOVES[threat.norm], x.detach()
    ball = Ball.box(x, threat) if threat.norm == "l1" else Ball.around(x, threat)

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        drawn = streams[places].at("restart", restart)
        return _walk(model, places, ball[places], y[places], drawn, moves, queries, p_init, search)

    with torch.no_grad(), frozen(model):
        return restarted(x, restarts, attempt, at_once=search.rows)


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


def _walk(
    model: Model,
    images: Tensor,
    ball: Ball,
    y: Tensor,
    streams: Streams,
    moves: Moves,
    queries: int,
    p_init: float,
    search: Search,
) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) best points and (B,) whether they are misclassified."""
    channels, height, width = ball.x.shape[1:]
    best = moves.start(ball, streams).contiguous()
    logits = model(best)
    lowest, hit = -margin(logits, y), search.verdict(best, y, logits, images)
    ahead = _Ahead(search.rows)
    for first, last in _stretches(queries, lambda q: moves.size(q, p_init, height, width)):
        active = (~hit).nonzero()[:, 0]
        if not len(active):
            break
        drawn = _draws(streams[active], first, last, moves.draws(channels))
        propose = moves.plan(ball[active], drawn, moves.size(first, p_init, height, width))
        walk = _Walk(best[active], lowest[active], hit[active])
        walk.go(model, propose, last - first, images[active], y[active], ahead, search)
        best[active], lowest[active], hit[active] = walk.best, walk.lowest, walk.hit
    return best, hit


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


@dataclass
class _Walk:
    """The images of a batch on a stretch of queries, each at its own query."""

    best: Tensor  # (B, C, H, W)
    lowest: Tensor  # (B,) the margin there
    hit: Tensor  # (B,) bool

    def go(
        self,
        model: Model,
        propose: Propose,
        length: int,
        images: Tensor,
        y: Tensor,
        ahead: _Ahead,
        search: Search,
    ) -> None:
        """Every image to the end of the stretch, or to its hit."""
        at = torch.zeros_like(y)
        going = torch.arange(len(y), device=y.device)
        while len(going):
            search.tick()
            count = min(ahead.count(len(going)), int((length - at[going]).max()))
            steps = at[going, None] + torch.arange(count, device=y.device)  # (going, count)
            who = going.repeat_interleave(count) if count > 1 else going
            # Beyond the end of the stretch the last query is looked at again, and does not count.
            new = propose(self.best, who, steps.clamp_max(length - 1).flatten())
            logits = model(new)
            value, hit = -margin(logits, y[who]), search.verdict(new, y[who], logits, images[who])
            better = ((value < self.lowest[who]) | hit).view(-1, count) & (steps < length)
            some, first = better.max(1)  # of several accepted ones the first
            passed = torch.where(some, first + 1, (length - at[going]).clamp_max(count))
            at[going] += passed
            if bool(some.any()):
                moved = going[some]
                row = (torch.arange(len(going), device=y.device) * count + first)[some]
                self.best[moved], self.lowest[moved] = new[row], value[row]
                self.hit[moved] = hit[row]
            ahead.learn(int(passed.sum()), int(some.sum()))
            going = going[(at[going] < length) & ~self.hit[going]]


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
