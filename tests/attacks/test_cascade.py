"""The attacks of the cascade: what leaves their verdicts as they are, and which walks they take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.attacks import ATTACKS, Search
from bench.attacks.cascade import _diversified, _nearest_classes, _Walk
from bench.attacks.losses import fooled
from bench.protocols import protocol
from tests.attacks.problems import problem

SMALL = {
    "diverse": {"restarts": 4, "opening": 3, "steps": 4},
    "diverse-long": {"restarts": 3, "opening": 3, "steps": 12, "reach": 1.0},
    "near-targets": {"targets": 3, "candidates": 5, "steps": 6},
    "probability-margin": {"steps": 8, "restarts": 2},
    "square-within": {"queries": 40, "steps": 4, "reach": 1.0},
}
EACH = pytest.mark.parametrize("name", SMALL)
THREATS = pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2"])


def broken(name, model, x, y, threat, **more):
    found = ATTACKS[name].function(problem(model, x, y, threat, **more), **SMALL[name])
    return fooled(model(found), y)


@THREATS
@EACH
def test_the_scale_of_logits_decides_nothing(name, threat, net, labelled):
    x, y = labelled
    plain = broken(name, net, x, y, threat)
    assert 0 < int(plain.sum()) < len(y)
    for scale in (1e4, 1e-4):
        assert torch.equal(broken(name, lambda z, k=scale: net(z) * k, x, y, threat), plain)


@THREATS
@EACH
def test_the_order_of_classes_decides_nothing(name, threat, net, labelled):
    x, y = labelled
    order = torch.randperm(10)

    def renamed(z):
        return net(z)[:, order]

    there = order.argsort()[y]
    assert torch.equal(broken(name, renamed, x, there, threat), broken(name, net, x, y, threat))


@EACH
def test_the_scale_of_hidden_units_decides_nothing(name, net, labelled):
    """By powers of two, which round nothing."""
    x, y = labelled
    plain = broken(name, net, x, y, "linf:0.03")
    with torch.no_grad():
        factors = 2.0 ** torch.arange(-4, 4)
        net[1].weight.mul_(factors)
        net[1].bias.mul_(factors)
        net[4].weight.div_(factors.repeat_interleave(64))
    assert torch.equal(broken(name, net, x, y, "linf:0.03"), plain)


@pytest.mark.parametrize("classes", [2, 3, 12])
@EACH
def test_any_number_of_classes(name, classes):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    x = torch.rand(30, 1, 4, 4)
    y = model(x).argmax(1)
    assert int(broken(name, model, x, y, "linf:0.1").sum()) > 0


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_column_asks_for_no_more_classes_than_there_are(norm, classes):
    specs = protocol("fast", norm=norm, classes=classes).columns[-1].attacks
    assert [s.name for s in specs] == [*SMALL][:1] + ["near-targets", "probability-margin"] + [
        "diverse-long",
        "square-within",
    ]
    assert specs[1].params["candidates"] == min(9, classes - 1)


def test_rows_fill_the_batch_to_the_end(net, labelled):
    """Restarts and targets are rows of their own: only the last batch of a wave is not full."""
    x, y = (part[:24] for part in labelled)
    sizes = []

    def counted(z):
        sizes.append(len(z))
        return net(z)

    search = Search(rows=32, verdict=lambda z, y, logits, image: torch.zeros_like(y).bool())
    params = {"restarts": 9, "opening": 2, "steps": 3}
    ATTACKS["diverse"].function(problem(counted, x, y, "linf:0.1", search=search), **params)
    assert max(sizes) <= 32
    assert sum(sizes) / len(sizes) > 0.75 * 32


@pytest.mark.parametrize(("reach", "walks"), [(0.0, 1), (1e9, 5)])
def test_further_restarts_are_for_images_that_came_near(reach, walks, net, labelled):
    x, spent = labelled[0][:10], []

    def counted(z):
        spent.append(len(z))
        return net(z)

    asked = problem(counted, x, net(x).argmax(1), "linf:0.00001")
    ATTACKS["diverse"].function(asked, restarts=5, opening=1, steps=2, reach=reach)
    assert sum(spent) == len(x) * (1 + 4 * walks)  # the order of classes, then 4 looks a walk


def test_the_nearest_boundary_is_not_that_of_the_likeliest_class():
    """z = (3, 2, 1) at the image: class 1 is likelier, but its boundary has a gentle slope."""
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[1], model.weight[2] = 0.01, 1.0
        model.bias.copy_(torch.tensor([3.0, 1.98, -1.0]))
    flat = nn.Sequential(nn.Flatten(), model)
    x = torch.full((2, 1, 2, 2), 0.5)
    for threat in ("linf:0.1", "l2:0.1"):
        chosen, classes = _nearest_classes(problem(flat, x, torch.zeros(2).long(), threat), 1, 9)
        assert (chosen.tolist(), classes) == ([[2], [2]], 3)


@pytest.mark.parametrize(("steps", "least"), [(8, 0.1), (50, 0.001)])
def test_steps_shrink_with_a_cosine(steps, least):
    lengths = _Walk(3, steps, lambda logits, y, guide: y).lengths()
    assert lengths[:4].tolist() == [0.0, 1.0, 1.0, 1.0]
    turn = [math.pi * s / (steps + 1) for s in range(1, steps + 1)]
    wanted = [least + (1 - least) * (1 + math.cos(t)) / 2 for t in turn]
    assert lengths[4:].tolist() == pytest.approx(wanted)
    assert lengths[-1] > least


def test_a_diversified_start_climbs_another_class_each_time(net, labelled):
    x, y = (part[:40] for part in labelled)
    asked = problem(net, x, y, "linf:0.1")
    order = torch.stack(
        [torch.cat([y[i : i + 1], (y[i] + 1 + torch.arange(9)) % 10]) for i in range(40)]
    )
    true = []
    for restart in range(11):
        weights = _diversified(asked, order, restart)
        ranked = weights.gather(1, order)
        assert (ranked[:, 1 + restart % 9] == 0.8).all()
        assert (ranked[:, 1:].abs() <= 1).all()
        true.append((float(ranked[:, 0].min()), float(ranked[:, 0].max())))
    assert all(low >= -0.1 and high <= 0.5 for low, high in true[::2])
    assert all(low >= -0.8 and high <= 0.1 and low < -0.4 for low, high in true[1::2])
