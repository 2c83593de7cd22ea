"""One training step of AT and AT-AWP as its authors' recipe goes (arXiv 2004.05884), written plainly.

What our step is timed against. It does the recipe's work in the recipe's order: gradients of all
weights while crafting, a proxy network that takes an SGD step for the weight adversary, and a clean
pass for the training log. B images, x (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TINY = 1e-20  # added to the norm of a difference of weights


def craft(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None, *,
    eps: float, step: float, steps: int,
) -> Tensor:  # fmt: skip
    """PGD in the mode the network is in; of the one restart, the perturbation that raises the loss."""
    best_loss, best = torch.zeros(len(y)), torch.zeros_like(x)
    delta = torch.empty_like(x).uniform_(-eps, eps) if start is None else start.clone()
    delta = torch.clamp(delta, -x, 1 - x).requires_grad_(True)
    for _ in range(steps):
        F.cross_entropy(model(x + delta), y).backward()  # fills the gradients of all weights too
        assert delta.grad is not None
        moved = torch.clamp(delta.detach() + step * delta.grad.sign(), -eps, eps)
        delta.data = torch.clamp(moved, -x, 1 - x)
        delta.grad.zero_()
    loss = F.cross_entropy(model(x + delta), y, reduction="none")
    higher = loss >= best_loss
    best[higher] = delta.detach()[higher]
    return torch.clamp(x + best, 0, 1)


def weight_adversary(
    model: nn.Module, proxy: nn.Module, proxy_sgd: torch.optim.SGD, x_adv: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """By name, the proxy's ascent step on the loss, brought to the norm of each weight."""
    proxy.load_state_dict(model.state_dict())
    proxy.train()
    loss = -F.cross_entropy(proxy(x_adv), y)
    proxy_sgd.zero_grad()
    loss.backward()
    proxy_sgd.step()
    moved = proxy.state_dict()
    direction = {}
    for name, weight in model.state_dict().items():
        if weight.dim() > 1 and "weight" in name:
            difference = moved[name] - weight
            direction[name] = weight.norm() / (difference.norm() + TINY) * difference
    return direction


def shift(model: nn.Module, direction: dict[str, Tensor], coefficient: float) -> None:
    """Adds coefficient * direction to the weights, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in direction:
                parameter.add_(coefficient * direction[name])


def plain_step(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float,
    eps: float, step: float, steps: int, gamma: float | None,
) -> Callable[..., float]:  # fmt: skip
    """A function of (x, y, start=None) that updates the weights once and returns the loss.

    gamma None is AT without AWP. The proxy's learning rate cancels when its step is rescaled.
    """
    proxy = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    proxy_sgd = torch.optim.SGD(proxy.parameters(), lr=0.01)

    def update(x: Tensor, y: Tensor, start: Tensor | None = None) -> float:
        model.train()
        x_adv = craft(model, x, y, start, eps=eps, step=step, steps=steps)
        if gamma is not None:
            direction = weight_adversary(model, proxy, proxy_sgd, x_adv, y)
            shift(model, direction, gamma)
        loss = F.cross_entropy(model(x_adv), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if gamma is not None:
            shift(model, direction, -gamma)
        F.cross_entropy(model(x), y).item()  # for the log, in train mode and with its graph
        return loss.item()

    return update
