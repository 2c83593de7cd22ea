"""Images of ten pixels, and a network whose losses say which of them it learnt."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bench.contamination import Contamination
from bench.datasets import Examples
from bench.measure.contamination import Parts, check
from bench.schema import ModelCard, ThreatModel

THREAT = ThreatModel.parse("linf:0.05")
CARD = ModelCard(
    name="toy",
    dataset="toy",
    class_count=10,
    weights_sha256="0" * 64,
    n_parameters=110,
    epoch_kept=3,
)


def seen(part: str, n: int, learnt: int, seed: int) -> Examples:
    """Images of 10 pixels of which one says the class; learnt ones are plainer to the network below."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    strength = rng.uniform(0.2, 0.6, n) + 0.2 * (np.arange(n) < learnt)
    images = rng.uniform(0, 0.2, (n, 1, 1, 10))
    images[np.arange(n), 0, 0, labels] = strength
    return Examples(
        "toy", f"{part}[0:{n}]", torch.from_numpy(images).float(), torch.from_numpy(labels), 10
    )


def reader() -> nn.Sequential:
    """A network whose loss falls as the pixel of the class rises."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(10, 10))
    with torch.no_grad():
        net[1].weight.copy_(8 * torch.eye(10))
        net[1].bias.zero_()
    return net.eval()


def checked(
    learnt: int, *, n: int = 1000, threat: ThreatModel | None = THREAT, seed: int = 0
) -> Contamination:
    """The check of a network that learnt some test images, and all of its training images."""
    training, test, second = (
        seen(part, n, k, 3 * seed + at)
        for at, (part, k) in enumerate((("train", n), ("test", learnt), ("train", 0)))
    )
    return check(reader(), Parts(training, test, second), CARD, threat=threat)
