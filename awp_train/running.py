"""How a network runs while it trains: as it is, in bfloat16, compiled, or as a copy that crafts.

Weights, gradients of the weights and everything AWP computes stay float32; only passes change.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from awp_train.folded import Folded
from bench.schema import InvalidInput, TrainConfig

# Pixels. Fashion-MNIST's 28 gain a quarter of a step, CIFAR-10's 32 a tenth, digits' 8 nothing.
# BatchNorm sums in float32 that way on a CPU: exact to 4e-6, not to 5e-8 as in the other layout.
SMALL = 16


@dataclass(frozen=True)
class Running:
    """The two ways a network is run in a step."""

    training: nn.Module  # for losses; the mode of the network decides
    folded: Folded | None = None  # crafts instead, in eval mode
    half: bool = False

    def crafting(self) -> nn.Module:
        """What training images are crafted on, with the weights of now."""
        if self.folded is None:
            return self.training
        net = self.folded.refreshed()
        return _Autocast(net) if self.half else net


class _Autocast(nn.Module):
    """A network in bfloat16 where that is safe, by PyTorch's rules; float32 logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.net(x)
        return logits.float()


def running_of(model: nn.Module, config: TrainConfig, x: Tensor) -> Running:
    """Sets up the passes that a configuration asks for; x (B, C, H, W) are some images.

    The network is laid out channels last, which is faster and moves float32 results by rounding only;
    tiny images gain nothing on a CPU and keep the layout they had. Raises InvalidInput where a
    compiled run finds no C++ compiler.
    """
    half = config.precision == "bf16"
    if half or x.device.type == "cuda" or x.shape[-1] >= SMALL:
        model.to(memory_format=torch.channels_last)
    folded = Folded(model, x) if config.craft_folded else None
    training: nn.Module = _Autocast(model) if half else model
    if config.compiled:
        training = _compiled(training, x.device)
    return Running(training, folded, half)


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
