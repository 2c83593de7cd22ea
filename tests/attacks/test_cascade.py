"""The attacks of the cascade: what leaves their verdicts as they are, and which walks they take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench import evaluate
from bench.attacks import ATTACKS, Search
from bench.attacks.cascade import _diversified, _nearest_classes, _Walk
from bench.attacks.geometry import Ball, admissible
from bench.attacks.losses import fooled, margin
from bench.protocols import protocol
from bench.schema import Column, Protocol
from tests.attacks.problems import problem
from tests.attacks.test_known_answers import _cnn_a
from tests.cascade import plans, study

WALKS = {"probes": 2, "opening": 1, "steps": 3, "restarts": 2, "long_opening": 2, "long_steps": 12}
DEAR = {"again": 2, "apgd_steps": 4, "targets": 3, "queries": 40}
SMALL = {
    "diverse": {"restarts": 3, "opening": 3, "steps": 4},
    "near-targets": {"targets": 3, "candidates": 5, "steps": 6},
    "probability-margin": {"steps": 8, "restarts": 2},
    "near-boundary": {**WALKS, **DEAR, "reach": 1.0, "close": 0.5},
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


@pytest.mark.parametrize("classes", [2, 3, 4, 100])
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
    wrong = min(9, classes - 1)
    assert {s.name: s.params.get("candidates", s.params.get("targets")) for s in specs} == {
        "near-targets": wrong, "probability-margin": None, "near-boundary": wrong
    }  # fmt: skip


def test_rows_fill_the_batch_to_the_end(net, labelled):
    """Restarts and targets are rows of their own: only the last batch of a wave is not full."""
    x, y = (part[:24] for part in labelled)
    sizes = []

    def counted(z):
        sizes.append(len(z))
        return net(z)

    search = Search(rows=32, verdict=lambda z, y, logits, image: torch.zeros_like(y).bool())
    params = {"restarts": 8, "opening": 2, "steps": 3}
    ATTACKS["diverse"].function(problem(counted, x, y, "linf:0.1", search=search), **params)
    assert max(sizes) <= 32
    assert sum(sizes) / len(sizes) > 0.75 * 32


def passes(name, model, x, y, threat, **params):
    """Forward and backward passes (2,), counted where they happen."""
    spent = [0, 0]

    def counted(z):
        def back(_):
            spent[1] += len(z)

        logits = model(z)
        spent[0] += len(z)
        if logits.requires_grad:
            logits.register_hook(back)
        return logits

    ATTACKS[name].function(problem(counted, x, y, threat, search=Search(rows=7)), **params)
    return spent


@pytest.mark.parametrize(
    ("name", "params", "forward", "backward"),
    [
        # The order of classes; 4 looks of each walk.
        ("diverse", {"restarts": 4, "opening": 1, "steps": 2}, 1 + 16, 16),
        ("diverse", {"restarts": 1, "opening": 1, "steps": 2}, 1 + 4, 4),
        # 2 short walks of 5 looks, 2 long ones of 15, everything.
        ("near-boundary", {**WALKS, **DEAR, "reach": 0.0, "close": 0.0}, 1 + 10, 10),
        ("near-boundary", {**WALKS, **DEAR, "reach": 1e9, "close": 0.0}, 1 + 10 + 30, 10 + 30),
        (
            "near-boundary",
            {**WALKS, **DEAR, "reach": 1e9, "close": 1e9},
            1 + 10 + 60 + 5 + (1 + 3 * 5) + (1 + 3 * 2 * 4) + 41,
            10 + 60 + 5 + 15 + 12,
        ),
        ("near-targets", {"targets": 3, "candidates": 5, "steps": 6}, 1 + 3 * 7, 5 + 3 * 7),
        ("probability-margin", {"steps": 8, "restarts": 2}, 1 + 2 * 9, 2 * 9),
    ],
)
def test_passes_of_an_image_that_stands(name, params, forward, backward, net, labelled):
    """Further walks and queries are for images that came near; the rows of a batch do not count."""
    x = labelled[0][:10]
    spent = passes(name, net, x, net(x).argmax(1), "linf:0.00001", **params)
    assert spent == [forward * len(x), backward * len(x)]


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2"])
def test_who_is_let_through_depends_on_no_other_image(threat, net, labelled):
    """Each image alone and with all others: the same point is found."""
    x, y = (part[:16] for part in labelled)
    params = {**SMALL["near-boundary"], "reach": 0.5, "close": 0.2}
    attack = ATTACKS["near-boundary"].function
    together = attack(problem(net, x, y, threat), **params)
    for i in range(len(x)):
        alone = attack(problem(net, x[[i]], y[[i]], threat), **params)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2"])
def test_everything_for_everybody_breaks_what_autoattack_breaks(threat, net, labelled):
    """From the same random numbers: what walks leave, AutoAttack's four are given."""
    x, y = labelled
    params = {"again": 0, "restarts": 0, "apgd_steps": 10, "targets": 9, "queries": 200}
    few = {"probes": 1, "opening": 0, "steps": 1}
    asked, fast = problem(net, x, y, threat), protocol("fast")
    found = ATTACKS["near-boundary"].function(asked, **few, **params, reach=0.0, close=1e9)
    broken = fooled(net(found), y)
    every = torch.arange(len(y))
    for name, own in (
        ("apgd-ce", {"steps": 10}), ("apgd-t", {"steps": 10, "targets": 9}),
        ("fab-t", {"targets": 9, "steps": 10}), ("square", {"queries": 200}),
    ):  # fmt: skip
        point = ATTACKS[name].function(asked.at(every, name), **own)
        inside = fooled(net(point), y) & admissible(x, point, asked.threat, fast)
        assert not (inside & ~broken).any(), name
    assert 0 < broken.sum() < len(y)


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2"])
def test_the_gate_is_the_distance_to_first_order(threat):
    """Of a linear model exactly: what is missing at the nearest point looked at."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x = torch.rand(12, 1, 4, 4) * 0.2 + 0.4
    y = model(x).argmax(1)
    asked = problem(model, x, y, threat)
    ball, looked = Ball.around(x, asked.threat), []

    def watching(z, y, logits, image):
        looked.append(-margin(logits, y).detach())
        return torch.zeros_like(y).bool()

    asked = problem(model, x, y, threat, search=Search(rows=99, verdict=watching))
    weights = torch.zeros(12, 3)
    walk = _Walk(1, 3, lambda z, y, _: margin(z, y))
    nearest = walk(asked, ball, [x.clone()], [weights])[2]
    assert len(looked) == 5
    w = model[1].weight.detach()
    slopes = [  # of the margin, between the true class and the best of the others
        [(w[j] - w[c]).norm(1 if threat[1] == "i" else 2) for j in range(3)] for c in y.tolist()
    ]
    for i in range(12):
        possible = [float(v[i] / s) for v in looked[1:4] for s in slopes[i] if s > 0]
        assert min(abs(float(nearest[i]) - p) for p in possible) < 1e-6


@EACH
def test_a_model_without_gradients_raises_nothing(name):
    """A slope of zero is no distance: nobody is near."""
    asked = []

    def answer(z):
        asked.append(len(z))
        return torch.tensor([3.0, 1.0, 2.0]).expand(len(z), 3)

    x, y = torch.rand(5, 1, 4, 4), torch.zeros(5).long()
    found = ATTACKS[name].function(problem(answer, x, y, "linf:0.1"), **SMALL[name])
    assert torch.equal(found, x)
    if name == "near-boundary":
        assert sum(asked) == 5 * (1 + 2 * 5)


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


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "proven", "standing"), [("adv", 97, 100), ("mix", 96, 106)])
def test_the_plan_on_networks_with_proven_bounds(name, proven, standing, shared):
    """AutoAttack leaves 101 and 106 of these 200 images, for about 9,800 passes each of them."""
    attacks = dict(plans.tried())[study.COLUMN]
    column = Column(name="cascade", label="Cascade", attacks=attacks)
    model, data = _cnn_a(shared, name)
    record = evaluate(
        model, data.images, data.labels, threat="linf:2/255",
        protocol=Protocol(name="cascade", version=1, columns=(column,)),
    )  # fmt: skip
    assert proven <= int(record.standing("cascade").sum()) <= standing
