"""APGD under L1, with sparse steps (Croce & Hein 2021, arXiv 2103.01208, algorithm 1).

As in apgd.py, all targets of an image climb at the same time, the image leaves with the first that
succeeds, and its outcome depends on nothing but the image. Points of the phases in larger balls do not
count. B images, R rows (image x target), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bench.attacks.geometry import per_image
from bench.attacks.l1 import (
    Stride,
    adapt,
    checkpoint_window,
    fresh_stride,
    large_step_phases,
    nonzeros,
    project_l1,
    random_start_l1,
    resumed_stride,
    sparse_ascent,
)
from bench.attacks.losses import LOSSES, TargetedLoss, dlr_targeted, likeliest_wrong
from bench.attacks.pgd import Model, frozen, logits_and_gradient
from bench.attacks.rows import DEFAULT, Search, restarted
from bench.schema import ThreatModel
from bench.streams import Streams


def apgd_l1(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    steps: int = 100,
    restarts: int = 1,
    large_steps: bool = False,
    loss: str = "cross_entropy",
    search: Search = DEFAULT,
) -> Tensor:
    """Untargeted L1-APGD on a loss; images that are broken leave. Returns (B, C, H, W), detached."""
    objective = LOSSES[loss]
    none = torch.zeros((len(y), 1), dtype=torch.int64, device=y.device)
    return _search(
        model, x, y, threat.epsilon, none, lambda z, y, _: objective(z, y), streams, restarts,
        _phases(steps, large_steps), search,
    )  # fmt: skip


def apgd_l1_t(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 5,
    large_steps: bool = False,
    search: Search = DEFAULT,
) -> Tensor:
    """L1-APGD on the targeted DLR loss, towards each of the likeliest wrong classes.

    Needs at least 4 classes. Returns (B, C, H, W), detached.
    """
    with torch.no_grad():
        wrong = likeliest_wrong(model(x), y, targets)
    return _search(
        model, x, y, threat.epsilon, wrong, dlr_targeted, streams, restarts,
        _phases(steps, large_steps), search,
    )  # fmt: skip


Phases = tuple[tuple[float, int], ...]  # (multiple of eps, steps) of each


def _phases(steps: int, large_steps: bool) -> Phases:
    return large_step_phases(steps) if large_steps else ((1.0, steps),)


def _search(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    targets: Tensor,  # (B, T)
    loss: TargetedLoss,
    streams: Streams,
    restarts: int,
    phases: Phases,
    search: Search,
) -> Tensor:
    x = x.detach()

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        drawn = streams[places].at("restart", restart)
        return _climb(
            model, places, x[places], y[places], targets[places], eps, loss, drawn, phases, search
        )

    with frozen(model):
        return restarted(x, restarts, attempt, at_once=max(1, search.rows // targets.shape[1]))


@dataclass
class _Rows:
    """What each climbing row remembers; every field has R entries."""

    owner: Tensor  # place of the row's image in the batch
    x: Tensor
    y: Tensor
    target: Tensor
    z: Tensor  # the current iterate
    grad: Tensor  # at z
    best: Tensor  # the iterate of highest loss in this phase, with its gradient and loss
    best_grad: Tensor
    best_loss: Tensor
    share: Tensor  # these three are the row's Stride
    step: Tensor
    before: Tensor

    def keep(self, mask: Tensor) -> _Rows:
        return _Rows(*(getattr(self, f.name)[mask] for f in fields(self)))


def _climb(
    model: Model,
    places: Tensor,
    images: Tensor,
    y: Tensor,
    targets: Tensor,
    eps: float,
    loss: TargetedLoss,
    streams: Streams,
    phases: Phases,
    search: Search,
) -> tuple[Tensor, Tensor]:
    """One restart: (B, C, H, W) with the images that break them, and (B,) which are broken."""
    count = targets.shape[1]
    owner = torch.arange(len(y), device=y.device).repeat_interleave(count)
    x, labels, target = images[owner], y[owner], targets.flatten()
    starts = [
        random_start_l1(images, phases[0][0] * eps, streams.at("target", t)) for t in range(count)
    ]
    z = torch.stack(starts, 1).flatten(0, 1)
    broken = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    found = images.clone()
    scheduled = len(phases) > 1
    for factor, steps in phases:
        radius, final = factor * eps, factor == 1.0
        z = project_l1(x, z, radius)
        stride = resumed_stride(x, z, radius) if scheduled else fresh_stride(x, radius)
        rows, logits = _begin(model, owner, x, labels, target, z, stride, loss)
        for step in range(steps + 1):  # step 0 is the start
            search.tick()
            if step:
                logits = _advance(model, rows, radius, loss)
            if final:
                hit = search.verdict(rows.z, rows.y, logits, places[rows.owner])
                rows = _leave(rows, hit, broken, found)
                if not len(rows.owner):
                    break
            if step and step % checkpoint_window(steps) == 0:
                _check(rows, radius)
        z = rows.best
    return found, broken


def _begin(
    model: Model,
    owner: Tensor,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    z: Tensor,
    stride: Stride,
    loss: TargetedLoss,
) -> tuple[_Rows, Tensor]:
    """Rows at the start z of a phase, and the logits (R, K) there."""
    logits, value, grad = logits_and_gradient(model, z, y, lambda z, y: loss(z, y, target))
    rows = _Rows(
        owner, x, y, target, z, grad, z, grad, value, stride.share, stride.step, stride.before
    )
    return rows, logits


def _advance(model: Model, rows: _Rows, radius: float, loss: TargetedLoss) -> Tensor:
    """A sparse step and the projection (algorithm 1); the logits (R, K) there."""
    ahead = rows.z + per_image(rows.step, rows.z) * sparse_ascent(rows.grad, rows.share)
    rows.z = project_l1(rows.x, ahead, radius)
    logits, value, rows.grad = logits_and_gradient(
        model, rows.z, rows.y, lambda z, y: loss(z, y, rows.target)
    )
    better = value > rows.best_loss
    rows.best_loss = torch.where(better, value, rows.best_loss)
    weight = per_image(better.to(rows.z), rows.z)  # 0 or 1, where lerp is exact and fast
    rows.best = torch.lerp(rows.best, rows.z, weight)
    rows.best_grad = torch.lerp(rows.best_grad, rows.grad, weight)
    return logits


def _check(rows: _Rows, radius: float) -> None:
    """The next stride; back to the best point where that became sparser."""
    stride, sparser = adapt(
        Stride(rows.share, rows.step, rows.before),
        nonzeros(rows.x, rows.best), rows.x[0].numel(), radius,
    )  # fmt: skip
    rows.share, rows.step, rows.before = stride.share, stride.step, stride.before
    wide = per_image(sparser, rows.z)
    rows.z = torch.where(wide, rows.best, rows.z)
    rows.grad = torch.where(wide, rows.best_grad, rows.grad)


def _leave(rows: _Rows, hit: Tensor, broken: Tensor, found: Tensor) -> _Rows:
    """Notes the images that some row broke, and drops all rows of them."""
    if not bool(hit.any()):
        return rows
    places, images = rows.owner[hit], rows.z[hit]
    first = torch.ones_like(places, dtype=torch.bool)  # of several targets the first counts
    first[1:] = places[1:] != places[:-1]
    found[places[first]] = images[first]
    broken[places] = True
    return rows.keep(~broken[rows.owner])
