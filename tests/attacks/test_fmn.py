"""FMN: the closed-form distance on linear models, and points that stay misclassified."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bench.attacks import fmn, pgd
from bench.attacks.fab import project_on_plane
from bench.attacks.geometry import distance
from bench.attacks.losses import fooled, margin
from bench.schema import ThreatModel
from bench.schema.threat import NORMS
from tests.attacks.problems import problem

ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def attack(model, x, y, norm, *, eps="0.1", **knobs):
    return fmn(problem(model, x, y, f"{norm}:{eps}"), **knobs)


def linear(seed: int, size: int = 4) -> tuple[nn.Module, torch.Tensor]:
    """A linear model of two classes in float64, and the normal of its boundary (D,)."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size**2, 2)).double()
    return model, (model[1].weight[1] - model[1].weight[0]).detach()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_closed_form_distance_of_a_linear_model(norm, seed):
    """|margin| / ||w||_dual where the box does not bind; at most 2 % above it, never below."""
    model, normal = linear(seed)
    dual = torch.linalg.vector_norm(normal, DUAL[norm])
    wanted = torch.linspace(0.02, 0.2, 20, dtype=torch.float64)
    flat = torch.rand(20, 16, dtype=torch.float64) * 0.02 + 0.49
    with torch.no_grad():  # move along the normal to where class 0 wins at the wanted distance
        model[1].bias[1] -= (model(flat.view(20, 1, 4, 4)) @ torch.tensor([-1.0, 1.0]).double())[0]
        gap = model(flat.view(20, 1, 4, 4)) @ torch.tensor([-1.0, 1.0]).double()
    flat -= ((gap + wanted * dual) / normal.square().sum())[:, None] * normal
    x, y = flat.float().view(20, 1, 4, 4), torch.zeros(20, dtype=torch.long)
    assert x.min() > 0.02  # the way back to the boundary leads towards 0.5: the box is not met
    assert x.max() < 0.98

    def network(z):
        return model(z.double())

    exact = margin(network(x), y).abs() / dual
    reached = distance(x, attack(network, x, y, norm), norm)
    assert (reached >= exact * (1 - 1e-6)).all()
    assert (reached <= exact * 1.02).all()


@pytest.mark.parametrize("norm", NORMS)
def test_comes_near_the_optimum_where_the_box_binds(norm):
    """Black and white pixels: half of the directions are closed; the optimum is a projection."""
    model, normal = linear(1, size=8)
    x = torch.rand(20, 1, 8, 8).round()

    def network(z):
        return model(z.double())

    y = network(x).argmax(1)
    flat, gap = x.flatten(1).double(), margin(network(x), y).detach()
    towards = torch.where(y[:, None] == 0, normal, -normal)
    move = project_on_plane(flat, towards, (towards * flat).sum(1) - gap, norm)
    best = torch.linalg.vector_norm(move, ORDER[norm], dim=1)
    assert torch.allclose((towards * move).sum(1), -gap)  # it can be reached
    reached = distance(x, attack(network, x, y, norm), norm)
    assert (reached >= best * (1 - 1e-6)).all()
    assert (reached <= best * 1.05).all()


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_found_is_misclassified_in_any_batch(norm, net, labelled):
    """And nothing else counts of the threat than its norm."""
    x, y = (part[:16] for part in labelled)
    x_adv = attack(net, x, y, norm, steps=30)
    alone = torch.cat([fooled(net(x_adv[i : i + 1]), y[i : i + 1]) for i in range(len(x))])
    assert alone.all()
    double = copy.deepcopy(net).double()
    assert fooled(double(x_adv.double()), y).all()
    assert torch.equal(attack(net, x, y, norm, steps=30, eps="0.3"), x_adv)


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_come_nearer_and_near_what_other_attacks_find(norm, net, labelled):
    x, y = labelled
    sums = [float(distance(x, attack(net, x, y, norm, steps=s), norm).sum()) for s in (10, 60)]
    assert sums[1] < sums[0]
    if norm != "linf":
        return
    distances = distance(x, attack(net, x, y, norm), norm)
    threat = ThreatModel.parse(f"{norm}:{float(distances.median()):.6f}")
    x_adv = pgd(problem(net, x, y, str(threat)), steps=40, loss="margin")
    broken = fooled(net(x_adv), y)
    assert int(broken.sum()) >= 12
    assert (distances[broken] <= threat.epsilon * 1.02).all()


def test_clean_errors_stay_and_where_nothing_is_found_the_image_comes_back(net, labelled):
    x, y = labelled
    wrong = fooled(net(x), y)
    assert torch.equal(attack(net, x, y, "linf", steps=5)[wrong], x[wrong])
    assert int(wrong.sum()) == 4

    def constant(z):
        return torch.tensor([2.0, 1.0]).expand(len(z), 2) + 0 * z.flatten(1)[:, :2]

    zeros = torch.zeros(len(x), dtype=torch.long)
    for norm in NORMS:
        assert torch.equal(attack(constant, x, zeros, norm, steps=5), x)


def test_logits_that_are_not_finite_count_as_misclassified():
    def breaks(z):
        first = z.flatten(1)[:, 0]
        logits = torch.stack([3 - first, first], 1)
        return torch.where(first[:, None] > 0.5, torch.nan, logits)

    x, y = torch.full((3, 1, 2, 2), 0.4), torch.zeros(3, dtype=torch.long)
    x_adv = attack(breaks, x, y, "linf", steps=60)
    assert (x_adv[:, 0, 0, 0] > 0.5).all()
    assert (distance(x, x_adv, "linf") < 0.2).all()
