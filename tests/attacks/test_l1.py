"""L1: the sparse step, its schedule, and both attacks beside the published code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pyautoattack import autopgd_base
from pyautoattack import square as published_square

from bench.attacks import ATTACKS, Search
from bench.attacks.apgd import (
    _begin_l1,
    _check_l1,
    _climb_l1,
    large_step_phases,
    moved_components,
    sparse_ascent,
)
from bench.attacks.geometry import Ball
from bench.attacks.losses import fooled, margin
from bench.attacks.problem import Problem
from bench.attacks.reference import reference_attack
from bench.attacks.square import _bumps, bump
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from bench.streams import Streams
from tests.attacks.problems import NOBODY_LEAVES, problem, streams_by_place


def test_sparse_ascent_moves_the_steepest_share():
    grad = torch.randn(5, 2, 3, 4)
    share = torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0])
    step = sparse_ascent(grad, share)
    flat, steep = step.flatten(1), grad.flatten(1).abs()
    assert torch.allclose(flat.abs().sum(1), torch.ones(5))
    # The number left out is rounded down: of 24 components 0.1 takes 3, not 2.
    assert (flat != 0).sum(1).tolist() == [1, 3, 6, 12, 24]
    moved = flat != 0
    assert (steep.masked_fill(~moved, 9).amin(1) >= steep.masked_fill(moved, 0).amax(1)).all()
    assert torch.equal(flat.sign()[moved], grad.flatten(1).sign()[moved])
    assert not sparse_ascent(torch.zeros_like(grad), share).any()
    alone = torch.cat([sparse_ascent(grad[i : i + 1], share[i : i + 1]) for i in range(5)])
    assert torch.equal(alone, step)


def climbers(moved, *, resumed=False):
    """Rows on images of 4 x 5 whose best points have moved so many components."""
    x = torch.zeros(len(moved), 1, 4, 5)
    z = x.clone()
    for row, count in enumerate(moved):
        z[row].view(-1)[:count] = 1.0
    asked = problem(None, x, torch.zeros(len(moved), dtype=torch.long), "l1:12")
    places = torch.arange(len(moved))
    return _begin_l1(asked, places, places, z, 12.0, resumed=resumed)


def test_step_shrinks_until_the_best_point_becomes_sparser():
    rows = climbers([18, 20, 19])
    assert rows.share.tolist() == pytest.approx([0.2] * 3)
    assert rows.before.tolist() == [20] * 3
    rows.z = torch.full_like(rows.z, 0.5)
    _check_l1(rows, 12.0)
    went_back = (rows.z == rows.best).flatten(1).all(1)
    assert went_back.tolist() == [True, False, False]  # 19 of 20 is not below 95 %
    assert rows.step.tolist() == [12, 8, 8]
    assert torch.allclose(rows.share, torch.tensor([18.0, 20.0, 19.0]) / 20 / 1.5)
    for _ in range(9):
        _check_l1(rows, 12.0)
    assert torch.allclose(rows.step, torch.full((3,), 1.2))


def test_a_point_without_moves_is_no_division_by_zero():
    rows = climbers([0, 4], resumed=True)
    assert rows.share.tolist() == pytest.approx([0, 4 / 20 / 1.5])
    assert moved_components(rows.x, rows.best).tolist() == [0, 4]
    before = rows.z.clone()
    _check_l1(rows, 12.0)
    assert torch.equal(rows.z, before)
    assert torch.isfinite(sparse_ascent(rows.x + 1, rows.share)).all()


def test_phases_take_all_steps_in_shrinking_balls():
    assert large_step_phases(100) == ((3.0, 30), (2.0, 30), (1.0, 40))
    for steps in range(5, 60):
        factors, counts = zip(*large_step_phases(steps), strict=True)
        assert factors == (3, 2, 1)
        assert sum(counts) == steps
        assert min(counts) >= 1
    for steps in (1, 2, 4):
        with pytest.raises(InvalidInput, match=f"at least 5 steps, got {steps}"):
            large_step_phases(steps)


def test_random_start_uses_the_whole_radius():
    x, asked = torch.rand(6, 3, 8, 8), []

    def model(z):
        asked.append(z.detach())
        return z.flatten(1)[:, :4]

    zeros = torch.zeros(6, 1, dtype=torch.long)
    one = problem(model, x, zeros[:, 0], "l1:3", search=NOBODY_LEAVES)
    _climb_l1(one, zeros, lambda logits, y, _: margin(logits, y), ((1.0, 0),))
    (start,) = asked
    assert torch.allclose(
        (start.double() - x).flatten(1).abs().sum(1), torch.tensor(3.0).double(), atol=1e-5
    )
    assert (moved_components(x, start) > 1).all()


# ---------------------------------------------------------------- the published code


@pytest.mark.parametrize("large_steps", [False, True])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t"])
def test_apgd_follows_the_published_iterates(name, large_steps, make_net, monkeypatch):
    """With the same starts injected, in float64: the same iterates, the same images broken."""
    net = make_net(3, 8, 10, seed=3).double()
    x = torch.rand(48, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        y = net(x).argmax(1)
    asked = []
    net.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].detach().clone()))
    params = {"steps": 40, "restarts": 1, "large_steps": large_steps}
    params |= {"targets": 1} if name == "apgd-t" else {}  # the reference then draws one start
    threat = ThreatModel.parse("l1:1")
    noise = torch.randn(x.shape, dtype=torch.float64)
    monkeypatch.setattr(Streams, "normal", lambda streams, *_: noise[streams.keys[:, 0]])
    monkeypatch.setattr(Streams, "at", lambda streams, *_: streams)
    attack, streams = ATTACKS[name].function, streams_by_place(len(x))
    broken = fooled(net(attack(Problem(net, x, y, threat, streams), **params)), y)
    asked.clear()
    attack(Problem(net, x, y, threat, streams, NOBODY_LEAVES), **params)
    ours = asked.copy()

    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise.clone())
    monkeypatch.setattr(torch, "randn_like", lambda *_, **__: noise.clone())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the reference casts down
    # x + d - d is not always x: the reference counts such rests as components that moved.
    monkeypatch.setattr(autopgd_base, "L0_norm", lambda d: (d.abs() > 1e-9).flatten(1).sum(1))
    asked.clear()
    torch.set_default_dtype(torch.float64)
    try:
        theirs = reference_attack(AttackSpec(name=name, params=params), net, x, y, threat, seed=5)
    finally:
        torch.set_default_dtype(torch.float32)
    evaluations = 43 if large_steps else 41
    gaps = (torch.stack(ours[-evaluations:]) - torch.stack(asked[-evaluations:])).flatten(2)
    # Where a component is taken back to 0 exactly, rounding decides whether it counts as moved.
    assert int((gaps.abs().amax((0, 2)) > 1e-6).sum()) <= 4
    assert broken.tolist() == fooled(net(theirs), y).tolist()
    assert 3 < int(broken.sum()) < len(x) - 3


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 9, 28])
def test_bump_is_the_published_one(size, monkeypatch):
    attack = published_square.SquareAttack(None, norm="L1", eps=1.0, device="cpu")
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.zeros(1))  # upright
    theirs = attack.eta(size)
    assert torch.allclose(bump(size, "l1"), -theirs if size == 1 else theirs, atol=1e-7)


@pytest.mark.parametrize("side", [8, 14, 20, 32])
def test_square_start_is_a_grid_of_bumps(side, monkeypatch):
    x, size = torch.full((2, 3, side, side), 0.5), max(side // 5, 1)
    cells = (side // size,) * 2
    signs, flips = torch.rand(2, 3, *cells), torch.rand(2, *cells)
    monkeypatch.setattr(Streams, "uniform", lambda _, shape, draw=0: (signs, flips)[draw])
    ball = Ball(x, "l1", 1e6, torch.zeros_like(x), torch.ones_like(x))
    start = _bumps(ball, streams_by_place(2)) - x
    corner = (side - 5 * size) // 2
    first = start[:, :, corner : corner + size, corner : corner + size]
    shape = bump(size, "l1")
    for i in range(2):
        upright = shape.T if flips[i, 0, 0] > 0.5 else shape
        for c in range(3):
            sign = -1 if signs[i, c, 0, 0] < 0.5 else 1
            assert torch.allclose(first[i, c], (sign * upright).clamp(-0.5, 0.5), atol=1e-6)


def test_square_follows_the_published_queries(make_net, monkeypatch):
    """An image at a time, with the same draws injected, in float64: the same candidates."""
    net = make_net(3, 10, 10, seed=3).double()
    x = torch.rand(60, 3, 10, 10, dtype=torch.float64)
    y = net(x).detach().argmax(1)
    hardest = margin(net(x).detach(), y).topk(12).indices[::2]
    x, y = x[hardest], y[hardest]
    asked = []
    net.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].detach().clone()))
    threat = ThreatModel.parse("l1:4")
    spec = AttackSpec(name="square", params={"queries": 50, "restarts": 1, "p_init": 0.8})
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the reference casts down
    broken = []
    for i in range(len(x)):
        one, label, draws = x[i : i + 1], y[i : i + 1], square_draws(50)
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Streams, "uniform", draws.ours)
            one_by_one = problem(net, one, label, "l1:4", search=Search(rows=1))
            found = ATTACKS["square"].function(one_by_one, **spec.params)
        candidates = asked.copy()
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", draws.published)
            theirs = reference_attack(spec, net, one, label, threat, seed=0)
        assert 1 <= len(candidates) < len(asked)
        for mine, published in zip(candidates, asked[1:], strict=False):  # first the clean image
            # x + d - d leaves rests of 1e-17, which the reference divides by 1e-12 + their sum.
            assert (mine - published).abs().max() < 1e-3
        broken.append(bool(fooled(net(found), label)))
        assert broken[-1] == bool(fooled(net(theirs), label))
    assert 0 < sum(broken) < len(x)


def square_draws(queries):
    """Uniform numbers for one image of 3 x 10 x 10, for us by number of draw, for them in order."""
    signs, flips, rows = torch.rand(1, 3, 5, 5), torch.rand(1, 5, 5), torch.rand(1, queries, 8)
    cells = [(down, across) for down in range(5) for across in range(5)]
    order = [part for c in cells for part in (flips[0][c], signs[0][:, c[0], c[1]])]
    order += [part for row in rows[0] for part in (*row[:5], row[5:])]
    return SimpleNamespace(
        ours=lambda _, shape, draw=0: (signs, flips, rows)[draw] if shape != (0,) else None,
        published=lambda shape: order.pop(0).view(shape),
    )


@pytest.mark.slow
def test_square_breaks_as_many_as_the_published_one(make_net):
    """Four seeds each, 120 images: the mean numbers of standing images lie within 6 of another.

    The published code draws one pair of windows for all images, so its seeds differ more.
    """
    net = make_net(1, 10, 10, seed=3)
    x = torch.rand(120, 1, 10, 10)
    y = net(x).detach().argmax(1)
    threat = ThreatModel.parse("l1:1.5")
    params = {"queries": 150, "restarts": 1, "p_init": 0.8}
    spec = AttackSpec(name="square", params=params)
    ours, theirs = [], []
    for seed in range(4):
        x_adv = ATTACKS["square"].function(problem(net, x, y, "l1:1.5", seed=seed), **params)
        ours.append(int((~fooled(net(x_adv), y)).sum()))
        x_adv = reference_attack(spec, net, x, y, threat, seed=seed)
        theirs.append(int((~fooled(net(x_adv), y)).sum()))
    assert 20 < sum(ours) / 4 < 100
    assert abs(sum(ours) - sum(theirs)) / 4 <= 6
