"""A copy of a network in training that crafts faster: eval mode, BatchNorm folded, channels last.

In eval mode BatchNorm is an affine map, so it disappears into the layer before it. The weights move
with every step, so the copy is refreshed before each batch; that costs less than one pass. On 28x28
images and 16 to 32 channels a forward and backward pass takes 0.6 of the time.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from bench.measure.search import fold


class Folded:
    """The copy, and which of its tensors come from where in the network."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        """x (B, C, H, W) are images on which the copy is checked when it is made."""
        self.net = copy.deepcopy(model).eval().requires_grad_(False)
        original = dict(zip(self.net.modules(), model.modules(), strict=True))
        self.pairs: list[tuple[Any, Any, Any]] = [  # convolution or linear, BatchNorm, fused layer
            (original[layer], original[norm], new) for layer, norm, new in fold(self.net, x[:2])
        ]
        self.net.to(memory_format=torch.channels_last)
        new_tensors = {id(t) for *_, new in self.pairs for t in new.parameters()}
        kept = dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        source = dict(model.named_parameters()) | dict(model.named_buffers())
        same = [name for name, tensor in kept.items() if id(tensor) not in new_tensors]
        self.copies, self.sources = [kept[n] for n in same], [source[n] for n in same]

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The copy with the network's weights and BatchNorm statistics of now; frozen, eval mode."""
        for to, source in zip(self.copies, self.sources, strict=True):
            to.copy_(source)
        for layer, norm, new in self.pairs:
            weight, bias = _fused(layer, norm)
            new.weight.copy_(weight)
            new.bias.copy_(bias)
        return self.net


def _fused(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
    fused = fuse(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps,
        norm.weight, norm.bias,
    )  # fmt: skip
    return fused[0], fused[1]
