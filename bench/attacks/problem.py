"""What an attack is given: a model, images, the threat, random numbers, and how to search.

B images, K classes; R points that are looked at together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from bench.attacks.losses import Loss, fooled
from bench.cli import watch
from bench.schema import ThreatModel
from bench.streams import Streams

Model = Callable[[Tensor], Tensor]  # (B, C, H, W) in [0, 1] -> logits (B, K)


def believed(z: Tensor, y: Tensor, logits: Tensor, image: Tensor) -> Tensor:
    """(R,) bool: the searched model's own answer is the verdict."""
    return fooled(logits, y)


@dataclass(frozen=True)
class Search:
    """How a search is run, which does not decide what it finds."""

    rows: int = 128  # at most so many rows go through the model at once
    # (z, y, logits, image) -> (R,) bool: which points are misclassified; image is the place in the
    # attacked batch. Where a prepared copy is searched, this asks the untouched model in doubt.
    verdict: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = believed
    tick: Callable[[], None] = field(default=lambda: None)  # called at every step; raises to stop


@dataclass(frozen=True)
class Problem:
    """Images to be misclassified, each within a ball of its own."""

    model: Model
    x: Tensor  # (B, C, H, W) float32 in [0, 1]; no gradient flows back
    y: Tensor  # (B,)
    threat: ThreatModel
    streams: Streams  # one an image
    search: Search = Search()

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", self.x.detach())

    def at(self, places: Tensor, *path: int | str) -> Problem:
        """The images at those places, with their streams, or those at a path of them."""
        streams = self.streams[places]

        def verdict(z: Tensor, y: Tensor, logits: Tensor, image: Tensor) -> Tensor:
            return self.search.verdict(z, y, logits, places[image])

        return replace(
            self, x=self.x[places], y=self.y[places],
            streams=streams.at(*path) if path else streams,
            search=replace(self.search, verdict=verdict),
        )  # fmt: skip

    def likeliest_wrong(self, count: int) -> Tensor:
        """(B, count) wrong classes, the most likely first."""
        with torch.no_grad():
            logits = self.model(self.x)
        return logits.scatter(1, self.y[:, None], -torch.inf).topk(count, dim=1).indices

    def no_target(self) -> Tensor:
        """(B, 1) a target for attacks that have none: one row an image."""
        return torch.zeros_like(self.y)[:, None]


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """No gradient reaches the parameters inside; requires_grad is put back as it was."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, needed in zip(parameters, before, strict=True):
            p.requires_grad_(needed)


def logits_and_gradient(
    model: Model, z: Tensor, y: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), losses (B,) and the gradient of their sum with respect to z (B, C, H, W)."""
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(z)
        losses = loss(logits, y)
        grad = gradient(losses.sum(), z)
    if grad is None:  # the model answers without a gradient, which is flagged
        grad = torch.zeros_like(z)
    if not bool(torch.isfinite(grad.sum())):  # a sum of finite numbers may overflow: no harm
        grad = grad.nan_to_num()
    return logits.detach(), losses.detach(), grad


def gradient(total: Tensor, z: Tensor, *, again: bool = False) -> Tensor | None:
    """The gradient of a sum with respect to z, for a backward pass `again` too.

    None where the sum does not depend on z as autograd sees it.
    """
    if not total.requires_grad:
        return None
    with watch.in_hand():
        (grad,) = torch.autograd.grad(total, z, retain_graph=again, allow_unused=True)
    return grad
