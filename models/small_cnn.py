"""A small convolutional network with BatchNorm, for the demo and for quick experiments on a CPU.

Legend: B batch, C channels, S image side in pixels, K classes, w width.
"""

from __future__ import annotations

from torch import nn


def small_cnn(
    in_channels: int = 1, image_size: int = 28, num_classes: int = 10, width: int = 16
) -> nn.Sequential:
    """Three convolutions with BatchNorm, then two linear layers.

    (B, C, S, S) -> (B, K). 47,610 parameters on 8x8 digits with w = 16. Source: this project, no
    paper; BatchNorm because the networks of the AWP paper (arXiv 2004.05884) have it.
    Initialisation: PyTorch's default (uniform, bound 1 / sqrt(fan in)).
    """
    # An 8x8 image halved twice would leave 2x2 pixels for the linear layers to look at.
    last_stride = 1 if image_size < 16 else 2
    side = _halved(image_size) if last_stride == 1 else _halved(_halved(image_size))
    return nn.Sequential(
        *_convolution(in_channels, width, stride=1),
        *_convolution(width, 2 * width, stride=2),
        *_convolution(2 * width, 2 * width, stride=last_stride),
        nn.Flatten(),
        nn.Linear(2 * width * side**2, 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, num_classes),
    )


def _halved(side: int) -> int:
    """The side after a 3x3 convolution of stride 2 and padding 1: odd sides round up."""
    return (side + 1) // 2


def _convolution(c_in: int, c_out: int, *, stride: int) -> tuple[nn.Module, ...]:
    """3x3 convolution, BatchNorm, ReLU; no bias, which BatchNorm would cancel."""
    return (
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )
