"""Networks whose landscape is known, and what a walk must leave as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def unmoved() -> Callable[[nn.Module], Callable[[], None]]:
    """unmoved(model)() fails where weights, buffers, modes or gradients are not as they were."""

    def watch(model: nn.Module) -> Callable[[], None]:
        state = {k: v.clone() for k, v in model.state_dict().items()}
        modes = [m.training for m in model.modules()]
        needed = [p.requires_grad for p in model.parameters()]

        def check() -> None:
            for name, value in model.state_dict().items():
                assert torch.equal(value, state[name]), name
            assert [m.training for m in model.modules()] == modes
            assert [p.requires_grad for p in model.parameters()] == needed
            assert all(p.grad is None for p in model.parameters())

        return check

    return watch


@pytest.fixture
def relu_net() -> nn.Sequential:
    """Two layers with biases and ReLU between."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()


@pytest.fixture
def some(relu_net: nn.Module) -> tuple[Tensor, Tensor]:
    """24 images with the labels that the network gives most of them."""
    x = torch.rand(24, 1, 8, 8)
    y = relu_net(x).argmax(1)
    y[:4] = (y[:4] + 1) % 10
    return x, y


class Quadratic(nn.Module):
    """Answers its weights (K,) as logits, whatever the image; loss: half their squares."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-2, 2, 40).view(1, 40))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), -1)


def half_square(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) with the gradient of a quadratic loss of the weights."""
    return 0.5 * logits.square().sum(1)
