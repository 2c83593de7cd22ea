"""The attacks of the cascade: what leaves their verdicts as they are, and which walks they take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench import evaluate
from bench.attacks import ATTACKS, Search
from bench.attacks.cascade import EVERYWHERE, _diversified, _nearest_classes, _Walk
from bench.attacks.geometry import Ball
from bench.attacks.losses import fooled, margin
from bench.protocols import protocol
from bench.schema import Column, Protocol
from tests.attacks.problems import problem
from tests.attacks.test_known_answers import _cnn_a
from tests.cascade import plans, study

GATE = {"probe_opening": 1, "probe_steps": 3, "reach": 1.0}
SMALL = {
    "diverse": {"restarts": 3, "opening": 3, "steps": 4},
    "diverse-long": {"restarts": 3, "opening": 3, "steps": 12, **GATE},
    "near-targets": {"targets": 3, "candidates": 5, "steps": 6},
    "probability-margin": {"steps": 8, "restarts": 2},
    "square-within": {"queries": 40, **GATE},
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
        # The order of classes; 3 looks of the probe; 4 looks of each walk.
        ("diverse", {"restarts": 4, "opening": 1, "steps": 2, "reach": 1e9}, 1 + 3 + 16, 3 + 16),
        ("diverse", {"restarts": 4, "opening": 1, "steps": 2, "reach": 0.0}, 1 + 3, 3),
        ("diverse", {"restarts": 0, "opening": 1, "steps": 2, "reach": 1e9}, 1 + 3, 3),
        ("square-within", {"queries": 20, "reach": 1e9}, 1 + 3 + 1 + 20, 3),
        ("square-within", {"queries": 20, "reach": 0.0}, 1 + 3, 3),
        ("near-targets", {"targets": 3, "candidates": 5, "steps": 6}, 1 + 3 * 7, 5 + 3 * 7),
        ("probability-margin", {"steps": 8, "restarts": 2}, 1 + 2 * 9, 2 * 9),
    ],
)
def test_passes_of_an_image_that_stands(name, params, forward, backward, net, labelled):
    """Further walks and queries are for images that came near; the rows of a batch do not count."""
    x = labelled[0][:10]
    if "reach" in params:
        params = {**params, "probe_opening": 0, "probe_steps": 2}
    spent = passes(name, net, x, net(x).argmax(1), "linf:0.00001", **params)
    assert spent == [forward * len(x), backward * len(x)]


@pytest.mark.parametrize("name", ["diverse", "diverse-long", "square-within"])
@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2"])
def test_who_is_let_through_depends_on_no_other_image(name, threat, net, labelled):
    """Each image alone and with all others: the same point is found."""
    x, y = (part[:16] for part in labelled)
    params = {**SMALL[name], "reach": 0.5}
    together = ATTACKS[name].function(problem(net, x, y, threat), **params)
    for i in range(len(x)):
        alone = ATTACKS[name].function(problem(net, x[[i]], y[[i]], threat), **params)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


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


@pytest.mark.parametrize("name", ["diverse", "diverse-long", "square-within", "near-targets"])
def test_a_model_without_gradients_lets_everybody_through_and_raises_nothing(name):
    """A slope of zero is no distance; `EVERYWHERE` leaves nobody out, smaller reaches everybody."""
    asked = []

    def answer(z):
        asked.append(len(z))
        return torch.tensor([3.0, 1.0, 2.0]).expand(len(z), 3)

    x, y = torch.rand(5, 1, 4, 4), torch.zeros(5).long()
    params = {"targets": 2, "candidates": 2, "steps": 3}
    if name != "near-targets":
        params = {**SMALL[name], **GATE, "reach": EVERYWHERE}
    found = ATTACKS[name].function(problem(answer, x, y, "linf:0.1"), **params)
    assert torch.equal(found, x)
    everybody = sum(asked)
    if name != "near-targets":
        asked.clear()
        params["reach"] = EVERYWHERE / 2
        ATTACKS[name].function(problem(answer, x, y, "linf:0.1"), **params)
        assert sum(asked) == 5 * (1 + 5) < everybody


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
    attacks = (*dict(plans.tried())[study.COLUMN], plans.square(0.1))
    column = Column(name="cascade", label="Cascade", attacks=attacks)
    model, data = _cnn_a(shared, name)
    record = evaluate(
        model, data.images, data.labels, threat="linf:2/255",
        protocol=Protocol(name="cascade", version=1, columns=(column,)),
    )  # fmt: skip
    assert proven <= int(record.standing("cascade").sum()) <= standing
