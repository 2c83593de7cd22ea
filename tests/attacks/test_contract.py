"""The attack contract, for every attack under every norm: what geometry and the papers guarantee."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from bench.attacks import ATTACKS, Search, attack_cost
from bench.attacks.geometry import distance
from bench.attacks.losses import fooled, margin
from bench.attacks.reference import PUBLISHED_NAMES, REFERENCE_ATTACKS, reference_attack
from bench.protocols import PROTOCOL_NAMES, protocol
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from tests.attacks.problems import NOBODY_LEAVES, problem


def spec(name, **params):
    return AttackSpec(name=name, params=params)


NEAR = {
    "probes": 2, "opening": 2, "steps": 4, "restarts": 2, "long_opening": 2, "long_steps": 12,
    "again": 1, "apgd_steps": 4, "targets": 4, "queries": 40, "reach": 5.0, "close": 2.0,
}  # fmt: skip
EUCLIDEAN = [
    spec("fgsm", relative_step=1.0),
    spec("apgd-ce", steps=12, restarts=2),
    spec("apgd-margin", steps=12),
    spec("apgd-dlr", steps=12),
    spec("spsa", steps=4, samples=8),
    spec("pgd", steps=7, iterate="any", loss="margin", restarts=2),
    spec("pgd", steps=7, iterate="last", loss="dlr"),
    spec("pgd", steps=7, iterate="last", restarts=2),
    spec("diverse", restarts=3, opening=2, steps=4, corners=True),
    spec("near-targets", targets=3, candidates=4, steps=4),
    spec("probability-margin", steps=5, restarts=2),
    spec("near-boundary", **NEAR),
]
ANY_NORM = [
    spec("apgd-t", steps=12, targets=4),
    spec("fab", steps=8, restarts=2),
    spec("fab-t", steps=8, restarts=2, targets=4),
    spec("square", queries=40, restarts=2),
    spec("fmn", steps=20),
]
CASCADE = ("diverse", "near", "probability")
L1 = [
    spec("apgd-ce", steps=12, restarts=2, large_steps=True),
    spec("apgd-margin", steps=8),
    spec("apgd-t", steps=12, targets=4, large_steps=True),
]
CASES = [
    *((s, threat) for s in EUCLIDEAN + ANY_NORM for threat in ("linf:0.1", "l2:0.5")),
    *((s, "l1:2") for s in L1 + ANY_NORM),
]


def run(spec, *asked, **more):
    return ATTACKS[spec.name].function(problem(*asked, **more), **spec.params)


def test_every_attack_is_tried_and_recorded_by_some_protocol():
    assert {s.name for s, _ in CASES} == set(ATTACKS)
    columns = [
        column
        for name in PROTOCOL_NAMES
        for classes in (2, 3, 10)
        for norm in ("linf", "l2", "l1")
        if norm == "linf" or name in ("autoattack", "curve")
        for column in protocol(name, norm=norm, classes=classes).columns
    ]
    recorded = [s for column in columns for s in column.attacks]
    alone = {"diverse"}  # its walks are part of near-boundary
    assert {s.name for s in recorded} == set(ATTACKS) - alone > set(REFERENCE_ATTACKS)
    for one in recorded:  # parameters written in protocols.py are arguments of what runs them
        assert set(one.params) <= set(inspect.signature(ATTACKS[one.name].function).parameters)
        assert set(one.params) <= set(PUBLISHED_NAMES) or one.name not in REFERENCE_ATTACKS


@pytest.mark.parametrize(("spec", "threat"), CASES, ids=str)
def test_contract(spec, threat, net, labelled):
    """Inside the ball and the box; the network and global random state are left, and not read.

    And an image's outcome does not depend on its neighbours.
    """
    x, y = (part[2:14].clone() for part in labelled)
    x[:4] = x[:4].round()  # pixels at the ends of the box
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones_like(net[0].bias)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    x_adv = run(spec, net, x, y, threat)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(run(spec, net, x, y, threat), x_adv)
    if spec.name.startswith(("pgd", "apgd", "spsa", "square")):  # FAB draws for restarts alone
        assert not torch.equal(run(spec, net, x, y, threat, seed=1), x_adv)

    norm, minimum = threat.partition(":")[0], ATTACKS[spec.name].minimum_norm
    assert x_adv.shape == x.shape and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    if not minimum:
        assert distance(x, x_adv, norm).max() <= ThreatModel.parse(threat).epsilon
    changed = (x_adv != x).flatten(1).any(1)
    assert bool(changed.any())
    if spec.name.startswith(
        ("apgd", "fab", "square", "fmn", *CASCADE)
    ):  # the image itself, or a hit
        assert fooled(net(x_adv), y)[changed].all()

    assert not net.training
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert torch.equal(net[0].bias.grad, torch.ones_like(net[0].bias))
    assert net[4].weight.grad is None
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())

    def same(found, places):
        wanted, images = x_adv[places], x[places]
        if minimum:  # points on the boundary itself, which rounding moves
            found, wanted = distance(images, found, norm), distance(images, wanted, norm)
        return torch.allclose(found, wanted, atol=1e-6, rtol=1e-3 if minimum else 1e-5)

    order = torch.randperm(len(x))
    # Images wait for room and join those under way. SPSA's rows are its probes: other batches round
    # its slopes otherwise, which Adam makes steps of.
    search = Search(rows=128 if spec.name == "spsa" else 5)
    assert same(run(spec, net, x[order], y[order], threat, search=search), order)
    assert same(run(spec, net, x[7:8], y[7:8], threat), [7])


@pytest.mark.parametrize(
    ("spec", "threat"),
    [
        *(
            (s, "linf:0.00001")
            for s in EUCLIDEAN
            if s.name not in ("fgsm", "spsa") and "reach" not in s.params
        ),
        (spec("near-boundary", **(NEAR | {"reach": 1e9, "close": 1e9})), "linf:0.00001"),
        *((s, "l1:0.0001") for s in L1),
        (spec("apgd-ce", steps=8, samples=3), "linf:0.00001"),
        (spec("apgd-ce", steps=8, samples=3, large_steps=True), "l1:0.0001"),
        (spec("apgd-t", steps=8, targets=3, restarts=2), "l2:0.0001"),
        (spec("fab-t", steps=8, targets=3, restarts=2), "linf:0.00001"),
        (spec("square", queries=30, restarts=3), "linf:0.00001"),
    ],
    ids=str,
)
def test_a_cost_is_what_it_takes_where_nothing_breaks(spec, threat, net, labelled):
    """As a share of what is spent, which counts looks at the start and verdicts too."""
    x, spent = labelled[0][:12], []

    def counted(z):
        logits = net(z)
        spent.append(len(z))
        if logits.requires_grad:
            logits.register_hook(lambda _: spent.append(2 * len(z)))
        return logits

    run(spec, counted, x, net(x).argmax(1), threat, search=Search(rows=12))
    assert 0.7 <= attack_cost(spec) * len(x) / sum(spent) <= 1.01


def test_gradients_are_averaged_under_l1_too(net, labelled):
    """The mean of two passes that err in opposite directions is the network's own gradient."""
    x, y = (part[4:8] for part in labelled)
    calls = []

    def erring(z):
        calls.append(z)
        sign = 1 if len(calls) % 2 else -1
        return net(z) + sign * 5 * z.flatten(1)[:, :10]

    found = run(spec("apgd-ce", steps=4, samples=2), erring, x, y, "l1:1.5", search=NOBODY_LEAVES)
    assert torch.equal(found, x) and len(calls) == 2 * 5
    assert torch.equal(calls[0], calls[1])  # asked twice at one point
    assert not torch.equal(calls[1], calls[2])


# Two classes: too few for DLR. FAB and Square answer yes or no, they climb to no optimum; SPSA
# estimates its way (test_spsa.py).
CLIMBERS = [
    s for s in EUCLIDEAN if s.name not in ("apgd-dlr", "spsa") and s.params.get("loss", "") != "dlr"
]


@pytest.mark.parametrize("threat", ["linf:0.05", "l2:0.3"])
@pytest.mark.parametrize("spec", CLIMBERS, ids=str)
def test_reaches_the_optimum_of_a_linear_model(spec, threat):
    """max of the margin over the ball is margin + eps * ||w_j - w_y|| in the dual norm."""
    if spec.name == "pgd":  # enough to cross the ball from any start
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
    reached = margin(network(run(spec, network, x, y, threat)), y)
    assert (reached <= best + 1e-9).all()
    assert torch.equal(reached >= 0, best >= 0)
    if spec.name.startswith(("apgd", "square", *CASCADE)):
        return  # it gives back the clean image where it does not break it
    # Those that drop broken images stop there; all others must reach the optimum.
    stopped = (reached >= 0) if spec.params.get("iterate") == "any" else reached > torch.inf
    assert (best - reached)[~stopped].max() <= 1e-5 * (1 + dual.max())
    assert bool((~stopped).any())


@pytest.mark.parametrize("spec", L1[:2], ids=str)
def test_reaches_the_optimum_of_a_linear_model_under_l1(spec):
    """Where the box does not bind, the whole budget belongs on the steepest component.

    The published rule keeps ceil(2 / 1.5) = 2 components where 2 moved, so it ends between the two.
    """
    eps, spec = 0.2, spec.model_copy(update={"params": {**spec.params, "steps": 60, "restarts": 1}})
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x = torch.rand(40, 1, 4, 4, dtype=torch.float64) * 0.4 + 0.3
    y = torch.randint(2, (40,))
    with torch.no_grad():
        model[1].bias -= model(x).mean(0)
        clean = margin(model(x), y)
    w = model[1].weight.detach()
    steepest, second = (w[0] - w[1]).abs().topk(2).values
    best, surely = clean + eps * steepest, clean + eps * (steepest + second) / 2
    broken = margin(model(run(spec, model, x, y, f"l1:{eps}")).detach(), y) >= 0
    assert broken[surely >= 1e-6].all()
    assert not broken[best < 0].any()
    assert int((broken & (clean < 0)).sum()) > 3  # the attack, not the image
    assert not broken.all()


def test_pgd_any_counts_iterates_but_not_the_start():
    """A model that is wrong only away from the image, except at the very start of the search."""
    calls = []

    def model(z):
        calls.append(len(z))
        wrong = len(calls) == 1  # misclassifies whatever is asked first: the start
        scores = torch.tensor([[0.0, 1.0]] if wrong else [[1.0, 0.0]]).expand(len(z), 2)
        return scores + 0 * z.flatten(1)[:, :2]

    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    run(spec("pgd", steps=4), model, x, y, "linf:0.1")
    assert calls == [3] * 5  # nothing was dropped: 4 steps and a last look


def test_more_steps_and_restarts_do_not_hurt(net, labelled):
    x, y = labelled
    standing = []
    for steps, restarts in ((2, 1), (12, 1), (12, 3)):
        x_adv = run(spec("pgd", steps=steps, restarts=restarts), net, x, y, "linf:0.1")
        standing.append(int((~fooled(net(x_adv), y)).sum()))
    assert standing[0] >= standing[1] >= standing[2]


@pytest.mark.parametrize("name", ["fgsm", "pgd", "spsa"])
def test_l1_is_refused_where_it_is_not_defined(name, net, labelled):
    with pytest.raises(InvalidInput, match="l1 needs AutoAttack"):
        run(spec(name), net, *labelled, "l1:12")


def test_ties_and_non_finite_logits_are_broken():
    logits = torch.tensor([[1.0, 1.0], [2.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert fooled(logits, torch.zeros(4, dtype=torch.long)).tolist() == [True, False, True, True]


# ---------------------------------------------------------------- the reference engine


SMALL = {  # the published attacks, shortened
    "apgd-ce": {"steps": 5, "restarts": 1},
    "apgd-margin": {"steps": 5, "restarts": 1},
    "apgd-t": {"steps": 5, "restarts": 1, "targets": 3},
    "fab-t": {"steps": 5, "restarts": 1, "targets": 3},
    "square": {"queries": 20, "p_init": 0.8, "restarts": 1},
}


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:5"])
@pytest.mark.parametrize("name", REFERENCE_ATTACKS)
def test_reference_leaves_model_and_random_state_as_found(name, threat, net, labelled):
    x, y = labelled
    before, asked = torch.get_rng_state(), spec(name, **SMALL[name])
    x_adv = reference_attack(asked, net, x, y, ThreatModel.parse(threat), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert x_adv.shape == x.shape
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("iterate", ["any", "last"])
def test_restarts_start_elsewhere_and_the_highest_loss_is_kept(iterate, net, labelled):
    x, y = labelled
    found = []
    for restarts in (1, 4):
        params = {"steps": 2, "restarts": restarts, "iterate": iterate, "loss": "margin"}
        found.append(run(spec("pgd", **params), net, x, y, "linf:0.02"))
    losses = [margin(net(x_adv), y) for x_adv in found]
    standing = losses[1] < 0
    assert (found[0] != found[1]).flatten(1).any(1)[standing].float().mean() > 0.5
    if iterate == "last":
        assert (losses[1] >= losses[0] - 1e-6).all() and losses[1].mean() > losses[0].mean()
