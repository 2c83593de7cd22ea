"""The attack contract, for every attack: properties that geometry and the papers guarantee."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bench.attacks import ATTACKS, MINIMUM_NORM
from bench.attacks.fab import project_on_plane
from bench.attacks.geometry import Ball, admissible, distance
from bench.attacks.losses import LOSSES, fooled, margin
from bench.attacks.reference import REFERENCE_ATTACKS, reference_attack
from bench.attacks.rows import DEFAULT, Search
from bench.attacks.square_moves import side
from bench.protocols import PROTOCOL_NAMES, protocol
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from bench.streams import Streams, philox

THREATS = ["linf:8/255", "linf:0.3", "l2:0.5"]
VARIANTS = [
    AttackSpec(name="fgsm", params={"relative_step": 1.0}),
    AttackSpec(name="apgd-ce", params={"steps": 12, "restarts": 2}),
    AttackSpec(name="apgd-margin", params={"steps": 12, "restarts": 1}),
    AttackSpec(name="apgd-dlr", params={"steps": 12, "restarts": 1}),
    AttackSpec(name="spsa", params={"steps": 6, "samples": 8}),
    AttackSpec(name="apgd-t", params={"steps": 12, "restarts": 1, "targets": 5}),
    AttackSpec(name="fab", params={"steps": 8, "restarts": 2}),
    AttackSpec(name="fab-t", params={"steps": 8, "restarts": 2, "targets": 5}),
    AttackSpec(name="square", params={"queries": 60, "p_init": 0.8, "restarts": 1}),
    *(
        AttackSpec(name="pgd", params={"steps": 7, "iterate": i, "loss": loss, "restarts": r})
        for i in ("any", "last")
        for loss in LOSSES
        for r in (1, 2)
    ),
]
SMALL = {  # the published attacks, shortened
    "apgd-ce": {"steps": 5, "restarts": 1},
    "apgd-margin": {"steps": 5, "restarts": 1},
    "apgd-t": {"steps": 5, "restarts": 1, "targets": 3},
    "fab-t": {"steps": 5, "restarts": 1, "targets": 3},
    "square": {"queries": 20, "p_init": 0.8, "restarts": 1},
}


def run(spec, model, x, y, threat, *, seed=0, search=DEFAULT):
    streams = Streams.for_images(x, seed, "test").at(spec.name)
    return ATTACKS[spec.name](
        model, x, y, ThreatModel.parse(threat), streams=streams, search=search, **spec.params
    )


def test_variants_cover_the_registry():
    assert {spec.name for spec in VARIANTS} == set(ATTACKS)


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_result_is_inside_the_ball_and_the_box(spec, threat, net, labelled):
    x, y = labelled
    x[:8] = x[:8].round()  # pixels at the ends of the box
    x_adv = run(spec, net, x, y, threat)
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    limit = ThreatModel.parse(threat).epsilon
    assert distance(x, x_adv, threat.partition(":")[0]).max() <= limit


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_model_is_left_as_found(spec, net, labelled):
    x, y = labelled
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones_like(net[0].bias)
    before = copy.deepcopy(net.state_dict())
    run(spec, net, x, y, "linf:0.1")
    assert not net.training
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert torch.equal(net[0].bias.grad, torch.ones_like(net[0].bias))
    assert net[4].weight.grad is None
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_outcome_does_not_depend_on_neighbours(spec, net, labelled):
    x, y = labelled
    whole = run(spec, net, x, y, "linf:0.1")
    # Images wait for room and join those under way. SPSA's rows are its probes: other batches round
    # its slopes otherwise, which Adam makes steps of.
    for rows in (1, 16) if spec.name != "spsa" else ():
        refilled = run(spec, net, x, y, "linf:0.1", search=Search(rows=rows))
        assert torch.allclose(refilled, whole, atol=1e-6)
    order = torch.randperm(len(x))
    shuffled = run(spec, net, x[order], y[order], "linf:0.1")
    one = torch.cat([run(spec, net, x[i : i + 1], y[i : i + 1], "linf:0.1") for i in range(8)])
    assert torch.allclose(shuffled, whole[order], atol=1e-6)
    assert torch.allclose(one, whole[:8], atol=1e-6)


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_global_random_state_is_neither_read_nor_moved(spec, net, labelled):
    x, y = labelled
    first = run(spec, net, x, y, "linf:0.1")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(run(spec, net, x, y, "linf:0.1"), first)
    assert torch.equal(torch.get_rng_state(), before)


# Two classes: too few for DLR. FAB and Square answer yes or no, they climb to no optimum; SPSA
# estimates its way (test_spsa.py).
CLIMBERS = [
    spec
    for spec in VARIANTS
    if spec.name not in ("apgd-t", "apgd-dlr", "fab", "fab-t", "square", "spsa")
    and spec.params.get("loss") != "dlr"
]


@pytest.mark.parametrize("threat", ["linf:0.05", "l2:0.3"])
@pytest.mark.parametrize("spec", CLIMBERS, ids=str)
def test_reaches_the_optimum_of_a_linear_model(spec, threat):
    """max of the margin over the ball is margin + eps * ||w_j - w_y|| in the dual norm."""
    if "steps" in spec.params and spec.name == "pgd":  # enough to cross the ball from any start
        spec = spec.model_copy(update={"params": {**spec.params, "steps": 60}})
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x = torch.rand(20, 1, 4, 4) * 0.4 + 0.3  # the box does not bind
    y = torch.randint(2, (20,))
    parsed = ThreatModel.parse(threat)
    w = model[1].weight.detach()
    normal = w[1 - y] - w[y]
    dual = normal.abs().sum(1) if parsed.norm == "linf" else normal.norm(dim=1)

    def network(z):
        return model(z.double())

    best = margin(network(x), y) + parsed.epsilon * dual
    x_adv = run(spec, network, x, y, threat)
    reached = margin(network(x_adv), y)
    assert (reached <= best + 1e-9).all()
    assert torch.equal(reached >= 0, best >= 0)
    if spec.name.startswith("apgd"):
        return  # it gives back the clean image where it does not break it
    # Those that drop broken images stop there; all others must reach the optimum.
    stopped = (reached >= 0) if spec.params.get("iterate") == "any" else reached > torch.inf
    short = best - reached
    assert short[~stopped].max() <= 1e-5 * (1 + dual.max())
    assert bool((~stopped).any())


def test_pgd_any_counts_iterates_but_not_the_start():
    """A model that is wrong only away from the image, except at the very start of the search."""
    calls = []

    def model(z):
        calls.append(len(z))
        wrong = len(calls) == 1  # misclassifies whatever is asked first: the start
        scores = torch.tensor([[0.0, 1.0]] if wrong else [[1.0, 0.0]]).expand(len(z), 2)
        return scores + 0 * z.flatten(1)[:, :2]

    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    threat = ThreatModel.parse("linf:0.1")
    ATTACKS["pgd"](model, x, y, threat, streams=Streams.for_images(x, 0), steps=4)
    assert calls == [3] * 5  # nothing was dropped: 4 steps and a last look


def test_more_steps_and_restarts_do_not_hurt(net, labelled):
    x, y = labelled
    standing = []
    for steps, restarts in ((2, 1), (20, 1), (20, 3)):
        spec = AttackSpec(name="pgd", params={"steps": steps, "restarts": restarts})
        standing.append(int((~fooled(net(run(spec, net, x, y, "linf:0.1")), y)).sum()))
    assert standing[0] >= standing[1] >= standing[2]


@pytest.mark.parametrize("iterate", ["any", "last"])
def test_restarts_start_elsewhere_and_the_highest_loss_is_kept(iterate, net, labelled):
    x, y = labelled
    found = []
    for restarts in (1, 4):
        params = {"steps": 2, "restarts": restarts, "iterate": iterate, "loss": "margin"}
        found.append(run(AttackSpec(name="pgd", params=params), net, x, y, "linf:0.02"))
    losses = [margin(net(x_adv), y) for x_adv in found]
    standing = losses[1] < 0
    assert (found[0] != found[1]).flatten(1).any(1)[standing].float().mean() > 0.5
    if iterate == "last":
        assert (losses[1] >= losses[0] - 1e-6).all() and losses[1].mean() > losses[0].mean()


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


def test_l1_is_refused_where_it_is_not_defined(net, labelled):
    with pytest.raises(InvalidInput, match="l1 needs AutoAttack"):
        run(VARIANTS[0], net, *labelled, "l1:12")


def test_ties_and_non_finite_logits_are_broken():
    logits = torch.tensor([[1.0, 1.0], [2.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert fooled(logits, torch.zeros(4, dtype=torch.long)).tolist() == [True, False, True, True]


def test_linf_box_is_rounded_inwards():
    x = torch.rand(4, 3, 16, 16)
    ball = Ball.around(x, ThreatModel.parse("linf:8/255"))
    for corner in (ball.low, ball.high):
        assert distance(x, corner, "linf").max() <= 8 / 255


# ---------------------------------------------------------------- the reference engine


def test_reference_names_are_those_of_the_protocols():
    named = {
        spec.name
        for name in PROTOCOL_NAMES
        for classes in (2, 10)
        for column in protocol(name, classes=classes).columns
        for spec in column.attacks
    }
    assert named == {*ATTACKS, *MINIMUM_NORM}
    assert set(REFERENCE_ATTACKS) < set(ATTACKS)


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:5"])
@pytest.mark.parametrize("name", REFERENCE_ATTACKS)
def test_reference_leaves_model_and_random_state_as_found(name, threat, net, labelled):
    x, y = labelled
    before = torch.get_rng_state()
    spec = AttackSpec(name=name, params=SMALL[name])
    x_adv = reference_attack(spec, net, x, y, ThreatModel.parse(threat), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert x_adv.shape == x.shape
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("name", ["standard", "autoattack", "quick"])
def test_every_attack_of_a_protocol_takes_its_parameters(name, make_net):
    """The parameters written in protocols.py are arguments of the function that runs them."""
    for norm in ("linf", "l2", "l1"):
        for classes in (2, 3, 10):
            if norm == "l1" and name != "autoattack":
                continue
            for column in protocol(name, norm=norm, classes=classes).columns:
                for spec in column.attacks:
                    for engine in (ATTACKS, REFERENCE_ATTACKS):
                        if spec.name not in engine:
                            continue
                        known = inspect.signature(engine[spec.name]).parameters
                        assert set(spec.params) <= set(known)


# ---------------------------------------------------------------- random streams


def test_philox_known_answers():
    """The vectors published with Random123 (Salmon et al. 2011)."""
    known = [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, answer in known:
        words = philox([torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key])
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


# ---------------------------------------------------------------- FAB's projection, Square's schedule


@given(
    st.sampled_from(["linf", "l2", "l1"]),
    st.integers(0, 10_000),
)
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
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    nearest = torch.linalg.vector_norm(feasible - p, ord=order, dim=1).min()
    assert torch.linalg.vector_norm(move, ord=order) <= nearest + 1e-9


def test_projection_goes_as_near_as_the_box_allows():
    p, w = torch.tensor([[0.2, 0.7]]), torch.tensor([[1.0, -2.0]])
    for norm in ("linf", "l2", "l1"):
        move = project_on_plane(p, w, torch.tensor([-9.0]), norm)
        assert torch.allclose(p + move, torch.tensor([[0.0, 1.0]]))


def test_square_side_follows_the_published_schedule():
    """Shares 0.8, halved after 10, 50, 200, 500, 1000, 2000 and 4000 queries."""
    sides = [side(q, 0.8, 32 * 32) for q in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001)]
    shares = (0.8, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625)
    assert sides == [max(1, round((share * 1024) ** 0.5)) for share in shares]
