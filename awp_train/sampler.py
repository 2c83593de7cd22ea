"""Which images each step of an epoch sees, with the mixed batches of RST (arXiv 1905.13736).

Everything is keyed by (seed, epoch, purpose): a resumed run and the twin of an AWP run see the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awp_train.seeds import generator
from bench.schema import InvalidInput, TrainConfig


def epoch_batches(config: TrainConfig, n_labelled: int, n_extra: int, epoch: int) -> list[Tensor]:
    """The image numbers (B,) of each batch of an epoch, int64 on the CPU.

    Numbers from n_labelled on mean extra images. An epoch is one pass over the labelled ones,
    shuffled without replacement; the order is that of a run without extra images. With them each
    batch takes `extra_share` numbers of extra images, drawn with replacement, and is shuffled, so
    that BatchNorm on several devices sees both kinds. Without them a last batch of one image is
    left out, no use to BatchNorm; with them a short last batch is filled up, as in the code of RST.
    Raises InvalidInput where the configuration has extra data and there are none.
    """
    assert n_labelled > 0 and (n_extra == 0 or config.extra is not None)
    order = torch.randperm(n_labelled, generator=generator(config, "order", epoch))
    if config.extra is None:
        parts = batches_of(n_labelled, config.batch, least=2 * config.devices)
        return [order[part] for part in parts]
    if n_extra < 1:
        raise InvalidInput("the extra data has no images")
    draws, mixing = generator(config, "extra", epoch), generator(config, "mix", epoch)
    batches = []
    for labelled in order.split(config.batch - extra_share(config)):
        missing = config.batch - len(labelled)
        extra = n_labelled + torch.randint(n_extra, (missing,), generator=draws)
        both = torch.cat([labelled, extra])
        batches.append(both[torch.randperm(config.batch, generator=mixing)])
    return batches


def extra_share(config: TrainConfig) -> int:
    """How many images of a full batch are extra ones: the fraction, rounded; at least one of each.

    The code of RST rounds the labelled ones down in floats, which differs by at most one image.
    """
    if config.extra is None:
        return 0
    return min(max(round(config.batch * config.extra.fraction), 1), config.batch - 1)


def batches_of(n: int, size: int, *, least: int = 2) -> list[slice]:
    """Slices of an epoch's order, without a last batch below `least`: BatchNorm wants two images."""
    return [slice(i, i + size) for i in range(0, n, size) if n - i >= least]
