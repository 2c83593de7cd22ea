"""VGG networks with BatchNorm for small images (arXiv 1409.1556).

Legend: B batch, C channels, S image side in pixels, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

# VGG-19: (convolutions, channels) of each stage; the side is halved after every stage.
_VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


def vgg19_bn(in_channels: int = 3, num_classes: int = 10) -> VGG:
    """VGG-19 with BatchNorm and a single linear layer, the usual form for CIFAR.

    (B, C, S, S) -> (B, K), any S; 20.0 M parameters. Source: Simonyan and Zisserman 2014,
    arXiv 1409.1556.
    """
    return VGG(_VGG19, in_channels, num_classes)


class VGG(nn.Module):
    """Stages of 3x3 convolutions with BatchNorm, each followed by max pooling; one linear layer.

    (B, C, S, S) -> (B, K). Convolutions keep their biases, which BatchNorm makes useless, because
    the files of the field hold them (`features.0.bias`). Initialisation: convolution weights He
    normal over fan out (arXiv 1502.01852), biases and linear layer PyTorch's default, BatchNorm 1
    and 0.
    """

    def __init__(self, stages: tuple[tuple[int, int], ...], in_channels: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for convolutions, width in stages:
            for _ in range(convolutions):
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            # Rounding up changes nothing at S = 32 and keeps one pixel where S is 8 or 28.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
