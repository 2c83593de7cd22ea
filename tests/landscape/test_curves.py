"""Curves: the same directions for all, w bit for bit afterwards, and points that are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import landscape
from bench.attacks.losses import cross_entropy, fooled
from bench.landscape import record
from bench.landscape.curves import Look, at, directions, estimated_anew, look_at
from bench.landscape.weights import matrices, movable
from bench.schema import InvalidInput, MeasurementFailed, ThreatModel
from tests.landscape.conftest import Quadratic, half_square

THREAT = ThreatModel.parse("linf:0.1")


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in matrices(model).values()]


def test_a_filter_of_d_is_as_long_as_that_of_w(net):
    with torch.no_grad():
        net[0].weight[2] = 0
    for w, d in zip(weights(net), directions(weights(net), 0, 0), strict=True):
        for of_w, of_d in zip(w.flatten(1), d.flatten(1), strict=True):
            assert of_d.norm() == pytest.approx(of_w.norm().item(), rel=1e-5)
    assert all(p.dim() > 1 for p in matrices(net).values())


def test_networks_of_one_shape_go_the_same_way(make_net):
    one, other = (weights(make_net(seed=seed)) for seed in (0, 1))
    for a, b in zip(directions(one, 3, 1), directions(other, 3, 1), strict=True):
        a, b = a.flatten(1), b.flatten(1)
        assert torch.cosine_similarity(a, b, dim=1) == pytest.approx(torch.ones(len(a)), abs=1e-4)
    again, elsewhere, reseeded = (directions(one, *k) for k in ((3, 1), (3, 2), (4, 1)))
    first = directions(one, 3, 1)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], elsewhere[0]) and not torch.equal(first[0], reseeded[0])


@pytest.mark.parametrize("wrong", [KeyboardInterrupt, ValueError])
def test_w_comes_back_bit_for_bit_after_anything(net, unmoved, wrong):
    check = unmoved(net)
    with pytest.raises(wrong), at(net, directions(weights(net), 0, 0), 0.7):
        raise wrong
    check()


def test_a_model_that_raises_on_the_way_is_left_as_it_was(net, labelled, unmoved):
    calls = 0

    def fails(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ValueError("no")

    with_hook = net.train()
    check = unmoved(with_hook)
    handle = with_hook.register_forward_hook(fails)
    with pytest.raises(MeasurementFailed, match="the model raised ValueError: no"):
        landscape.curve(with_hook, *labelled, threat="linf:0.1")
    handle.remove()
    check()


def test_the_point_at_0_is_the_network_itself(net, labelled, unmoved):
    check = unmoved(net)
    x, y = labelled
    points = landscape.curve(net, x, y, threat="linf:0.1", alphas=(0, 1), directions=2)
    check()
    assert [p.place for p in points] == [(0, 0.0), (0, 1.0), (1, 1.0)]
    at_w = points[0].seen["test"]
    with torch.no_grad():
        assert at_w.clean_correct == int((~fooled(net(x), y)).sum()) == 44
        assert at_w.clean_loss == pytest.approx(cross_entropy(net(x), y).mean().item(), rel=1e-5)
    assert at_w.robust_loss > at_w.clean_loss
    assert all(p.seen["test"].clean_correct < 44 for p in points[1:])


def test_a_point_is_that_of_the_network_moved_by_hand(net, labelled):
    moved = landscape.curve(net, *labelled, threat="linf:0.1", alphas=(0, 0.5))[1]
    for w, d in zip(matrices(net).values(), directions(weights(net), 0, 0), strict=True):
        w.data.add_(0.5 * d)
    by_hand = landscape.curve(net, *labelled, threat="linf:0.1", alphas=(0, 1))[0]
    assert moved.seen == by_hand.seen


def test_fixed_examples_attack_the_network_at_w(net, labelled):
    fly, fixed = (
        landscape.curve(net, *labelled, threat="linf:0.1", alphas=(0, 1), fixed=each)
        for each in (False, True)
    )
    assert fly[0] == fixed[0]
    assert fixed[1].seen["test"].clean_loss == fly[1].seen["test"].clean_loss
    assert fixed[1].seen["test"].robust_loss < fly[1].seen["test"].robust_loss


def test_a_loss_and_an_attack_of_ones_own():
    model, x = Quadratic(), torch.rand(5, 1, 8, 8)
    points = landscape.curve(
        model, x, torch.zeros(5, dtype=torch.int64), threat="linf:0.1", alphas=(-1, 0, 1),
        attack=lambda problem: problem.x, loss=half_square,
    )  # fmt: skip
    (d,), w = directions([model.w.detach()], 0, 0), model.w.detach()
    for point in points:
        expected = 0.5 * (w + point.alpha * d).square().sum().item()
        assert point.seen["test"].robust_loss == pytest.approx(expected, rel=1e-5)


def test_a_far_point_that_is_no_number_is_a_named_gap(net, labelled):
    with torch.no_grad():
        net[0].weight.mul_(1e20)
        net[4].weight.mul_(1e18)
    look = Look(THREAT, lambda problem: problem.x)
    points = [
        look_at(net, {"test": labelled}, look, direction=0, alpha=alpha) for alpha in (0.0, 9.0)
    ]
    gaps = [p for p in points if p.gap]
    assert gaps and all(p.gap == "the loss on test images is not finite" for p in gaps)
    assert all(not p.seen for p in gaps)


def test_statistics_estimated_anew_are_those_of_the_moved_network(net, labelled, unmoved):
    check, (x, _) = unmoved(net), labelled
    with at(net, directions(weights(net), 0, 0), 1.0), estimated_anew(net, x):
        with torch.no_grad():
            before = net[0](x)
        assert net[1].running_mean == pytest.approx(before.mean((0, 2, 3)), abs=1e-5)
        assert not net[1].training
    check()
    look = Look(THREAT, lambda problem: problem.x, anew=True)
    assert look_at(net, {"test": labelled}, look, direction=0, alpha=1.0).seen
    check()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda net, x, y: landscape.curve(net, x, y, threat="linf:0.1", alphas=[0]), "one other"),
        (lambda net, x, y: landscape.curve(net, x, y, threat="linf:0.1", alphas=[1]), "alpha 0"),
        (
            lambda net, x, y: landscape.curve(
                net, x, y, threat="linf:0.1", alphas=[0, float("nan")]
            ),
            "alpha must lie in",
        ),
        (
            lambda net, x, y: landscape.curve(net, x, y, threat="linf:0.1", directions=0),
            "at least 1",
        ),
        (lambda net, x, y: landscape.curve(net, x, y, threat="l1:1"), "under linf or l2"),
        (lambda net, x, y: landscape.curve(net, x, y, threat="linf:0.1", attack="pdg"), "pgd10"),
        (lambda net, x, y: landscape.curve(nn.Flatten(), x, y, threat="linf:0.1"), "no weights"),
        (
            lambda net, x, y: landscape.curve(nn.BatchNorm2d(1).eval(), x, y, threat="linf:0.1"),
            "no weights",
        ),
        (
            lambda net, x, y: landscape.curve(lambda x: net(x), x, y, threat="linf:0.1"),
            "no weights",
        ),
        (lambda net, x, y: estimated_anew(nn.Linear(2, 2), x).__enter__(), "no BatchNorm"),
    ],
)
def test_what_is_no_landscape_is_refused(net, labelled, call, said):
    with pytest.raises(InvalidInput, match=said):
        call(net, *labelled)


@pytest.mark.parametrize("points", [2, 1, 0, -1, -3, 4, 203])
def test_points_that_are_no_curve(points):
    with pytest.raises(InvalidInput, match=f"odd number from 3 to 201.*got {points}"):
        record.alphas_of(points)


def test_alphas_are_even_and_hold_0():
    assert record.alphas_of(5) == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert record.alphas_of(21)[10] == 0 and record.alphas_of(21)[13] == 0.3
    assert set(record.alphas_of(11)) < set(record.alphas_of(21))
    with pytest.raises(InvalidInput, match="got 11"):
        record.alphas_of(3, 11)


def test_movable_adds_once_and_returns_exactly():
    w = nn.Parameter(torch.tensor([1e8, 1.0]))
    with movable([w]) as (_, place):
        place([torch.tensor([1e-3, 2.0])])
        place([torch.tensor([0.0, 3.0])])
        assert w.tolist() == [1e8, 4.0]
    assert w.tolist() == [1e8, 1.0]


def test_the_attack_is_written_whole():
    spec = record.attack_named("PGD7", THREAT)
    assert (spec.params["steps"], spec.params["iterate"]) == (7, "last")
