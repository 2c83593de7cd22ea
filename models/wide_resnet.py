"""Wide residual networks for small images (arXiv 1605.07146).

Legend: B batch, C channels, S image side in pixels, K classes.
Parameter names are those of the field (`conv1`, `block1.layer.0.bn1`, ..., `bn1`, `fc`), so that
RobustBench's `WideResNet` files load as they are. Files of TRADES, and RobustBench's
`sub_block1=True` entries, hold an extra `sub_block1` that takes no part in the forward pass:
whoever imports them drops those keys.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from .preact_resnet import group


def wide_resnet28_10(in_channels: int = 3, num_classes: int = 10) -> WideResNet:
    """WideResNet of depth 28, ten times as wide.

    (B, C, S, S) -> (B, K), any S; 36.5 M parameters. Source: Zagoruyko and Komodakis 2016,
    arXiv 1605.07146.
    """
    return WideResNet(28, 10, in_channels, num_classes)


def wide_resnet34_10(in_channels: int = 3, num_classes: int = 10) -> WideResNet:
    """WideResNet of depth 34, ten times as wide: the AWP paper's large network.

    (B, C, S, S) -> (B, K), any S; 46.2 M parameters. Source: Zagoruyko and Komodakis 2016,
    arXiv 1605.07146.
    """
    return WideResNet(34, 10, in_channels, num_classes)


class WideResNet(nn.Module):
    """Three groups of (depth - 4) / 6 blocks with 16, 32, 64 times `widen` channels.

    (B, C, S, S) -> (B, K). No dropout. Pooling is global, so S need not be 32.
    Initialisation (as TRADES, arXiv 1901.08573): convolutions normal with standard deviation
    sqrt(2 / (k * k * channels out)), linear weight PyTorch's default and bias 0, BatchNorm 1 and 0.
    """

    def __init__(self, depth: int, widen: int, in_channels: int, num_classes: int):
        super().__init__()
        blocks, remainder = divmod(depth - 4, 6)
        assert blocks >= 1 and remainder == 0, f"depth must be 6 n + 4, got {depth}"
        widths = (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _group(blocks, 16, widths[0], stride=1)
        self.block2 = _group(blocks, widths[0], widths[1], stride=2)
        self.block3 = _group(blocks, widths[1], widths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        h = functional.relu(self.bn1(h))
        return self.fc(functional.adaptive_avg_pool2d(h, 1).flatten(1))


def _group(blocks: int, c_in: int, c_out: int, *, stride: int) -> nn.Sequential:
    """Blocks of one width, under the name `layer`."""
    layer = group(blocks, c_in, c_out, stride=stride, projection="convShortcut")
    return nn.Sequential(OrderedDict(layer=layer))
