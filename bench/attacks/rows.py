"""Rows that search at the same time: images enter while there is room and leave when broken.

A row is one image with one target. All rows of an image enter together, and what a row does depends
on nothing but itself, so the outcome is the same whatever the batch. R rows, B images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor

from bench.attacks.losses import fooled


def believed(z: Tensor, y: Tensor, logits: Tensor, image: Tensor) -> Tensor:
    """(R,) bool: the searched model's own answer is the verdict."""
    return fooled(logits, y)


def _nothing() -> None:
    """No one is told, nothing is stopped."""


@dataclass(frozen=True)
class Search:
    """How a search is run, which does not decide what it finds."""

    rows: int = 128  # at most so many rows go through the model at once
    # (z, y, logits, image) -> (R,) bool: which points are misclassified; image is the place in the
    # attacked batch. Where a prepared copy is searched, this asks the untouched model in doubt.
    verdict: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = believed
    tick: Callable[[], None] = field(default=_nothing)  # called at every step; may raise to stop


DEFAULT = Search()


class Rows:
    """State of searching rows: a dataclass whose every field is a tensor of R entries.

    The subclasses are the dataclasses, each with its fields in its own order: hence what is ignored.
    """

    owner: Tensor  # (R,) place of the row's image in the batch
    z: Tensor  # (R, C, H, W) the point looked at last

    def __len__(self) -> int:
        return len(self.owner)

    def keep(self: State, mask: Tensor) -> State:
        """The rows where mask (R,) is true."""
        places = mask.nonzero()[:, 0]
        return type(self)(
            **{f.name: getattr(self, f.name).index_select(0, places) for f in fields(self)}  # type: ignore[arg-type]
        )

    def join(self: State, other: State) -> State:
        """These rows followed by others."""
        return type(self)(
            **{
                f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)  # type: ignore[arg-type]
            }
        )


State = TypeVar("State", bound=Rows)


def run(
    begin: Callable[[Tensor], State],
    advance: Callable[[State], tuple[Tensor, Tensor]],
    x: Tensor,
    *,
    per_image: int,
    search: Search,
) -> tuple[Tensor, Tensor]:
    """Runs rows to their end and refills: (B, C, H, W) with the hits, and (B,) whether there is one.

    begin(places) makes the rows of the images at those places of x, per_image each, lowest target
    first. advance(rows) takes one step in place and returns (R,) which points looked at are hits and
    (R,) which rows end. Of several rows that hit at once the first counts.
    An image leaves with its first hit; images without a hit are as in x.
    """
    found, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows: State | None = None
    entered = 0
    while True:
        room = search.rows - (len(rows) if rows is not None else 0)
        # Joining copies every row, so it waits until a quarter is free.
        if entered < len(x) and room >= min(search.rows, max(per_image, search.rows // 4)):
            until = min(len(x), entered + max(1, room // per_image))
            fresh = begin(torch.arange(entered, until, device=x.device))
            rows = rows.join(fresh) if rows is not None and len(rows) else fresh
            entered = until
        if rows is None or not len(rows):
            return found, broken
        search.tick()
        hit, ended = advance(rows)
        if bool(hit.any()):
            places, points = rows.owner[hit], rows.z[hit]
            first = torch.ones_like(places, dtype=torch.bool)  # rows of an image stay side by side
            first[1:] = places[1:] != places[:-1]
            found[places[first]] = points[first]
            broken[places] = True
            ended = ended | broken[rows.owner]
        if bool(ended.any()):
            rows = rows.keep(~ended)


def restarted(
    x: Tensor,
    restarts: int,
    attempt: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    *,
    at_once: int | None = None,
) -> Tensor:
    """(B, C, H, W) with the hits of several starts, each on the images of x that still stand.

    attempt(restart, places) attacks the images at those places and returns points (P, C, H, W) and
    (P,) whether they are hits; it is given at most `at_once` places, or all. Images without a hit are
    as in x.
    """
    x_adv = x.detach().clone()
    standing = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        left = []
        for places in standing.split(at_once or max(len(standing), 1)):
            found, broken = attempt(restart, places)
            x_adv[places[broken]] = found[broken]
            left.append(places[~broken])
        standing = torch.cat(left)
        if not len(standing):
            break
    return x_adv
