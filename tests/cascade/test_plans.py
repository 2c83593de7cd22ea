"""A column replayed from walks that were collected alone is the column that is run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from bench.attacks import ATTACKS, Search, apgd, apgd_t
from bench.attacks.losses import fooled
from tests.attacks.problems import problem
from tests.cascade import plans
from tests.cascade.collect import first_hits, walks
from tests.cascade.plans import NEAREST, Found, replayed, stages


def collected(asked, plan):
    """The walks of a plan, each alone, with the random numbers that the attacks hand on."""
    wanted = {w for spec in plan for stage in stages(spec) for w in stage.walks}
    every, answer = torch.arange(len(asked.y)), {}
    for name, walk in [*walks(asked), *autoattack(plan)]:
        if name in wanted and name not in answer:
            path = [kind for kind in ("long", "fab-t", "square") if name.startswith(kind)]
            answer[name], nearest = first_hits(asked, name, walk, every, *path)
            if nearest is not None:
                answer[f"{NEAREST}{name}"] = nearest
    for name in wanted - set(answer):  # rows of an attack that was run whole
        answer[name] = np.zeros(len(every), np.int16)
    return Found.of(answer, every.numpy() < 0)


def autoattack(plan):
    """Of near-boundary: what no walk collected has as few steps as are wanted here."""
    for p in (spec.params for spec in plan if spec.name == "near-boundary"):
        ce = partial(apgd, steps=p["apgd_steps"])
        towards = partial(apgd_t, steps=p["apgd_steps"], targets=p["targets"])
        for name, path, attack in (("ce", "apgd-ce", ce), ("dlr", "apgd-t", towards)):
            yield f"{name}-{p['apgd_steps']}-0", partial(alone, attack, path)


def alone(attack, path, asked, _):
    return attack(asked.at(all_of(asked), path))


def all_of(asked):
    return torch.arange(len(asked.y))


def run(plan, model, x, y, threat, rows=50):
    """(B,) which images the attacks leave, one after another; and the passes, where they happen."""
    spent, standing = [], np.ones(len(y), dtype=bool)

    def counted(z):
        logits = model(z)
        spent.append(len(z))
        if logits.requires_grad:
            logits.register_hook(lambda _: spent.append(len(z)))
        return logits

    for spec in plan:
        left = torch.from_numpy(np.flatnonzero(standing))
        asked = problem(counted, x[left], y[left], threat, search=Search(rows=rows))
        found = ATTACKS[spec.name].function(asked, **spec.params)
        standing[left] = ~fooled(model(found), asked.y).numpy()
    return standing, sum(spent)


PLANS = {
    "diverse": (plans.diverse(4),),
    "one walk": (plans.diverse(1),),
    "near": (plans.near(3, 20),),
    "probability": (plans.probability(10.0, 2),),
    "probes": (plans.boundary(3, -1.0, 0, -1.0, 0),),
    "long": (plans.boundary(2, 0.5, 3, -1.0, 0),),
    "long for all": (plans.boundary(1, 1e9, 1, -1.0, 0),),
    "apgd": (plans.apgd(20),),
    "all": (
        plans.near(2, 20), plans.probability(10.0, 1), plans.boundary(2, 0.3, 1, -1.0, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("threat", ["linf:0.02", "l2:0.15"])
@pytest.mark.parametrize("name", PLANS)
def test_a_replay_is_what_happens(name, threat, net, labelled):
    """The same images stand, and it took exactly so many passes, forward and backward."""
    x, y = (part[4:16] for part in labelled)
    asked = problem(net, x, y, threat, search=Search(rows=50))
    replay = replayed(PLANS[name], collected(asked, PLANS[name]))
    standing, passes = run(PLANS[name], net, x, y, threat)
    assert 0 < standing.sum() < len(y)
    assert replay.standing.tolist() == standing.tolist()
    assert replay.passes.sum() == passes


CHEAP = {"apgd_steps": 3, "targets": 4, "queries": 30}


def test_the_closest_get_everything(net, labelled):
    """Nothing is broken: what an image costs that is close, one within reach, and one far away."""
    x, threat = labelled[0][:5], "linf:0.0001"
    asked = problem(net, x, net(x).argmax(1), threat)
    plan = (plans.boundary(2, 1e9, 2, 1e9, 3),)
    params = {**plan[0].params, **CHEAP}
    plan = (plan[0].model_copy(update={"params": params}),)
    near = np.sort(collected(asked, plan).near(("diverse-0", "diverse-1")))
    reach, close = float(near[3]), float(near[1])
    plan = (plan[0].model_copy(update={"params": {**params, "reach": reach, "close": close}}),)
    found = collected(asked, plan)
    replay = replayed(plan, found)
    standing, passes = run(plan, net, x, asked.y, threat, rows=2)  # it never looks ahead
    assert standing.all() and replay.standing.all()
    assert replay.passes.sum() == passes
    short, long = 1 + 2 * 2 * 16, 2 * 2 * 56
    dear = 3 * 2 * 56 + 2 * 4 + 1 + 4 * 2 * 4 + 1 + 3 * 3 * 4 + 1 + 30
    assert set(replay.passes) == {short, short + long, short + long + dear}
    assert (replay.passes == short).sum() == 1


def test_what_everything_leaves_is_what_the_replay_leaves(net, labelled):
    threat = "l2:0.15"
    x, y = (part[4:30] for part in labelled)
    asked = problem(net, x, y, threat, search=Search(rows=50))
    spec = plans.boundary(1, -1.0, 0, 0.5, 2)
    plan = (spec.model_copy(update={"params": {**spec.params, **CHEAP}}),)
    found = collected(asked, plan)
    standing, _ = run(plan, net, x, y, threat)
    assert replayed(plan, found).standing.tolist() == standing.tolist()
    assert standing.sum() < (found.walks["diverse-0"] == 0).sum()  # the dear ones broke something


def test_images_that_a_walk_was_not_tried_on_were_broken_before():
    found = Found.of(
        {
            "diverse-0": np.array([3, 0, 2], np.int16),
            "near-20-0": np.array([-1, 0, 5], np.int16),
            "square": np.array([-1, -2, 0], np.int16),  # the second was not near
            "nearest-diverse-0": np.array([0.1, 0.2, 0.3], np.float32),
        },
        np.zeros(3, dtype=bool),
    )
    assert found.broken.tolist() == [True, False, True]
    replay = replayed((plans.near(1, 20, classes=2),), found)
    assert replay.standing.tolist() == [False, True, False]
    assert replay.passes.tolist() == [2 + 2 * 1, 2 + 2 * 21, 2 + 2 * 5]


def test_the_grid_has_every_plan_once():
    named = dict(plans.tried())
    # Of each number of probes: alone; long walks, reach and close; close alone.
    boundaries = 3 * (1 + 2 * 3 * 4 + 3)
    assert len(named) == 7 * 7 * (1 + boundaries) - 1
    assert len({repr(plan) for plan in named.values()}) == len(named)
    assert all(ATTACKS[spec.name] for plan in named.values() for spec in plan)
