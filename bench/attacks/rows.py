"""Rows that search at the same time: images enter while there is room and leave when broken.

A row is one image with one target. All rows of an image enter together, and what a row does depends
on nothing but itself, so the outcome is the same whatever the batch. R rows, B images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from bench.attacks.problem import Problem, frozen


@dataclass
class Rows:
    """State of searching rows; every field, those of subclasses too, has R entries."""

    owner: Tensor  # place of the row's image in the batch
    x: Tensor
    y: Tensor
    z: Tensor  # (R, C, H, W) the point looked at last

    def keep(self: State, mask: Tensor) -> State:
        """The rows where mask (R,) is true."""
        places = mask.nonzero()[:, 0]
        return type(self)(
            **{f.name: getattr(self, f.name).index_select(0, places) for f in fields(self)}
        )

    def join(self: State, other: State) -> State:
        """These rows followed by others."""
        return type(self)(
            **{
                f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            }
        )

    def note(self, hit: Tensor, found: Tensor, broken: Tensor) -> Tensor:
        """Notes in found (B, C, H, W) and broken (B,) what rows hit; (R,) whose image is broken.

        Of several rows of an image that hit (R,) at once the first counts.
        """
        places, points = self.owner[hit], self.z[hit]
        first = torch.ones_like(places, dtype=torch.bool)  # rows of an image stay side by side
        first[1:] = places[1:] != places[:-1]
        found[places[first]] = points[first]
        broken[places] = True
        return broken[self.owner]


State = TypeVar("State", bound=Rows)


def run(
    begin: Callable[[Tensor], State],
    advance: Callable[[State], tuple[Tensor, Tensor]],
    problem: Problem,
    *,
    per_image: int,
) -> tuple[Tensor, Tensor]:
    """Runs rows to their end and refills: (B, C, H, W) with the hits, and (B,) whether there is one.

    begin(places) makes the rows of the images at those places, per_image each, lowest target first.
    advance(rows) takes one step in place and returns (R,) which points looked at are hits and (R,)
    which rows end. An image leaves with its first hit; images without a hit are as in x.
    """
    x, most = problem.x, problem.search.rows
    found, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows: State | None = None
    entered = 0
    while True:
        room = most - (len(rows.owner) if rows is not None else 0)
        # Joining copies every row, so it waits until a quarter is free.
        if entered < len(x) and room >= min(most, max(per_image, most // 4)):
            until = min(len(x), entered + max(1, room // per_image))
            fresh = begin(torch.arange(entered, until, device=x.device))
            rows = rows.join(fresh) if rows is not None and len(rows.owner) else fresh
            entered = until
        if rows is None or not len(rows.owner):
            return found, broken
        problem.search.tick()
        hit, ended = advance(rows)
        if bool(hit.any()):
            ended = ended | rows.note(hit, found, broken)
        if bool(ended.any()):
            rows = rows.keep(~ended)


def restarted(
    problem: Problem,
    restarts: int,
    attempt: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    *,
    at_once: int | None = None,
) -> Tensor:
    """(B, C, H, W) of several starts, each on the images of the problem that still stand.

    attempt(restart, places) attacks the images at those places and returns points (P, C, H, W) and
    (P,) whether they are hits; it is given at most `at_once` places, or all. Images without a hit are
    as the last attempt left them.
    """
    x_adv = problem.x.clone()
    standing = torch.arange(len(x_adv), device=x_adv.device)
    with frozen(problem.model):
        for restart in range(restarts):
            left = []
            for places in standing.split(at_once or max(len(standing), 1)):
                x_adv[places], broken = attempt(restart, places)
                left.append(places[~broken])
            standing = torch.cat(left)
            if not len(standing):
                break
    return x_adv
