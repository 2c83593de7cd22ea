"""Flatness: closed forms, what must not change it, and weights bit for bit afterwards."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from bench import flatness
from bench.attacks.losses import normalised, normalised_margin
from bench.landscape.flatness import Batch, climbed
from bench.landscape.rises import PUBLISHED, Rise, Settings, rise
from bench.landscape.weights import every, matrices, outside_norm_layers
from bench.schema import InvalidInput, MeasurementFailed, ThreatModel
from tests.landscape.conftest import Quadratic, half_square

MEASURES = tuple(PUBLISHED)
# Small, but every loop turns more than once.
SMALL = Settings(radius=0.05, steps=4, draws=2, attack_steps=3, restarts=2, batch=12)


def taken(model: nn.Module, images, name: str, **changes: float) -> list[Rise]:
    settings = SMALL.model_copy(update=changes)
    return flatness.measure(model, *images, name, threat="linf:0.1", settings=settings)


def means(rises: list[Rise]) -> dict[str, float]:
    return {loss: rise(rises, loss).estimate for loss in rises[0].at_w}


class Times(nn.Module):
    """The logits of a network times a number."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.factor * self.net(x)


@pytest.mark.parametrize("name", MEASURES)
def test_the_network_is_left_bit_for_bit(name, net, labelled, unmoved):
    net.train()
    net[0].weight.requires_grad_(False)
    check = unmoved(net)
    taken(net, labelled, name)
    check()


@pytest.mark.parametrize("name", MEASURES)
def test_the_network_is_left_bit_for_bit_where_it_raises(name, net, labelled, unmoved):
    check, calls = unmoved(net), 0

    def fails(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ValueError("no")

    handle = net.register_forward_hook(fails)
    with pytest.raises(MeasurementFailed, match="ValueError: no"):
        taken(net, labelled, name)
    handle.remove()
    check()


@pytest.mark.parametrize("factor", [0.1, 10.0, 0.125])
@pytest.mark.parametrize("name", MEASURES)
def test_a_factor_on_the_logits_changes_neither_normalised_nor_error(name, factor, relu_net, some):
    x, y = some  # in float64: 0.1 is not exact, and a gradient's sign may turn with a rounding
    relu_net, some = relu_net.double(), (x.double(), y)
    as_it_is, scaled = (means(taken(m, some, name)) for m in (relu_net, Times(relu_net, factor)))
    for loss in ("normalised_cross_entropy", "error"):
        assert scaled[loss] == pytest.approx(as_it_is[loss], rel=1e-6, abs=1e-6)
    assert scaled["cross_entropy"] != pytest.approx(as_it_is["cross_entropy"], rel=0.05)


@pytest.mark.parametrize("name", MEASURES)
def test_scaling_whole_layers_against_each_other_changes_nothing(name, relu_net, some):
    other = copy.deepcopy(relu_net)
    with torch.no_grad():
        other[1].weight.mul_(4)
        other[1].bias.mul_(4)
        other[3].weight.div_(4)
        assert torch.equal(other(some[0]), relu_net(some[0]))
    assert means(taken(other, some, name)) == pytest.approx(
        means(taken(relu_net, some, name)), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("name", ["sharpness", "adversarial-sharpness"])
def test_scaling_single_units_changes_no_adaptive_measure(name, relu_net, some):
    other = copy.deepcopy(relu_net)
    factors = 2.0 ** torch.randint(-3, 4, (16,))
    with torch.no_grad():
        other[1].weight.mul_(factors[:, None])
        other[1].bias.mul_(factors)
        other[3].weight.div_(factors)
    assert means(taken(other, some, name)) == pytest.approx(
        means(taken(relu_net, some, name)), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "average"])
def test_a_wider_radius_rises_higher(name, relu_net, some):
    near, far = (means(taken(relu_net, some, name, radius=radius)) for radius in (0.01, 0.2))
    assert far["normalised_cross_entropy"] > near["normalised_cross_entropy"] >= 0
    assert far["cross_entropy"] > near["cross_entropy"]


def test_norm_layers_count_where_the_paper_counts_them(net):
    """average and worst do not move BatchNorm; curves move no bias either."""
    names = [set(moves(net)) for moves in (every, outside_norm_layers, matrices)]
    outside = {"0.weight", "0.bias", "4.weight", "4.bias"}
    assert names == [outside | {"1.weight", "1.bias"}, outside, {"0.weight", "4.weight"}]


@pytest.mark.parametrize("name", ["average", "worst"])
def test_a_network_of_norm_layers_has_no_such_flatness(name, labelled):
    with pytest.raises(InvalidInput, match="no weights"):
        taken(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()).eval(), labelled, name)


# ---------------------------------------------------------------- closed forms


def quadratic(radius: float, draws: int = 1) -> Batch:
    settings = Settings(radius=radius, steps=20, draws=draws, attack_steps=1, restarts=1, batch=9)
    x, y = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    return Batch(Quadratic(), x, y, 0, None, settings, told={"half": half_square})


@pytest.mark.parametrize("radius", [0.001, 0.1, 0.5])
def test_sharpness_of_a_quadratic_is_its_corner(radius):
    batch = quadratic(radius)
    whole = half_square(batch.model.w.detach(), batch.y[:1]).item()
    (found,) = flatness.sharpness(batch, half_square)
    assert found.at_w["half"] == pytest.approx(whole, rel=1e-5)
    expected = whole * (1 + radius) ** 2
    assert found.beside["half"] == pytest.approx(expected, rel=1e-5)


def test_the_average_rise_of_a_quadratic():
    batch = quadratic(0.5, draws=200)
    whole = half_square(batch.model.w.detach(), batch.y[:1]).item()
    found = rise(flatness.average(batch), "half")
    assert found.low < whole * 0.25 < found.high  # E |w + v|^2 - |w|^2 = |v|^2
    assert found.high - found.low < 0.2 * whole


@pytest.mark.parametrize("radius", [0.003, 0.2])
def test_the_worst_rise_of_a_quadratic(radius, monkeypatch):
    monkeypatch.setattr(flatness, "normalised_margin", half_square)  # what is ascended
    batch = quadratic(radius, draws=2)
    whole = half_square(batch.model.w.detach(), batch.y[:1]).item()
    (found,) = flatness.worst(batch)
    assert found.beside["half"] == pytest.approx(whole * (1 + radius) ** 2, rel=1e-3)


def test_the_climb_reaches_the_corner_of_a_linear_loss():
    slope = [torch.tensor([1.0, -2.0]), torch.tensor([[0.5]])]
    bounds = [torch.tensor([0.1, 0.2]), torch.tensor([[0.0]])]

    def look(v):
        return sum(float((s * t).sum()) for s, t in zip(slope, v, strict=True)), slope

    first, second = climbed(look, bounds, 20)
    assert first.tolist() == pytest.approx([0.1, -0.2])
    assert second.tolist() == [[0.0]]


# ---------------------------------------------------------------- numbers


def test_intervals_are_over_batches_and_of_one_batch_over_draws():
    def one(batch: int, beside: float) -> Rise:
        return Rise(batch=batch, n=4, at_w={"error": 0.25}, beside={"error": beside})

    apart = rise([one(0, 0.25), one(0, 0.75), one(1, 0.5)], "error")
    assert (apart.estimate, apart.low, apart.high) == (0.25, 0.25, 0.25)
    alone = rise([one(0, 0.25), one(0, 0.75)], "error")
    assert alone.estimate == 0.25 and alone.low < 0 < alone.high
    assert math.isinf(rise([one(0, 0.5)], "error").low)


def test_batches_are_of_even_size(relu_net, some):
    found = taken(relu_net, some, "average", batch=10)
    assert [(r.batch, r.n) for r in found] == [(b, 8) for b in range(3) for _ in range(2)]


def test_normalised_logits():
    z = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    assert normalised(z)[0] == pytest.approx(z[0] / math.sqrt(2 / 3))
    assert torch.equal(normalised(z)[1], z[1])
    assert normalised_margin(7 * z, torch.tensor([2, 0]))[0] == pytest.approx(-math.sqrt(1.5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "flat"}, "no measure named 'flat'; there are average"),
        ({"name": "adversarial-sharpness", "threat": None}, "needs a threat model"),
        ({"x": torch.rand(0, 1, 8, 8), "y": torch.zeros(0, dtype=torch.int64)}, "one image"),
        ({"model": nn.Flatten()}, "no weights"),
        ({"threat": "linf:9"}, "pixel range"),
    ],
)
def test_what_has_no_flatness_is_refused(change, said, relu_net, some):
    x, y = some
    call = {"model": relu_net, "x": x, "y": y, "name": "average", "threat": "linf:0.1"} | change
    with pytest.raises(InvalidInput, match=said):
        flatness.measure(**call)


def test_a_loss_that_is_no_number_is_a_failure_and_no_flatness(relu_net, some):
    with torch.no_grad():
        relu_net[1].weight.mul_(1e30)
        relu_net[3].weight.mul_(1e30)
    with pytest.raises(MeasurementFailed, match="not finite"):
        taken(relu_net, some, "average")


def test_a_stronger_attack_is_the_same_question_for_w_and_beside(relu_net, some):
    """More restarts never lower what the attack ascends, at w as beside it."""
    threat = ThreatModel.parse("linf:0.1")

    def reached(restarts: int) -> float:
        settings = SMALL.model_copy(update={"restarts": restarts})
        told = {"margin": normalised_margin}
        batch = Batch(relu_net, *some, 0, threat, settings, told=told)
        return batch.heights(batch.crafted())["margin"]

    assert reached(3) >= reached(1) - 1e-6
