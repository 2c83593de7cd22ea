"""Pre-activation residual networks for small images (arXiv 1603.05027).

Legend: B batch, C channels, S image side in pixels, K classes, w width.
Parameter names are those of the field (`conv1`, `layer1.0.bn1`, ..., `bn`, `linear`), so that files
written by the official AWP code, by Rice et al. and by RobustBench load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def preact_resnet18(in_channels: int = 3, num_classes: int = 10, width: int = 64) -> PreActResNet:
    """PreActResNet-18, the network of most of the AWP paper's tables at w = 64.

    (B, C, S, S) -> (B, K), any S; 11.2 M parameters, 0.7 M at w = 16. Source: He et al. 2016, arXiv
    1603.05027, with the BatchNorm before pooling of Rice et al. 2020, arXiv 2002.11569.
    """
    return PreActResNet((2, 2, 2, 2), in_channels, num_classes, width)


class PreActResNet(nn.Module):
    """Four groups of blocks with w, 2w, 4w, 8w channels, the side halved between groups.

    (B, C, S, S) -> (B, K). Equals RobustBench's `PreActResNet` with bn_before_fc and out_shortcut,
    its settings for Rice et al.; RobustBench's defaults (no last BatchNorm, projection of the raw
    input) are another network. Pooling is global, so S need not be 32.
    Initialisation: PyTorch's default (uniform, bound 1 / sqrt(fan in)), as in the code it follows.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], in_channels: int, num_classes: int, width: int
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.layer1 = group(blocks[0], width, width, stride=1)
        self.layer2 = group(blocks[1], width, 2 * width, stride=2)
        self.layer3 = group(blocks[2], 2 * width, 4 * width, stride=2)
        self.layer4 = group(blocks[3], 4 * width, 8 * width, stride=2)
        self.bn = nn.BatchNorm2d(8 * width)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        h = functional.relu(self.bn(h))
        return self.linear(functional.adaptive_avg_pool2d(h, 1).flatten(1))


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, plus the input.

    (B, c_in, s, s) -> (B, c_out, s / stride, s / stride), rounded up. projection: what the files of the
    field call the 1x1 convolution of the input, where the shape changes.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int, projection: str = "shortcut"):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.projection = projection if stride != 1 or c_in != c_out else ""
        if self.projection:
            projected: nn.Module = nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False)
            if projection == "shortcut":  # a sequence of one: its weight is `shortcut.0.weight`
                projected = nn.Sequential(projected)
            self.add_module(projection, projected)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x))
        # The projection sees the activated input, the identity the raw one.
        skipped = getattr(self, self.projection)(active) if self.projection else x
        return self.conv2(functional.relu(self.bn2(self.conv1(active)))) + skipped


def group(
    blocks: int, c_in: int, c_out: int, *, stride: int, projection: str = "shortcut"
) -> nn.Sequential:
    """Blocks of one width; only the first changes channels and side."""
    first = PreActBlock(c_in, c_out, stride=stride, projection=projection)
    return nn.Sequential(first, *(PreActBlock(c_out, c_out, stride=1) for _ in range(blocks - 1)))
