"""The batches of an epoch, as indices into the labelled images followed by the extra ones."""

from __future__ import annotations

import torch
from torch import Tensor

from awp_train.seeds import generator
from bench.schema import TrainConfig


def epoch_batches(config: TrainConfig, n_labelled: int, n_extra: int, epoch: int) -> list[Tensor]:
    """Indices (B,) of each batch of a 0-based epoch, keyed by seed and epoch alone.

    An epoch is one pass over the labelled images, without a last batch of one image. Beside extra
    images, config.extra.fraction of every batch is drawn from them with replacement and shuffled
    among the labelled ones, as RST does (arXiv 1905.13736).
    """
    order = torch.randperm(n_labelled, generator=generator(config, "order", epoch))
    if config.extra is None:
        return [order[part] for part in batches_of(n_labelled, config.batch)]
    extra = min(config.batch - 1, max(1, round(config.extra.fraction * config.batch)))
    labelled = config.batch - extra
    drawn = generator(config, "extra", epoch)
    batches = []
    for first in range(0, n_labelled, labelled):
        part = order[first : first + labelled]
        count = max(1, round(extra * len(part) / labelled))
        others = n_labelled + torch.randint(n_extra, (count,), generator=drawn)
        both = torch.cat([part, others])
        batches.append(both[torch.randperm(len(both), generator=drawn)])
    return batches


def batches_of(n: int, size: int) -> list[slice]:
    """Slices of an epoch's order; without a last batch of one image, no use to BatchNorm."""
    return [slice(i, i + size) for i in range(0, n, size) if n - i > 1]
