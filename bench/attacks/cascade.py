"""The attacks of the cascade: short walks with cosine steps, whose starts and targets differ.

A row has a guide, one weight a class. It may open with steps of length eps that climb the logits so
weighted (output diversified initialisation, Tashiro et al. 2020, arXiv 2003.06878), and then takes
steps that shrink with a cosine (Liu et al. 2022, arXiv 2203.05154). B images, R rows (image x target
or restart), K classes. Linf and L2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench.attacks.apgd import apgd, apgd_t
from bench.attacks.fab import fab_t
from bench.attacks.geometry import Ball, noise, per_image
from bench.attacks.losses import margin
from bench.attacks.problem import Model, Problem, frozen, gradient, logits_and_gradient
from bench.attacks.rows import Rows, run
from bench.attacks.square import square

# (logits (R, K), y (R,), guide (R, K)) -> (R,) what is climbed after the opening
GuidedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

_DUAL = {"linf": 1.0, "l2": 2.0}  # order of the norm that measures gradients
_SHORT = 10  # steps of a walk that ends with a tenth of eps; longer ones end with a thousandth
# What a diversified start climbs, after arXiv 2203.05154: the weight of one wrong class, whose rank
# moves on with the restart; where the true class's is drawn, in turn; the others are from -1 to 1.
_RIVAL = 0.8
_TRUE_CLASS = ((-0.1, 0.5), (-0.8, 0.1))


def diverse(
    problem: Problem,
    *,
    restarts: int = 20,
    opening: int = 7,
    steps: int = 8,
    corners: bool = False,
) -> Tensor:
    """Climbs the margin from diversified starts: the first alone, then the others at once.

    `opening` steps climb a random combination of the logits, then `steps` the margin. corners: every
    second restart starts at a corner of the ball (L2: on its surface), not inside. Returns
    (B, C, H, W), detached: hits, and the clean image where there was none.
    """
    with frozen(problem.model):
        known = _Known.nothing(problem)
        known.walk(range(1), opening, steps, corners)
        known.walk(range(1, restarts), opening, steps, corners)
    return known.found


def near_boundary(
    problem: Problem,
    *,
    probes: int = 5,
    opening: int = 7,
    steps: int = 8,
    reach: float = 0.1,
    restarts: int = 7,
    long_opening: int = 10,
    long_steps: int = 45,
    close: float = 0.03,
    again: int = 20,
    apgd_steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
) -> Tensor:
    """Spends where it may help: the nearer the boundary of an image came, the more.

    `probes` short diversified walks tell how near it is, to first order. Images within reach * eps get
    `restarts` long walks, from inside the ball and from corners in turn; those that came within
    close * eps in any walk get `again` more, and all of AutoAttack. Each image is let through by its
    own distance, whoever else is there. Returns (B, C, H, W), detached: hits, and the clean image
    where there was none.
    """
    with frozen(problem.model):
        known = _Known.nothing(problem)
        known.walk(range(1), opening, steps)
        known.walk(range(1, probes), opening, steps)
        long = replace(known, problem=problem.at(known.every, "long"))
        long.walk(range(restarts), long_opening, long_steps, corners=True, within=reach)
        more = range(restarts, restarts + again)
        long.walk(more, long_opening, long_steps, corners=True, within=close)
        classes = known.order.shape[1]
        for name, attack in _autoattack(classes, apgd_steps, targets, queries).items():
            known.attacked(name, attack, within=close)
    return known.found


def _autoattack(
    classes: int, steps: int, targets: int, queries: int
) -> dict[str, Callable[[Problem], Tensor]]:
    """AutoAttack's four; with fewer than four classes APGD climbs the margin, as in its column."""
    wanted = min(targets, classes - 1)
    towards = partial(apgd_t, targets=wanted) if classes >= 4 else partial(apgd, loss="margin")
    return {
        "apgd-ce": partial(apgd, steps=steps),
        "apgd-t": partial(towards, steps=steps),
        "fab-t": partial(fab_t, steps=steps, targets=wanted),
        "square": partial(square, queries=queries),
    }


def near_targets(
    problem: Problem, *, targets: int = 5, steps: int = 20, candidates: int = 9
) -> Tensor:
    """Climbs z_c - z_y for the classes c whose boundaries lie nearest to first order, all at once.

    Of the `candidates` likeliest wrong classes those with the smallest (z_y - z_c) / ||grad (z_c -
    z_y)||, in the dual norm. Returns (B, C, H, W), detached: hits, and the clean image where there was
    none. Melamed et al. 2024, arXiv 2407.02240.
    """
    ball = Ball.around(problem.x, problem.threat)
    with frozen(problem.model):
        chosen, classes = _nearest_classes(problem, targets, candidates)
        guides, starts = [], []
        for target in range(chosen.shape[1]):
            guide = torch.zeros(len(chosen), classes, device=ball.x.device)
            guide.scatter_(1, chosen[:, target, None], 1.0)
            guides.append(guide.scatter_(1, problem.y[:, None], -1.0))
            starts.append(_start(problem, ball, target, corner=False))
        points, broken, _ = _Walk(0, steps, _guided)(problem, ball, starts, guides)
    return torch.where(per_image(broken, points), points, problem.x)


def probability_margin(
    problem: Problem, *, steps: int = 50, restarts: int = 1, spread: float = 10.0
) -> Tensor:
    """Climbs max_{j != y} p_j - p_y from uniform starts.

    The logits of an image are scaled first, so that on the clean image the largest and the smallest
    lie `spread` apart: the margin saturates where logits are large. Returns (B, C, H, W), detached:
    hits, and the clean image where there was none. Xie et al. 2024, arXiv 2411.15210.
    """
    ball = Ball.around(problem.x, problem.threat)
    with frozen(problem.model):
        with torch.no_grad():
            logits = problem.model(problem.x)
        apart = (logits.amax(1) - logits.amin(1)).clamp_min(1e-30)
        scale = (spread / apart)[:, None].expand_as(logits)
        starts = [_start(problem, ball, restart, corner=False) for restart in range(restarts)]
        walk = _Walk(0, steps, lambda z, y, scale: margin(torch.softmax(z * scale, 1), y))
        points, broken, _ = walk(problem, ball, starts, [scale] * restarts)
    return torch.where(per_image(broken, points), points, problem.x)


# ---------------------------------------------------------------- what is known so far


@dataclass
class _Known:
    """What walks and attacks found out of each image; those that stand are attacked further."""

    problem: Problem
    ball: Ball
    order: Tensor  # (B, K) the classes, the true one first, then the likeliest
    found: Tensor  # (B, C, H, W) hits, else the clean image
    broken: Tensor  # (B,) bool
    nearest: Tensor  # (B,) how near the boundary came in any walk, in eps

    @classmethod
    def nothing(cls, problem: Problem) -> _Known:
        broken = torch.zeros_like(problem.y, dtype=torch.bool)
        ball = Ball.around(problem.x, problem.threat)
        order = _by_logit(problem.model, problem.x, problem.y)
        far = torch.full(broken.shape, torch.inf, device=broken.device)
        return cls(problem, ball, order, problem.x.clone(), broken, far)

    @property
    def every(self) -> Tensor:
        return torch.arange(len(self.broken), device=self.broken.device)

    def _left(self, within: float) -> Tensor:
        """The places of standing images that came so near, in eps."""
        return (~self.broken & (self.nearest <= within)).nonzero()[:, 0]

    def walk(
        self, restarts: range, opening: int, steps: int, corners: bool = False,
        within: float = math.inf,
    ) -> None:  # fmt: skip
        """Diversified walks on what stands, all restarts at once."""
        places = self._left(within)
        if not len(places) or not restarts:
            return
        here, ball, order = self.problem.at(places), self.ball[places], self.order[places]
        starts = [_start(here, ball, r, corners and r % 2 > 0) for r in restarts]
        guides = [_diversified(here, order, r) for r in restarts]
        points, broken, near = _Walk(opening, steps, _margin)(here, ball, starts, guides)
        self._note(places, points, broken)
        near = torch.minimum(self.nearest[places], near / self.problem.threat.epsilon)
        self.nearest[places] = near

    def attacked(self, name: str, attack: Callable[[Problem], Tensor], within: float) -> None:
        """Another attack on what stands."""
        places = self._left(within)
        if not len(places):
            return
        here, broken = self.problem.at(places, name), torch.zeros_like(self.broken[places])

        def verdict(z: Tensor, y: Tensor, logits: Tensor, image: Tensor) -> Tensor:
            hit = here.search.verdict(z, y, logits, image)
            broken[image[hit]] = True
            return hit

        search = replace(here.search, verdict=verdict)
        self._note(places, attack(replace(here, search=search)), broken)

    def _note(self, places: Tensor, points: Tensor, broken: Tensor) -> None:
        self.found[places[broken]] = points[broken]
        self.broken[places] = broken


# ---------------------------------------------------------------- the walk


@dataclass
class _Walkers(Rows):
    """State of walking rows; every field has R entries."""

    low: Tensor  # with x and high, the ball
    high: Tensor
    guide: Tensor  # (R, K)
    grad: Tensor  # at z
    looks: Tensor  # how many points were looked at, the start included


def _guided(logits: Tensor, y: Tensor, guide: Tensor) -> Tensor:
    """(R,) the logits weighted by the guide."""
    return (logits * guide).sum(1)


def _margin(logits: Tensor, y: Tensor, guide: Tensor) -> Tensor:
    """(R,) the margin, whatever the guide."""
    return margin(logits, y)


@dataclass(frozen=True)
class _Walk:
    """So many steps along the guide, then so many up a loss."""

    opening: int
    steps: int
    loss: GuidedLoss

    def __call__(
        self, problem: Problem, ball: Ball, starts: list[Tensor], guides: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) with the hits, (B,) whether there is one, (B,) how near the boundary came.

        starts (B, C, H, W) and guides (B, K), one a row of every image. Near is (-loss) over the dual
        norm of its gradient, the least of all points between the opening and the last; of a margin, to
        first order, the distance that is missing.
        """
        count = len(starts)
        first, guide = torch.stack(starts, 1), torch.stack(guides, 1)
        nearest = torch.full((len(first),), torch.inf, device=first.device)

        def begin(places: Tensor) -> _Walkers:
            owner = places.repeat_interleave(count)
            some, z = ball[owner], first[places].flatten(0, 1)
            return _Walkers(
                owner, some.x, problem.y[owner], z, some.low, some.high,
                guide[places].flatten(0, 1), torch.zeros_like(z), torch.zeros_like(owner),
            )  # fmt: skip

        def advance(rows: _Walkers) -> tuple[Tensor, Tensor]:
            some = Ball(rows.x, ball.norm, ball.eps, rows.low, rows.high)
            started = rows.looks > 0
            if bool(started.any()):
                step = per_image(lengths[rows.looks].to(rows.z), rows.z)
                moved = some.project(rows.z + step * some.ascent(rows.grad))
                rows.z = torch.lerp(rows.z, moved, per_image(started.to(moved), moved))
            last = rows.looks == self.opening + self.steps
            opens = rows.looks < self.opening

            def climbed(logits: Tensor, y: Tensor) -> Tensor:
                after = self.loss(logits, y, rows.guide)
                if not bool(opens.any()):
                    return after
                return torch.where(opens, _guided(logits, y, rows.guide), after)

            # The last look has a gradient too, so that passes do not depend on who shares a batch.
            logits, value, rows.grad = logits_and_gradient(problem.model, rows.z, rows.y, climbed)
            slope = torch.linalg.vector_norm(rows.grad.flatten(1), _DUAL[ball.norm], dim=1)
            far = torch.where(opens | last, torch.inf, -value / slope.clamp_min(1e-30))
            nearest.scatter_reduce_(0, rows.owner, far.to(nearest), "amin")
            rows.looks = rows.looks + 1
            return problem.search.verdict(rows.z, rows.y, logits, rows.owner), last

        lengths = ball.eps * self.lengths().to(first.device)
        return *run(begin, advance, problem, per_image=count), nearest

    def lengths(self) -> Tensor:
        """(1 + opening + steps,) the length of the step to each point looked at, in eps."""
        least = 0.1 if self.steps <= _SHORT else 0.001
        turn = torch.arange(1, self.steps + 1, dtype=torch.float64) * math.pi / (self.steps + 1)
        shrinking = least + (1 - least) * (1 + turn.cos()) / 2
        return torch.cat([torch.zeros(1), torch.ones(self.opening), shrinking])


# ---------------------------------------------------------------- starts and targets


def _start(problem: Problem, ball: Ball, row: int, corner: bool) -> Tensor:
    """(B, C, H, W) uniform inside the ball, or at a corner of it (L2: on its surface)."""
    streams = problem.streams.at("start", row)
    if not corner:
        return ball.random_start(streams)
    delta = noise(ball.x, ball.norm, streams)
    return ball.on_surface(delta.sign() if ball.norm == "linf" else delta)


def _by_logit(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """(B, K) the true class, then the wrong ones, the likeliest first."""
    with torch.no_grad():
        logits = model(x)
    return logits.scatter(1, y[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)


def _diversified(problem: Problem, order: Tensor, restart: int) -> Tensor:
    """(B, K) weights of the classes, drawn in the order of their likelihood."""
    drawn = problem.streams.at("weights", restart).uniform((order.shape[1],)).to(problem.x)
    low, high = _TRUE_CLASS[restart % len(_TRUE_CLASS)]
    weights = 2 * drawn - 1
    weights[:, 0] = low + (high - low) * drawn[:, 0]
    weights[:, 1 + restart % (order.shape[1] - 1)] = _RIVAL
    return torch.zeros_like(weights).scatter(1, order, weights)


def _nearest_classes(problem: Problem, count: int, candidates: int) -> tuple[Tensor, int]:
    """(B, T) wrong classes, the nearest boundary first; and K. A pass forward, one back a candidate."""
    chosen, classes = [], 0
    for places in torch.arange(len(problem.y), device=problem.y.device).split(problem.search.rows):
        problem.search.tick()
        z, y = problem.x[places].requires_grad_(True), problem.y[places]
        with torch.enable_grad():
            logits = problem.model(z)
            classes = logits.shape[1]
            likely = logits.detach().scatter(1, y[:, None], -torch.inf)
            likely = likely.topk(min(candidates, classes - 1), dim=1).indices
            gaps = logits.gather(1, likely) - logits.gather(1, y[:, None])
            grads = [gradient(gap.sum(), z, again=True) for gap in gaps.unbind(1)]
        order = _DUAL[problem.threat.norm]
        steep = torch.stack([torch.zeros_like(z) if g is None else g for g in grads], 1)
        slope = torch.linalg.vector_norm(steep.flatten(2), order, dim=2)
        far = (-gaps.detach() / slope.clamp_min(1e-30)).nan_to_num(nan=torch.inf)
        nearest = far.argsort(dim=1, stable=True)[:, :count]
        chosen.append(likely.gather(1, nearest))
    return torch.cat(chosen), classes
