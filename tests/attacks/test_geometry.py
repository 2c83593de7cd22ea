"""Projections are inside, and no feasible point is nearer; random streams have their known answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import autopgd_base
from torch.nn import functional as F

from bench.attacks.fab import project_on_plane
from bench.attacks.fmn import project
from bench.attacks.geometry import Ball, admissible, distance, project_l1
from bench.protocols import protocol
from bench.schema import ThreatModel
from bench.schema.threat import NORMS
from bench.streams import Streams, philox

ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}
norms_and_seeds = given(st.sampled_from(NORMS), st.integers(0, 10_000))


def test_linf_box_is_rounded_inwards():
    x = torch.rand(4, 3, 16, 16)
    ball = Ball.around(x, ThreatModel.parse("linf:8/255"))
    for corner in (ball.low, ball.high):
        assert distance(x, corner, "linf").max() <= 8 / 255


def test_l2_starts_are_uniform_in_the_ball():
    """In 4 dimensions the radius has the mean 4/5 of eps, its square 4/6."""
    x = torch.full((4000, 1, 2, 2), 0.5)
    ball = Ball.around(x, ThreatModel.parse("l2:0.4"))  # inside the box
    sizes = distance(x, ball.random_start(Streams.for_batch(len(x), 0)), "l2") / 0.4
    assert sizes.max() <= 1
    assert sizes.mean() == pytest.approx(4 / 5, abs=0.01)
    assert sizes.square().mean() == pytest.approx(4 / 6, abs=0.01)


def test_a_point_outside_the_box_is_not_admissible_however_near():
    x = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.zeros(1, 2, 2)])
    offered = x.clone()
    offered[0, 0, 0, 0], offered[1, 0, 0, 0], offered[2, 0, 0, 0] = -1e-7, 1 + 2e-7, torch.nan
    threat, rules = ThreatModel.parse("linf:0.1"), protocol("quick")
    assert not admissible(x, offered, threat, rules).any()
    assert admissible(x, offered.nan_to_num().clamp(0, 1), threat, rules).all()


# ---------------------------------------------------------------- L1


def rows(seed, dtype, *, spread=0.5, count=6):
    """Images, some of them at the ends of the box, and points around them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 3, 4, generator=generator, dtype=dtype)
    x[: count // 3] = x[: count // 3].round()
    move = torch.randn(x.shape, generator=generator, dtype=dtype)
    move *= torch.rand(x.shape, generator=generator, dtype=dtype) < 0.7
    return x, x + spread * move, generator


@given(
    st.integers(0, 10_000),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.05, 0.5, 2.0, 20.0]),
    st.sampled_from([0.03, 0.4, 1.7, 30.0]),
)
@settings(max_examples=100, deadline=None)
def test_l1_projection_is_inside_idempotent_nearest_and_the_published_one(seed, dtype, spread, eps):
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
    theirs = z + autopgd_base.L1_projection(x, z - x, eps)  # float32 inside
    assert (point - theirs).abs().max() <= 1e-5 * max(1, spread)


def test_l1_projection_takes_a_radius_a_row_and_ignores_neighbours():
    x, z, _ = rows(0, torch.float32)
    radii = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 50.0])
    whole = project_l1(x, z, radii)
    for i, radius in enumerate(radii.tolist()):
        assert torch.equal(project_l1(x[i : i + 1], z[i : i + 1], radius), whole[i : i + 1])
    assert torch.equal(whole[5], z[5].clamp(0, 1))  # as far as the box allows


def test_l1_projection_of_large_images_stays_inside_where_the_published_one_does_not():
    """3,072 roundings add up: 5e-4 too far at eps 12 where noise on every pixel is projected."""
    x = torch.rand(8, 3, 32, 32)
    z = x + torch.randn_like(x)
    assert distance(x, project_l1(x, z, 12.0), "l1").max() <= 12
    theirs = z + autopgd_base.L1_projection(x, z - x, 12.0)
    assert distance(x, theirs, "l1").max() > 12 * (1 + 1e-6)


# ---------------------------------------------------------------- FAB's plane, FMN's ball


@norms_and_seeds
@settings(max_examples=60, deadline=None)
def test_projection_on_a_plane_is_the_nearest_point(norm, seed):
    """On the plane and in the box where that is possible, and no feasible point is nearer."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(1, 6, generator=generator, dtype=torch.float64)
    w = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    inside = torch.rand(4000, 6, generator=generator, dtype=torch.float64)
    offset = (w * inside[:1]).sum(1)  # a plane that meets the box
    move = project_on_plane(p, w, offset, norm)
    reached = p + move
    assert reached.min() >= -1e-9
    assert reached.max() <= 1 + 1e-9
    assert torch.allclose((w * reached).sum(1), offset, atol=1e-9)
    # Feasible points to compare with: where segments between random box points cross the plane.
    a, b = inside[:2000], inside[2000:]
    va, vb = a @ w[0] - offset, b @ w[0] - offset
    cross = va * vb < 0
    t = (va / (va - vb))[cross, None]
    feasible = a[cross] + t * (b[cross] - a[cross])
    nearest = torch.linalg.vector_norm(feasible - p, ord=ORDER[norm], dim=1).min()
    assert torch.linalg.vector_norm(move, ord=ORDER[norm]) <= nearest + 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_projection_goes_as_near_as_the_box_allows(norm):
    p, w = torch.tensor([[0.2, 0.7]]), torch.tensor([[1.0, -2.0]])
    move = project_on_plane(p, w, torch.tensor([-9.0]), norm)
    assert torch.allclose(p + move, torch.tensor([[0.0, 1.0]]))


@norms_and_seeds
@settings(max_examples=60, deadline=None)
def test_projection_of_a_perturbation_is_the_nearest_of_the_ball(norm, seed):
    """Under l1 of the ball and the box together."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, 1, 5, generator=generator, dtype=torch.float64)
    delta = torch.randn(1, 1, 1, 5, generator=generator, dtype=torch.float64)
    radius = torch.rand(1, generator=generator, dtype=torch.float64) * 2
    near = project(x, delta, radius, norm)
    assert torch.linalg.vector_norm(near, ORDER[norm]) <= radius * (1 + 1e-12)
    other = torch.randn(4000, 1, 1, 5, generator=generator, dtype=torch.float64)
    other *= torch.rand(4000, 1, 1, 1, generator=generator, dtype=torch.float64)
    if norm == "l1":
        assert (x + near).min() >= -1e-12
        assert (x + near).max() <= 1 + 1e-12
        other = other.maximum(-x).minimum(1 - x)
    other = other[torch.linalg.vector_norm(other.flatten(1), ORDER[norm], dim=1) <= radius]
    here = (near - delta).norm()
    assert not len(other) or (other - delta).flatten(1).norm(dim=1).min() >= here - 1e-12


# ---------------------------------------------------------------- random streams


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, answer):
    """The vectors published with Random123 (Salmon et al. 2011); words are tensors or numbers."""
    tensors = [torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key]
    for words in (philox(*tensors), philox(counter, tensors[1]), philox(tensors[0], key)):
        assert " ".join(f"{int(w):08x}" for w in words) == answer


def test_streams_are_a_function_of_seed_image_and_path():
    x = torch.rand(5, 3, 8, 8)
    draw = Streams.for_images(x, 1, "a").uniform((3, 4))
    assert torch.equal(Streams.for_images(x[2:4], 1, "a").uniform((3, 4)), draw[2:4])
    for other in (
        Streams.for_images(x, 2, "a"),
        Streams.for_images(x, 1, "b"),
        Streams.for_images(x, 1, "a").at("apgd", 0),
        Streams.for_images(x + 0.001, 1, "a"),
    ):
        assert not (other.uniform((3, 4)) == draw).any()


def test_draws_have_the_moments_they_should():
    streams = Streams.for_batch(64, "test")
    uniform, normal = streams.uniform((1000,)), streams.normal((1000,), draw=1)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert set(Streams.for_batch(500, "int").integers(7).tolist()) == set(range(7))
    rows = F.normalize(uniform - 0.5)
    assert (rows @ rows.T - torch.eye(64)).abs().max() < 0.2  # streams do not repeat one another
