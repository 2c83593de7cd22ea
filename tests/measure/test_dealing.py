"""Dealing: every shard has as many of the hard images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.attacks.losses import margin
from bench.measure.shards import boundary_distance, deal, in_order, shard_count


@pytest.mark.parametrize("n", [1, 15, 16, 200, 256, 257, 1000, 10_000])
def test_shards_hold_every_image_once_and_at_most_256(n):
    hardness = np.random.default_rng(0).random(n)
    for layout in (deal(hardness, shard_count(n)), in_order(n, shard_count(n))):
        assert sorted(np.concatenate(layout).tolist()) == list(range(n))
        assert max(map(len, layout)) <= 256
        assert max(map(len, layout)) - min(map(len, layout)) <= 1
        assert len(layout) == 1 if n < 16 else len(layout) >= 2


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40), st.integers(1, 5))
def test_the_hardest_are_shared_out_evenly(values, count):
    """However many images count as hard, no shard has two more of them than another; ties too."""
    hardness = np.array(values)
    layout = deal(hardness, count)
    for shard in layout:
        assert (np.diff(shard) > 0).all()
    ranked = np.argsort(-hardness, kind="stable")
    for hard in range(len(values) + 1):
        held = [len(np.intersect1d(shard, ranked[:hard])) for shard in layout]
        assert max(held) - min(held) <= 1


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_distance_is_exact_on_a_linear_model(norm, dual):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.rand(30, 3, 2, 2, dtype=torch.float64)
    y = torch.arange(30) % 2
    w = model[1].weight.detach()
    expected = (-margin(model(x).detach(), y)).clamp_min(0) / (w[0] - w[1]).norm(p=dual)
    found = boundary_distance(model, x, y, norm)
    assert np.allclose(found, expected, rtol=1e-5)
    assert 0 < (found == 0).sum() < 30
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_without_gradients_is_ranked_by_its_margin(net):
    x = torch.rand(6, 1, 8, 8)
    y = net(x).argmax(1)
    found = boundary_distance(lambda z: net(z).detach(), x, y, "linf")
    assert np.allclose(found, -margin(net(x).detach(), y))
    nothing = boundary_distance(lambda z: torch.full((len(z), 10), torch.nan), x, y, "linf")
    assert np.isfinite(nothing).all()
