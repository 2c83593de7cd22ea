"""SPSA: its slopes are right, it climbs without gradients, and what it costs is bounded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.attacks import Search
from bench.attacks.geometry import distance
from bench.attacks.losses import fooled, margin
from bench.attacks.spsa import _directions, _slope, spsa
from bench.schema import ThreatModel
from bench.streams import Streams
from tests.attacks.problems import AS_USUAL, problem


def attack(model, x, y, threat, *, seed=0, search=AS_USUAL, **knobs):
    return spsa(problem(model, x, y, threat, seed=seed, search=search), **knobs)


def linear(classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def test_slope_is_the_gradient_on_average():
    """On a linear model an estimate is g + noise of size |g| sqrt(D / S), and exact where D = S = 1."""
    model = linear().double()
    z, y = torch.rand(1, 1, 4, 4, dtype=torch.float64) * 0.5 + 0.25, torch.tensor([0])
    gradient = (model[1].weight[1] - model[1].weight[0]).detach()
    for samples in (100, 6400):
        signs = _directions(Streams.for_images(z, 0), samples, z, 0)
        with torch.no_grad():
            error = _slope(problem(model, z, y, "linf:0.1"), z, signs, 0.001).flatten() - gradient
        expected = gradient.norm() * (16 / samples) ** 0.5
        assert 0.5 * expected < error.norm() < 1.5 * expected


def test_directions_are_fair_signs_and_differ_between_steps_and_images():
    x = torch.rand(2, 3, 8, 8)
    streams = Streams.for_images(x, 0)
    first, later = (_directions(streams[:1], 200, x, step) for step in (0, 1))
    other = _directions(streams[1:], 200, x, 0)
    assert first.shape == (200, 3, 8, 8)
    assert set(first.flatten().tolist()) == {-1.0, 1.0}
    for a, b in ((first, later), (first, other), (first[:100], first[100:])):
        assert abs((a * b).mean()) < 0.02
    assert abs(first.mean()) < 0.02
    rows = first.flatten(1)
    assert ((rows @ rows.T / rows.shape[1]).fill_diagonal_(0)).abs().max() < 0.45


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.1"])
def test_fools_a_linear_model_where_the_optimum_says_it_can(threat):
    """Linf: the optimum is eps * sign(w). L2: Adam's equal steps lead to eps * sign(w) / sqrt(D)."""
    model = linear()
    x = torch.rand(20, 1, 4, 4) * 0.4 + 0.3  # the box does not bind
    with torch.no_grad():
        model[1].bias -= model(x).mean(0)  # some images near the boundary, some far
        y = model(x).argmax(1)
        start = margin(model(x), y)
    parsed = ThreatModel.parse(threat)
    normal = (model[1].weight[1] - model[1].weight[0]).detach()
    dual, equal = normal.abs().sum(), normal.abs().sum() / 4
    can = start + parsed.epsilon * (dual if parsed.norm == "linf" else normal.norm()) > 0
    must = start + 0.95 * parsed.epsilon * (dual if parsed.norm == "linf" else equal) > 0
    x_adv = attack(model, x, y, threat, steps=20)
    broken = fooled(model(x_adv), y)
    assert (broken | ~must).all()
    assert (can | ~broken).all()
    assert int(must.sum()) > 0
    assert int(can.sum()) < len(x)


def test_climbs_where_there_is_no_gradient(net, labelled):
    x, y = labelled

    def no_gradient(z):
        return net(z.detach()).detach()

    before = int(fooled(net(x), y).sum())
    x_adv = attack(no_gradient, x, y, "linf:0.1", steps=20, samples=32)
    assert int(fooled(net(x_adv), y).sum()) > before + 20
    assert distance(x, x_adv, "linf").max() <= 0.1


def test_rows_bound_the_batch_and_do_not_change_the_outcome(net, labelled):
    x, y = labelled[0][8:12], labelled[1][8:12]
    sizes = []

    def counted(z):
        sizes.append(len(z))
        assert z.min() >= 0
        assert z.max() <= 1
        return net(z)

    few = attack(counted, x, y, "linf:0.01", steps=4, samples=20, search=Search(rows=6))
    assert max(sizes) == 6
    standing = ~fooled(net(few), y)
    assert sum(sizes) <= len(x) * 4 * (2 * 20 + 1)
    assert sum(sizes) >= int(standing.sum()) * 4 * (2 * 20 + 1)
    assert bool(standing.any())
    many = attack(net, x, y, "linf:0.01", steps=4, samples=20)
    assert torch.allclose(few, many, atol=1e-5)


def test_images_leave_when_they_are_fooled(net, labelled):
    x, y = labelled[0][8:9], labelled[1][8:9]
    looks = []

    def counted(z):
        looks.append(len(z))
        return net(z) if len(looks) < 6 else net(z).roll(1, 1)  # wrong from the second step on

    attack(counted, x, y, "linf:0.001", steps=50, samples=8)
    assert looks == [8, 8, 1, 8, 8, 1]


def test_a_probe_without_an_answer_is_left_out(net, labelled):
    """Infinite logits at half of the probes: the search goes on with the others."""
    x, y = labelled[0][8:10], labelled[1][8:10]

    def holes(z):
        logits = net(z)
        if len(z) > 1:
            logits[::2] = torch.inf
        return logits

    x_adv = attack(holes, x, y, "linf:0.05", steps=5, samples=16)
    assert torch.isfinite(x_adv).all()
    assert (x_adv != x).flatten(1).any(1).all()
