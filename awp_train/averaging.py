"""Averages of the weights over a run: exponential (EMA) a step, or equal (SWA) an epoch.

Once an average has begun it is what is validated and kept, while training goes on from the weights
themselves. EMA averages the BatchNorm statistics too; those of SWA (arXiv 1803.05407) are measured anew
by one pass over the unattacked, unaugmented training images.
"""

from __future__ import annotations

import copy
import math

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from awp_train.batches import batches_of
from bench.datasets import as_float
from bench.schema import TrainConfig


def averaged_from(config: TrainConfig) -> int:
    """The first 0-based epoch whose weights enter the average; the last one's always do."""
    first = math.ceil(config.averaging_from * config.epochs - 1e-9)
    return min(first, config.epochs - 1)


def mix_in(average: dict[str, Tensor], model: nn.Module, share: float) -> None:
    """average += share * (weights - average), in place; an empty average becomes the weights.

    Floating buffers count as weights; whole numbers, such as BatchNorm's counters, are copied.
    """
    for name, value in model.state_dict().items():
        if name not in average or not value.is_floating_point():
            average[name] = value.clone()
        else:
            average[name].lerp_(value, share)


def averaged(
    model: nn.Module, average: dict[str, Tensor], config: TrainConfig, images: Tensor
) -> nn.Module:
    """The network that is validated and kept: a copy with the averaged weights, or the model itself.

    images: (N, C, H, W), the labelled training images on the model's device.
    """
    if not average:
        return model
    copied = copy.deepcopy(model)
    copied.load_state_dict(average)
    if config.averaging == "swa":
        parts = batches_of(len(images), config.batch)
        update_bn((as_float(images[part]) for part in parts), copied)
    return copied
