"""CNN-A, the small network of the verification literature (arXiv 2010.11645).

Legend: B batch, C channels, S image side in pixels, K classes.
"""

from __future__ import annotations

from torch import nn


def cnn_a(in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> nn.Sequential:
    """Two strided convolutions, then two linear layers, all with biases and no BatchNorm.

    (B, C, S, S) -> (B, K). S is a multiple of 4: 32 gives the published network, with 2048
    features before the first linear layer. A plain sequence, so that its keys (`0.*`, `2.*`,
    `5.*`, `7.*`) are those of the published files. Source: Dathathri et al. 2020,
    arXiv 2010.11645. Raises ValueError for another S.
    Initialisation: PyTorch's default (uniform, bound 1 / sqrt(fan in)).
    """
    if image_size % 4:
        raise ValueError(
            f"cnn_a: image_size must be a multiple of 4 (two layers halve it), got {image_size}"
        )
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (image_size // 4) ** 2, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )
