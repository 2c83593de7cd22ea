"""Deliberately broken models: each is flagged, and none is ranked as robust.

Every case is a small digits network spoiled in one way that makes a number look better, or mean less,
than it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.reliability.checks import model_findings
from bench.reliability.flags import FLAGS, raised


class Function(nn.Module):
    """A layer without weights."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = change


def before(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(Function(change), net).eval()


def after(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(net, Function(change)).eval()


def quantised(x: Tensor) -> Tensor:
    """Rounded to 16 levels: the gradient is zero almost everywhere."""
    return (x * 4).round() / 4


def noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def own_statistics(x: Tensor) -> Tensor:
    """BatchNorm with the statistics of whatever batch comes, in eval mode too."""
    return nn.functional.batch_norm(x, None, None, training=True)


def bright_divided_by_zero(x: Tensor) -> Tensor:
    dark = (x.mean((1, 2, 3), keepdim=True) < 0.32).float()
    return x * dark / dark


class Purified(nn.Module):
    """Walks each image to where the network is surer, then classifies it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            sure = self.net(z).log_softmax(1).amax(1).sum()
            (grad,) = torch.autograd.grad(sure, z)
        return self.net(x + 0.05 * grad.sign())


class Adapted(nn.Module):
    """Changes its own weights with every batch it sees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.net[-1].bias.add_(1e-6)
        return self.net(x)


def inserted(net: nn.Sequential, place: int, layer: nn.Module) -> nn.Module:
    layers = list(net)
    return nn.Sequential(*layers[:place], layer, *layers[place:]).eval()


# name -> (how it is broken, a flag that must be among those raised)
BROKEN: dict[str, tuple[Callable[[nn.Sequential], nn.Module], str]] = {
    "quantised activations": (
        lambda net: inserted(net, 3, Function(quantised)),
        "zero-gradients",
    ),
    "huge logits": (lambda net: after(net, lambda z: 1e5 * z), "zero-gradients"),
    "noise layer": (lambda net: inserted(net, 3, Function(noisy)), "randomised"),
    "softmax": (lambda net: after(net, lambda z: z.softmax(1)), "probabilities"),
    "double normalisation": (lambda net: before(net, lambda x: (x - 1) / 0.2), "normalisation"),
    "train mode": (lambda net: copy.deepcopy(net).train(), "batch-dependent"),
    "train mode with dropout": (
        lambda net: inserted(net, 7, nn.Dropout(0.3)).train(),
        "randomised",
    ),
    "batch statistics": (
        lambda net: inserted(net, 1, Function(own_statistics)),
        "batch-dependent",
    ),
    "NaN for some images": (
        lambda net: before(net, bright_divided_by_zero),
        "non-finite-logits",
    ),
    "optimisation inside": (lambda net: Purified(net), "gradients-in-forward"),
    "weights that move": (lambda net: Adapted(net), "state-changes"),
    "detached": (lambda net: after(net, lambda z: z.detach() + 0 * z), "zero-gradients"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_has_a_flag_that_unranks(name, fitted, digits):
    spoil, flag = BROKEN[name]
    assert flag in {f.name for f in raised(model_findings(spoil(fitted), *digits))}
    assert FLAGS[flag].unrankable


def test_wrapping_alone_raises_nothing_that_unranks(fitted, digits):
    """A healthy network in a fresh wrapper, which torch starts in train mode."""
    wrapped = nn.Sequential(fitted, Function(lambda z: 2 * z + 1))
    assert [f.name for f in raised(model_findings(wrapped, *digits))] == ["train-mode"]
