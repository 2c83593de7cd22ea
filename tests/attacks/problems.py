"""Problems that the tests of this room hand to attacks."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from bench.attacks import Problem, Search
from bench.schema import ThreatModel
from bench.streams import Streams

AS_USUAL = Search()
NOBODY_LEAVES = Search(
    rows=10_000, verdict=lambda z, y, logits, image: torch.zeros_like(y, dtype=torch.bool)
)


def problem(model, x, y, threat, *, seed=0, search=AS_USUAL):
    """Streams are keyed by the seed and the images; threat is as on the command line."""
    streams = Streams.for_images(x, seed, "test")
    return Problem(model, x, y, ThreatModel.parse(threat), streams, search)


def streams_by_place(count):
    """Streams whose keys are the images' places, for draws that a test injects."""
    place = torch.arange(count)
    return Streams(torch.stack([place, place], 1))


class Seen(nn.Module):
    """A network that counts by itself, where images enter: what comes, and gradients that leave."""

    def __init__(self, net):
        super().__init__()
        self.net, self.count = net, SimpleNamespace(forward=0, backward=0)

    def forward(self, x):
        return self.net(_Entrance.apply(x, self.count))


class _Entrance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, count):
        ctx.count = count
        count.forward += len(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        grad.data_ptr()  # raises where several gradients are asked together: those look like one
        ctx.count.backward += len(grad)
        return grad, None
