"""L1: the projection, the sparse step and the two attacks made of them."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import autopgd_base
from pyautoattack import square as published_square

from bench.attacks import fab_t
from bench.attacks.apgd_l1 import apgd_l1, apgd_l1_t
from bench.attacks.geometry import distance
from bench.attacks.l1 import (
    Stride,
    adapt,
    checkpoint_window,
    fresh_stride,
    large_step_phases,
    nonzeros,
    project_l1,
    random_start_l1,
    resumed_stride,
    sparse_ascent,
)
from bench.attacks.losses import fooled, margin
from bench.attacks.reference import reference_attack
from bench.attacks.rows import Search
from bench.attacks.square import square
from bench.attacks.square_l1 import bump_l1, square_l1_start
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from bench.streams import Streams

VARIANTS = {
    "apgd-ce": (apgd_l1, {"steps": 10, "restarts": 2}),
    "apgd-ce, large steps": (apgd_l1, {"steps": 12, "restarts": 2, "large_steps": True}),
    "apgd-margin": (apgd_l1, {"steps": 8, "loss": "margin"}),
    "apgd-t": (apgd_l1_t, {"steps": 10, "targets": 4}),
    "apgd-t, large steps": (apgd_l1_t, {"steps": 12, "targets": 4, "large_steps": True}),
    "fab-t": (fab_t, {"steps": 8, "restarts": 2, "targets": 4}),
    "square": (square, {"queries": 80, "restarts": 2}),
}


def run(name, model, x, y, *, eps=2.0, seed=0):
    attack, params = VARIANTS[name]
    streams = Streams.for_images(x, seed, "test").at(name)
    threat = ThreatModel.parse(f"l1:{eps}")
    return attack(model, x, y, threat, streams=streams, **params)


# ---------------------------------------------------------------- the projection


def rows(seed, dtype, *, spread=0.5, count=6):
    """Images, some of them at the ends of the box, and points around them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 3, 4, generator=generator, dtype=dtype)
    x[: count // 3] = x[: count // 3].round()
    move = torch.randn(x.shape, generator=generator, dtype=dtype)
    move *= torch.rand(x.shape, generator=generator, dtype=dtype) < 0.7
    return x, x + spread * move, generator


cases = given(
    st.integers(0, 10_000),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.05, 0.5, 2.0, 20.0]),
    st.sampled_from([0.03, 0.4, 1.7, 30.0]),
)


@cases
@settings(max_examples=100, deadline=None)
def test_projection_is_inside_idempotent_and_nearest(seed, dtype, spread, eps):
    x, z, generator = rows(seed, dtype, spread=spread)
    point = project_l1(x, z, eps)
    assert point.dtype == dtype
    assert distance(x, point, "l1").max() <= eps
    assert point.min() >= 0
    assert point.max() <= 1
    assert torch.equal(project_l1(x, point, eps), point)
    # No feasible point is nearer: those of random moves, cut to the box and scaled to the ball.
    other = torch.rand(400, *x.shape, generator=generator, dtype=dtype)
    sparse = torch.rand(other.shape, generator=generator, dtype=dtype) < 0.4
    moves = torch.where(sparse, other - x, 0.0)
    moves[200:] = (point - x) + 0.05 * moves[200:]
    moves = (x + moves).clamp(0, 1) - x
    size = moves.flatten(2).abs().sum(2).clamp_min(1e-12)
    moves *= (eps / size).clamp_max(1)[..., None, None, None]
    far = (x + moves - z).flatten(2).norm(dim=2)
    assert ((point - z).flatten(1).norm(dim=1) <= far + 1e-5).all()


@cases
@settings(max_examples=100, deadline=None)
def test_projection_is_the_published_one(seed, dtype, spread, eps):
    x, z, _ = rows(seed, dtype, spread=spread)
    theirs = z + autopgd_base.L1_projection(x, z - x, eps)  # float32 inside
    assert (project_l1(x, z, eps) - theirs).abs().max() <= 1e-5 * max(1, spread)


def test_projection_takes_a_radius_a_row_and_ignores_neighbours():
    x, z, _ = rows(0, torch.float32)
    radii = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 50.0])
    whole = project_l1(x, z, radii)
    for i, radius in enumerate(radii.tolist()):
        assert torch.equal(project_l1(x[i : i + 1], z[i : i + 1], radius), whole[i : i + 1])
    assert torch.equal(whole[5], z[5].clamp(0, 1))  # as far as the box allows


def test_projection_of_large_images_stays_inside_where_the_published_one_does_not():
    """3,072 roundings add up: 5e-4 too far at eps 12 where noise on every pixel is projected."""
    x = torch.rand(8, 3, 32, 32)
    z = x + torch.randn_like(x)
    assert distance(x, project_l1(x, z, 12.0), "l1").max() <= 12
    theirs = z + autopgd_base.L1_projection(x, z - x, 12.0)
    assert distance(x, theirs, "l1").max() > 12 * (1 + 1e-6)


# ---------------------------------------------------------------- the step and its schedule


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


def test_step_shrinks_until_the_best_point_becomes_sparser():
    x = torch.rand(3, 1, 4, 5)
    stride = fresh_stride(x, 12.0)
    assert stride.share.tolist() == pytest.approx([0.2] * 3)
    assert stride.before.tolist() == [20] * 3
    best = torch.tensor([18.0, 20.0, 19.0])
    stride, sparser = adapt(stride, best, 20, 12.0)
    assert sparser.tolist() == [True, False, False]  # 19 of 20 is not below 95 %
    assert stride.step.tolist() == [12, 8, 8]
    assert torch.allclose(stride.share, best / 20 / 1.5)
    for _ in range(9):
        stride, sparser = adapt(stride, best, 20, 12.0)
    assert not sparser.any()
    assert torch.allclose(stride.step, torch.full((3,), 1.2))
    stride, sparser = adapt(stride, best / 2, 20, 12.0, torch.tensor([True, False, True]))
    assert sparser.tolist() == [True, False, True]
    assert stride.before.tolist() == [9, 20, 9.5]
    assert stride.step.tolist() == pytest.approx([12, 1.2, 12])


def test_a_point_without_moves_is_no_division_by_zero():
    x = torch.rand(2, 1, 2, 2)
    stride = resumed_stride(x, x, 1.0)
    assert nonzeros(x, x).tolist() == [0, 0]
    stride, sparser = adapt(stride, torch.zeros(2), 4, 1.0)
    assert not sparser.any()
    assert torch.isfinite(sparse_ascent(x, stride.share)).all()
    assert isinstance(stride, Stride)


def test_phases_take_all_steps_in_shrinking_balls():
    assert large_step_phases(100) == ((3.0, 30), (2.0, 30), (1.0, 40))
    for steps in range(5, 60):
        factors, counts = zip(*large_step_phases(steps), strict=True)
        assert factors == (3, 2, 1)
        assert sum(counts) == steps
        assert min(counts) >= 1
    assert [checkpoint_window(s) for s in (10, 40, 100)] == [1, 1, 4]
    for steps in (1, 2, 4):
        with pytest.raises(InvalidInput, match=f"at least 5 steps, got {steps}"):
            large_step_phases(steps)


def test_random_start_uses_the_whole_radius():
    x = torch.rand(6, 3, 8, 8)
    start = random_start_l1(x, 3.0, Streams.for_images(x, 0))
    assert torch.allclose(distance(x, start, "l1"), torch.tensor(3.0).double(), atol=1e-5)
    assert (nonzeros(x, start) > 1).all()


# ---------------------------------------------------------------- the attack contract


@pytest.mark.parametrize("eps", [0.5, 3.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_result_is_inside_the_ball_and_the_box(name, eps, net, labelled):
    x, y = labelled
    x[:8] = x[:8].round()
    x_adv = run(name, net, x, y, eps=eps)
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert distance(x, x_adv, "l1").max() <= eps
    changed = (x_adv != x).flatten(1).any(1)
    assert fooled(net(x_adv), y)[changed].all()
    assert bool(changed.any())


@pytest.mark.parametrize("name", VARIANTS)
def test_model_and_random_state_are_left_as_found(name, net, labelled):
    x, y = labelled
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones_like(net[0].bias)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    first = run(name, net, x, y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(run(name, net, x, y), first)
    assert not net.training
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert torch.equal(net[0].bias.grad, torch.ones_like(net[0].bias))
    assert net[4].weight.grad is None
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", VARIANTS)
def test_outcome_does_not_depend_on_neighbours(name, net, labelled):
    x, y = labelled
    whole = run(name, net, x, y)
    order = torch.randperm(len(x))
    assert torch.allclose(run(name, net, x[order], y[order]), whole[order], atol=1e-6)
    one = torch.cat([run(name, net, x[i : i + 1], y[i : i + 1]) for i in range(8)])
    assert torch.allclose(one, whole[:8], atol=1e-6)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-ce, large steps", "apgd-margin"])
def test_reaches_the_optimum_of_a_linear_model(name):
    """Where the box does not bind, the whole budget belongs on the steepest component.

    The published rule keeps ceil(2 / 1.5) = 2 components where 2 moved, so it ends between the two.
    """
    eps = 0.2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).double()
    x = torch.rand(40, 1, 4, 4, dtype=torch.float64) * 0.4 + 0.3
    y = torch.randint(2, (40,))
    with torch.no_grad():
        model[1].bias -= model(x).mean(0)
        clean = margin(model(x), y)
    w = model[1].weight.detach()
    steepest, second = (w[0] - w[1]).abs().topk(2).values
    best, surely = clean + eps * steepest, clean + eps * (steepest + second) / 2
    attack, params = VARIANTS[name]
    x_adv = attack(
        model, x, y, ThreatModel.parse(f"l1:{eps}"), streams=Streams.for_images(x, 0),
        **{**params, "steps": 60, "restarts": 1},
    )  # fmt: skip
    broken = margin(model(x_adv).detach(), y) >= 0
    assert broken[surely >= 1e-6].all()
    assert not broken[best < 0].any()
    assert int((broken & (clean < 0)).sum()) > 3  # the attack, not the image
    assert not broken.all()


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
    place = torch.arange(len(x))
    streams = Streams(torch.stack([place, place], 1))
    attack = apgd_l1_t if name == "apgd-t" else apgd_l1
    broken = fooled(net(attack(net, x, y, threat, streams=streams, **params)), y)
    asked.clear()
    # Nobody leaves, as in the published code.
    stay = Search(verdict=lambda z, y, logits, image: torch.zeros_like(y, dtype=torch.bool))
    attack(net, x, y, threat, streams=streams, search=stay, **params)
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
    assert torch.allclose(bump_l1(size), -theirs if size == 1 else theirs, atol=1e-7)


@pytest.mark.parametrize("side", [8, 14, 20, 32])
def test_square_start_is_a_grid_of_bumps(side):
    x = torch.full((2, 3, side, side), 0.5)
    cells = (side // max(side // 5, 1),) * 2
    signs, flips = torch.rand(2, 3, *cells), torch.rand(2, *cells)
    start = square_l1_start(x, 1e6, signs, flips) - x
    size = max(side // 5, 1)
    corner = (side - 5 * size) // 2
    first = start[:, :, corner : corner + size, corner : corner + size]
    bump = bump_l1(size)
    for i in range(2):
        upright = bump.T if flips[i, 0, 0] > 0.5 else bump
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
            streams, one_by_one = Streams.for_images(one, 0), Search(rows=1)
            found = square(
                net, one, label, threat, streams=streams, search=one_by_one, **spec.params
            )
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
        x_adv = square(net, x, y, threat, streams=Streams.for_images(x, seed), **params)
        ours.append(int((~fooled(net(x_adv), y)).sum()))
        x_adv = reference_attack(spec, net, x, y, threat, seed=seed)
        theirs.append(int((~fooled(net(x_adv), y)).sum()))
    assert 20 < sum(ours) / 4 < 100
    assert abs(sum(ours) - sum(theirs)) / 4 <= 6
