"""Random changes of training images that keep the label, batched on the images' device.

B images, C channels, H = W pixels. Each draw belongs to its place in the batch and to the streams.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.streams import Streams

PADDING = 4  # pixels, as in the AWP code on 32x32 images


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
    _, _, height, width = x.shape
    first = (
        streams.integers(height, draw=0) - side // 2,
        streams.integers(width, draw=1) - side // 2,
    )
    rows, columns = (
        (place >= start[:, None]) & (place < start[:, None] + side)
        for start, place in zip(
            first, (torch.arange(n, device=x.device) for n in (height, width)), strict=True
        )
    )  # (B, H), (B, W)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


# (images, streams) -> images
AUGMENTATIONS: dict[str, Callable[[Tensor, Streams], Tensor] | None] = {
    "none": None,
    "crop-flip": crop_flip,
}
