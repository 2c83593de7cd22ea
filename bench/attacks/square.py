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

from bench.attacks.geometry import Ball
from bench.attacks.losses import margin
from bench.attacks.pgd import Model, frozen
from bench.attacks.rows import DEFAULT, Search, restarted
from bench.attacks.square_moves import MOVES, Moves, Propose
from bench.schema import ThreatModel
from bench.streams import Streams

_BLOCK = 50  # queries whose random numbers are drawn together
_STRETCH = 5 * _BLOCK  # queries after which the images of a batch wait for each other, at most
# Of the proposals looked at ahead so many, at most, are expected to come after an accepted one.
_WASTED = 0.1


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
