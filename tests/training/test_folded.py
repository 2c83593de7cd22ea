"""The copy that crafts: the same logits and gradients as the network, whatever a step changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import models
from awp_train.faster import Folded

SHAPES = {
    "small_cnn": {"in_channels": 1, "image_size": 12, "width": 4},
    "preact_resnet18": {"in_channels": 3},
}


def network(arch: str) -> nn.Module:
    net = models.build(arch, SHAPES[arch])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net


def images(arch: str) -> torch.Tensor:
    side = SHAPES[arch].get("image_size", 32)
    return torch.rand(4, SHAPES[arch]["in_channels"], side, side)


@pytest.mark.parametrize("arch", SHAPES)
def test_logits_and_gradients_are_the_networks_after_a_step(arch: str) -> None:
    net, x = network(arch), images(arch)
    folded = Folded(net, x)
    assert folded.pairs
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net.train()
        net(x).square().sum().mul(1e-3).backward()
        optimiser.step()
    net.eval()
    fast = folded.refreshed()
    for model in (net, fast):
        assert not model.training
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted, got = net(z), fast(w)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    (expected,) = torch.autograd.grad(wanted.logsumexp(1).sum(), z)
    (gradient,) = torch.autograd.grad(got.logsumexp(1).sum(), w)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", SHAPES)
def test_the_network_is_left_as_it_was(arch: str) -> None:
    net, x = network(arch).train(), images(arch)
    before = copy.deepcopy(net.state_dict())
    Folded(net, x).refreshed()
    assert net.training and all(p.requires_grad for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
