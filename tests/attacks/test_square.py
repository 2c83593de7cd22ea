"""Square looks at several proposals of an image at once, and walks as if it looked at one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.attacks import Search, square
from bench.attacks.square import _side, _stretches
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


def test_stretches_cover_every_query_once_and_have_one_size():
    def size(query):
        return 8 if query < 11 else 5

    stretches = list(_stretches(700, size))
    assert [q for first, last in stretches for q in range(first, last)] == list(range(700))
    assert all(size(first) == size(last - 1) for first, last in stretches)
    assert stretches[0] == (0, 11)


def test_side_follows_the_published_schedule():
    """Shares 0.8, halved after 10, 50, 200, 500, 1000, 2000 and 4000 queries."""
    sides = [_side(q, 0.8, 32 * 32) for q in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001)]
    shares = (0.8, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625)
    assert sides == [max(1, round((share * 1024) ** 0.5)) for share in shares]
