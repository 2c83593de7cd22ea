"""L1: the sparse step, its schedule, and both attacks beside the published code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pyautoattack import autopgd_base
from pyautoattack import square as published_square

from bench.attacks import ATTACKS, Search
from bench.attacks.apgd import large_step_phases, sparse_ascent
from bench.attacks.losses import fooled, margin
from bench.attacks.problem import Problem
from bench.attacks.reference import reference_attack
from bench.attacks.square import bump
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from bench.streams import Streams
from tests.attacks.problems import NOBODY_LEAVES, problem, streams_by_place


@pytest.mark.parametrize("steps", [1, 4, 5, 23, 100])
def test_phases_take_all_steps_in_shrinking_balls(steps):
    if steps < 5:
        with pytest.raises(InvalidInput, match=f"at least 5 steps, got {steps}"):
            large_step_phases(steps)
        return
    factors, counts = zip(*large_step_phases(steps), strict=True)
    assert factors == (3, 2, 1)
    assert sum(counts) == steps and min(counts) >= 1
    assert large_step_phases(100) == ((3.0, 30), (2.0, 30), (1.0, 40))


def test_a_component_moves_at_least_and_none_without_a_gradient():
    grad = torch.randn(5, 2, 3, 4)
    share = torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0])
    step = sparse_ascent(grad, share).flatten(1)
    assert torch.allclose(step.abs().sum(1), torch.ones(5))
    # The number left out is rounded down: of 24 components 0.1 takes 3, not 2.
    assert (step != 0).sum(1).tolist() == [1, 3, 6, 12, 24]
    assert not sparse_ascent(torch.zeros_like(grad), share).any()


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
