"""The images of every step: in which order they come, and how they are changed.

B images a batch, C channels, H = W pixels, K classes. Every random number is keyed by the run's seed,
epoch, batch and purpose, and no draw shifts another: a resumed run and the twin of an AWP run see the
same order, crops and mixtures.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.catalogue import dataset_info
from bench.schema import TrainConfig
from bench.streams import Streams

PADDING = 4  # pixels, as in the AWP code on 32x32 images


def seed_of(config: TrainConfig, *path: int | str) -> int:
    """A seed below 2**56 for a purpose such as ("order", epoch) of the run with this seed."""
    digest = hashlib.sha256(json.dumps([config.seed, *path]).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator(
    config: TrainConfig, *path: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that starts from that seed."""
    return torch.Generator(device).manual_seed(seed_of(config, *path))


# ---------------------------------------------------------------- order


def epoch_batches(config: TrainConfig, n_labelled: int, n_extra: int, epoch: int) -> list[Tensor]:
    """The image numbers (B,) of each batch of an epoch, int64 on the CPU.

    Numbers from n_labelled on mean extra images. An epoch is one pass over the labelled ones,
    shuffled without replacement; the order is that of a run without extra images. With them, as in
    RST (arXiv 1905.13736), each batch takes a fraction of extra images, drawn with replacement, and
    is shuffled, so that BatchNorm on several devices sees both kinds. Without them a last batch of
    one image is left out, no use to BatchNorm; with them a short last batch is filled up, as in the
    code of RST.
    """
    order = torch.randperm(n_labelled, generator=generator(config, "order", epoch))
    if config.extra is None:
        parts = batches_of(n_labelled, config.batch, least=2 * config.devices)
        return [order[part] for part in parts]
    # The code of RST rounds the labelled ones down in floats: at most one image apart.
    share = min(max(round(config.batch * config.extra.fraction), 1), config.batch - 1)
    draws, mixing = generator(config, "extra", epoch), generator(config, "mix", epoch)
    batches = []
    for labelled in order.split(config.batch - share):
        missing = config.batch - len(labelled)
        extra = n_labelled + torch.randint(n_extra, (missing,), generator=draws)
        both = torch.cat([labelled, extra])
        batches.append(both[torch.randperm(config.batch, generator=mixing)])
    return batches


def batches_of(n: int, size: int, *, least: int = 2) -> list[slice]:
    """Slices of an epoch's order, without a last batch below `least`: BatchNorm wants two images."""
    return [slice(i, i + size) for i in range(0, n, size) if n - i >= least]


# ---------------------------------------------------------------- changes


def varied(
    x: Tensor, y: Tensor, config: TrainConfig, *, epoch: int, batch: int
) -> tuple[Tensor, Tensor]:
    """The batch after augmentation, cutout and mixup, in this order; y (B,), or (B, K) if mixed."""

    def streams(purpose: str) -> Streams:
        return Streams.for_batch(len(y), purpose, config.seed, epoch, batch, device=x.device)

    if config.augment == "crop-flip":
        x = crop_flip(x, streams("augment"))
    if config.cutout:
        x = cutout(x, streams("cutout"), side=config.cutout)
    if config.mixup:
        classes = dataset_info(config.dataset, config.own).class_count
        seed = seed_of(config, "mixup", epoch, batch)
        x, y = mixup(x, y, classes=classes, alpha=config.mixup, seed=seed)
    return x, y


def crop_flip(x: Tensor, streams: Streams) -> Tensor:
    """Reflect-padded, cropped back to the size at a random place, mirrored with probability 1/2."""
    _, _, height, width = x.shape
    padded = F.pad(x, (PADDING,) * 4, mode="reflect")
    top, left = (streams.integers(2 * PADDING + 1, draw=d)[:, None] for d in (0, 1))
    mirrored = streams.integers(2, draw=2)[:, None] == 1
    rows = top + torch.arange(height, device=x.device)  # (B, H)
    columns = torch.arange(width, device=x.device)
    columns = left + torch.where(mirrored, columns.flip(0), columns)  # (B, W)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    # Indexing around the channels' slice puts them last: (B, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def cutout(x: Tensor, streams: Streams, *, side: int) -> Tensor:
    """Sets one square of side x side pixels an image to 0, cut off at the edges (arXiv 1708.04552).

    Its middle lies anywhere in the image. An even side reaches one pixel less to the lower right.
    """

    def covered(pixels: int, draw: int) -> Tensor:  # (B, pixels)
        first = streams.integers(pixels, draw=draw)[:, None] - side // 2
        place = torch.arange(pixels, device=x.device)
        return (place >= first) & (place < first + side)

    rows, columns = covered(x.shape[2], 0), covered(x.shape[3], 1)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def mixup(x: Tensor, y: Tensor, *, classes: int, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """share * x + (1 - share) * x of another, and (B, K) shares of the classes (arXiv 1710.09412).

    One share a batch, drawn from Beta(alpha, alpha), and one permutation of the batch, as in
    Rice et al. 2020 (arXiv 2002.11569, alpha 1.4). Cross-entropy against the shares of the classes is
    share * CE(y) + (1 - share) * CE(y of the other), so an attack on it maximises the mixed loss.
    """
    rng = np.random.default_rng(seed)
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(y))).to(y.device)
    labels = F.one_hot(y, classes).to(x.dtype)
    return torch.lerp(x[other], x, share), torch.lerp(labels[other], labels, share)
