"""Square looks at several proposals of an image at once, and walks as if it looked at one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.attacks import Search, square
from tests.attacks.problems import problem

QUERIES = 90


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.Tanh(), nn.Linear(16, 4)
    return nn.Sequential(*layers).double().eval()


@pytest.fixture(scope="module")
def images(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    return x, net(x).argmax(1)


@pytest.mark.parametrize("threat", ["linf:0.02", "l2:0.3", "l1:2"])
def test_the_walk_does_not_depend_on_how_far_it_looks_ahead(net, images, threat):
    x, y = images
    calls = []

    def counted(z):
        calls.append(len(z))
        return net(z)

    def attack(rows):
        calls.clear()
        return square(problem(counted, x, y, threat, search=Search(rows=rows)), queries=QUERIES)

    one_by_one, walked = attack(1), QUERIES + 1
    assert max(calls) == 1
    for rows in (3, 64):
        assert torch.equal(attack(rows), one_by_one)
        assert max(calls) <= max(rows, len(x))
    assert len(calls) < walked  # there was room to look ahead: fewer calls than queries
    assert max(calls) >= len(x)
