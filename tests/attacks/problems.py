"""Problems that the tests of this room hand to attacks."""

from __future__ import annotations

import torch

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
