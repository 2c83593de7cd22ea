"""A column replayed from walks that were collected alone is the column that is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.attacks import ATTACKS, Search
from bench.attacks.losses import fooled
from tests.attacks.problems import problem
from tests.cascade import plans
from tests.cascade.collect import first_hits, walks
from tests.cascade.plans import EVERYWHERE, Found, replayed, stages


def collected(asked, plan):
    """The walks of a plan, each alone, with the random numbers that the column hands on."""
    wanted = {"diverse-0"} | {w for spec in plan for stage in stages(spec) for w in stage.walks}
    every, answer = torch.arange(len(asked.y)), {}
    for name, walk in walks(asked):
        if name in wanted:
            answer[name], nearest = first_hits(asked, name, walk, every)
            if nearest is not None:
                answer["nearest"] = nearest
    assert wanted <= set(answer)
    return Found.of(answer, every.numpy() < 0)


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
    "diverse": (plans.diverse(3),),
    "one walk": (plans.diverse(0),),
    "near": (plans.near(3, 20),),
    "probability": (plans.probability(10.0, 2),),
    "long": (plans.long(3, 0.5),),
    "long for all": (plans.long(1, EVERYWHERE),),
    "apgd": (plans.apgd(20),),
    "all": (
        plans.diverse(1), plans.near(2, 20), plans.probability(10.0, 1), plans.long(1, 0.3),
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


def test_square_takes_its_queries_of_images_that_came_near(net, labelled):
    """A square that breaks nothing: what a standing image within reach costs, and one without."""
    x = labelled[0][:12]
    asked, threat = problem(net, x, net(x).argmax(1), "linf:0.0001"), "linf:0.0001"
    square = plans.square(0.0).model_copy(
        update={"params": {**plans.square(0.0).params, "queries": 30}}
    )
    found = collected(asked, (square,))
    reach = float(np.median(found.nearest))
    square = square.model_copy(update={"params": {**square.params, "reach": reach}})
    replay = replayed((square,), found)
    standing, passes = run((square,), net, x, asked.y, threat, rows=2)  # it never looks ahead
    assert standing.all() and replay.standing.all()
    assert replay.passes.tolist() == [33 + 31 * near for near in found.nearest <= reach]
    assert replay.passes.sum() == passes


def test_images_that_a_walk_was_not_tried_on_were_broken_before():
    found = Found.of(
        {
            "diverse-0": np.array([3, 0, 2], np.int16),
            "near-20-0": np.array([-1, 0, 5], np.int16),
            "nearest": np.array([0.1, 0.2, 0.3], np.float32),
        },
        np.zeros(3, dtype=bool),
    )
    assert found.broken.tolist() == [True, False, True]
    replay = replayed((plans.near(1, 20, classes=2),), found)
    assert replay.standing.tolist() == [False, True, False]
    assert replay.passes.tolist() == [2 + 2 * 1, 2 + 2 * 21, 2 + 2 * 5]


def test_the_grid_has_every_plan_once():
    named = dict(plans.tried())
    assert len(named) == 6 * 16 * 7 * 16 - 1
    assert len({repr(plan) for plan in named.values()}) == len(named)
    assert all(ATTACKS[spec.name] for plan in named.values() for spec in plan)
