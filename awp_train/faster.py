"""How a network runs while it trains: as it is, in bfloat16, compiled, or as a copy that crafts.

Weights, gradients of the weights and everything AWP computes stay float32; only passes change.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from bench.measure.search import fold
from bench.schema import InvalidInput, TrainConfig

# Pixels. Fashion-MNIST's 28 gain a quarter of a step, CIFAR-10's 32 a tenth, digits' 8 nothing.
# BatchNorm sums in float32 that way on a CPU: exact to 4e-6, not to 5e-8 as in the other layout.
SMALL = 16


class Running(NamedTuple):
    """The two ways a network is run in a step."""

    training: nn.Module  # for losses; the mode of the network decides
    crafting: Callable[[], nn.Module]  # what images are crafted on, with the weights of now


def running_of(model: nn.Module, config: TrainConfig, x: Tensor) -> Running:
    """Sets up the passes that a configuration asks for; x (B, C, H, W) are some images.

    The network is laid out channels last, which is faster and moves float32 results by rounding only;
    tiny images gain nothing on a CPU and keep the layout they had. Raises InvalidInput where a
    compiled run finds no C++ compiler.
    """
    half = config.precision == "bf16"
    if half or x.device.type == "cuda" or x.shape[-1] >= SMALL:
        model.to(memory_format=torch.channels_last)
    training: nn.Module = _Autocast(model) if half else model
    if config.compiled:
        training = _compiled(training, x.device)
    if not config.craft_folded:
        return Running(training, lambda: training)
    refreshed = folded(model, x)
    return Running(training, lambda: _Autocast(refreshed()) if half else refreshed())


def folded(model: nn.Module, x: Tensor) -> Callable[[], nn.Module]:
    """A function that gives a copy in eval mode, frozen, with the weights and statistics of now.

    In eval mode BatchNorm is an affine map, so it disappears into the layer before it; the copy is
    laid out channels last. The weights move with every step, so the copy is refreshed by each call;
    that costs less than one pass. On 28x28 images and 16 to 32 channels a forward and backward pass
    takes 0.6 of the time. x (B, C, H, W) are images on which the copy is checked when it is made.
    """
    net = copy.deepcopy(model).eval().requires_grad_(False)
    original = dict(zip(net.modules(), model.modules(), strict=True))
    fused: list[tuple[Any, Any, Any]] = [  # convolution or linear, BatchNorm, what stands for both
        (original[layer], original[norm], new) for layer, norm, new in fold(net, x[:2])
    ]
    net.to(memory_format=torch.channels_last)
    new_tensors = {id(t) for *_, new in fused for t in new.parameters()}
    source = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = dict(net.named_parameters()) | dict(net.named_buffers())
    copied = [(kept[name], source[name]) for name in kept if id(kept[name]) not in new_tensors]

    @torch.no_grad()
    def refreshed() -> nn.Module:
        for to, now in copied:
            to.copy_(now)
        for layer, norm, new in fused:
            conv = isinstance(layer, nn.Conv2d)
            fuse = fuse_conv_bn_weights if conv else fuse_linear_bn_weights
            weight, bias = fuse(
                layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip
            new.weight.copy_(weight)
            new.bias.copy_(bias)
        return net

    return refreshed


class _Autocast(nn.Module):
    """A network in bfloat16 where that is safe, by PyTorch's rules; float32 logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.net(x)
        return logits.float()


def _compiled(net: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise InvalidInput(
            "--compiled true needs a C++ compiler on a CPU; install one (Debian: apt install g++) or "
            "leave it out"
        )
    # CUDA graphs take the launch of hundreds of small kernels out of every step of the attack.
    options: dict[str, Any] = {"mode": "reduce-overhead"} if device.type == "cuda" else {}
    compiled: Any = torch.compile(net, **options)
    return compiled
