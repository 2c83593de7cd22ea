"""SCHEDULES: the learning rate over a run.

t is the time in epochs since the start. Piecewise rates hold for whole epochs; the others change
from step to step, and a step has the rate of its middle, so that none has the rate 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bench.schema import TrainConfig

_PEAK = 0.4  # of the run, where the cyclic rate is highest


def learning_rate(config: TrainConfig, epoch: int, batch: int, batches: int) -> float:
    """The rate of one step: a 0-based batch among the batches of a 0-based epoch."""
    return SCHEDULES[config.schedule](config, epoch + (batch + 0.5) / batches)


def piecewise(config: TrainConfig, t: float) -> float:
    """lr / 10 ** (milestones passed), constant within an epoch.

    A milestone m is passed by the epochs from m * epochs on. The AWP code decays a batch at a time
    with t = epoch + (i + 1) / n, so there the last batch before a milestone has the lower rate
    already: 2 of 78,200 batches on CIFAR-10.
    """
    epoch = math.floor(t)
    # 1e-9: 0.07 * 100 is 7.000000000000001 in floating point.
    passed = sum(epoch >= m * config.epochs - 1e-9 for m in config.milestones)
    return float(config.lr / 10**passed)


def cosine(config: TrainConfig, t: float) -> float:
    """Half a cosine from lr to 0.

    The released RST changes the rate once an epoch; the released pre-training ends at 1e-6.
    """
    return config.lr * (1 + math.cos(math.pi * t / config.epochs)) / 2


def linear(config: TrainConfig, t: float) -> float:
    """A straight line from lr to 0."""
    return config.lr * (1 - t / config.epochs)


def cyclic(config: TrainConfig, t: float) -> float:
    """From 0 straight up to lr at 2/5 of the run, then straight down to 0 (arXiv 2002.11569).

    Their code takes the rate at the end of a step, half a step later than here.
    """
    done = t / config.epochs
    return config.lr * (done / _PEAK if done < _PEAK else (1 - done) / (1 - _PEAK))


# (config, t) -> rate
SCHEDULES: dict[str, Callable[[TrainConfig, float], float]] = {
    "piecewise": piecewise,
    "cosine": cosine,
    "cyclic": cyclic,
    "linear": linear,
}
