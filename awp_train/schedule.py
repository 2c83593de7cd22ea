"""The learning rate of an epoch."""

from __future__ import annotations

from bench.schema import TrainConfig


def piecewise(config: TrainConfig, epoch: int) -> float:
    """The rate of a 0-based epoch, constant within it: lr / 10 ** (milestones passed).

    A milestone m is passed by the epochs from m * epochs on. The AWP code decays a batch at a time
    with t = epoch + (i + 1) / n, so there the last batch before a milestone has the lower rate
    already: 2 of 78,200 batches on CIFAR-10.
    """
    # 1e-9: 0.07 * 100 is 7.000000000000001 in floating point.
    passed = sum(epoch >= m * config.epochs - 1e-9 for m in config.milestones)
    return float(config.lr / 10**passed)
