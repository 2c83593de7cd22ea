"""The study's rule and its splits, on figures made up."""

from __future__ import annotations

import numpy as np
import pytest

from bench.attacks import ATTACKS
from bench.protocols import protocol
from tests.cascade import frontier, study
from tests.cascade.plans import DRAWS, Found, Score, boundary, drawn, near, replayed, score
from tests.cascade.study import (
    Network,
    best,
    by_classes,
    by_dataset,
    by_family,
    each_way,
    widened,
)


def found(count=6, classes=3, **walks):
    """Nobody is broken but by the walks given."""
    never = np.zeros(count, np.int16)
    names = [f"dlr-100-{t}" for t in range(classes - 1)]
    near_ = [f"diverse-{r}" for r in range(20)] + [f"long-{r}" for r in range(8)]
    names += [*near_, *(f"long-{r}" for r in range(8, 28)), "fab-t", "square", "ce-100-0"]
    names += [f"near-20-{t}" for t in range(classes - 1)]
    every = dict.fromkeys(names, never)
    every |= {f"nearest-{name}": np.linspace(0, 1, count) for name in near_}
    every |= {name.replace("_", "-"): np.array(hits, np.int16) for name, hits in walks.items()}
    return Found.of(every, np.arange(count) >= count // 2)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"a": (5, 300), "b": (3, 600), "c": (1, 801)}, "b"),  # within the budget
        ({"a": (3.5, 300), "b": (3, 600)}, "a"),  # equal: the cheaper
        ({"a": (3.75, 300), "b": (3, 600)}, "b"),
        ({"a": (0, 600), "b": (0, 500), "c": (0.5, 500)}, "b"),  # of the cheapest the better
    ],
)
def test_the_rule(scores, chosen):
    made = {name: Score(missed, 100, passes) for name, (missed, passes) in scores.items()}
    assert best(made, made) == chosen


def test_gates_are_widened_as_far_as_the_budget_allows():
    passes = {
        "5 probes, 7 within 0.05, all within 0.01": 300,
        "5 probes, 7 within 0.2, all within 0.01": 400,
        "5 probes, 7 within 0.05, all within 0.02": 500,
        "5 probes, 7 within 0.1, all within 0.02": 800,
        "5 probes, 7 within 0.2, all within 0.02": 801,
        "3 probes, 7 within 0.2, all within 0.03": 100,  # other walks
        "5 probes": 50,
    }
    scores = {name: Score(0, 100, spent) for name, spent in passes.items()}
    assert widened("5 probes, 7 within 0.05, all within 0.01", scores).endswith(
        "7 within 0.1, all within 0.02"
    )
    assert widened("5 probes", scores) == "5 probes"


def test_families_and_images_are_on_one_side_each():
    families = ["at", "at+awp", "mart", "trades", "trades"]
    networks = [Network(f"n{i}", "digits", 0, f, found()) for i, f in enumerate(families)]
    other = Network("fashion", "fashion_mnist", 0, "at", found())
    choosing, confirming = by_family([*networks, other])
    assert [n.family for n in choosing] == ["at", "mart"]
    assert [n.family for n in confirming] == ["at+awp", "trades", "trades"]
    assert not any(n.found.later.any() for n in choosing)
    assert all(n.found.later.all() and len(n.found.later) == 3 for n in confirming)
    assert by_dataset([*networks, other]) == (networks, [other])
    one, reverse = each_way([*networks, other])
    assert [n.family for n in one[0]] == ["at", "mart"] and one[0] + one[1] == [
        networks[i] for i in (0, 2, 1, 3, 4)
    ]
    assert reverse == (one[1], one[0])


def test_a_draw_takes_other_restarts_of_a_kind_and_leaves_the_rest():
    """Corners stay corners, and how near a walk came goes with the walk."""
    numbered = found(**{f"diverse_{r}": [r + 1] * 6 for r in range(20)},
                     **{f"long_{r}": [r + 1] * 6 for r in range(28)}, near_20_0=[7] * 6,
                     **{f"nearest_long_{r}": [r] * 6 for r in range(8)})  # fmt: skip
    drawn_ = [numbered.draw(k) for k in range(DRAWS)]
    assert all(d.walks["near-20-0"][0] == 7 for d in drawn_)
    assert [int(d.walks["diverse-1"][0]) - 1 for d in drawn_] == [1, 5, 9, 13]
    assert [int(d.walks["long-1"][0]) - 1 for d in drawn_] == [1, 3, 5, 7]
    assert [int(d.nearest["long-1"][0]) for d in drawn_] == [1, 3, 5, 7]
    for d in drawn_:
        first, others = (
            sorted(int(d.walks[f"long-{r}"][0]) for r in some) for some in (range(8), range(8, 28))
        )
        assert first == list(range(1, 9)) and others == list(range(9, 29))


def test_a_missed_image_is_one_that_another_walk_breaks():
    founds = [found(near_20_1=[0, 0, 3, 0, 0, 0]), found(classes=5, long_1=[4, 0, 0, 0, 0, 0])]
    plan_of = {3: (near(1, 20, 3),), 5: (near(9, 20, 5),)}
    told = score(plan_of, drawn(founds))
    assert (told.missed, told.standing) == (2, 12)
    assert told.passes == ((1 + 2 + 2 * 21) + (1 + 4 + 4 * 2 * 21)) / 2
    better = {3: (near(2, 20, 3),), 5: (boundary(1, 0.0, 8, -1.0, 0),)}
    assert score(better, drawn(founds)).missed == 0
    missing = {3: (near(2, 20, 3),), 5: (boundary(1, -1.0, 8, -1.0, 0),)}  # nobody is so near
    assert score(missing, drawn(founds)).missed == 1


def test_passes_of_a_broken_image_end_with_its_hit():
    hit = found(near_20_1=[0, 0, 3, 0, 0, 0])
    assert replayed((near(2, 20, 3),), hit).passes[2] == 1 + 2 + 2 * 2 * 3


def test_what_the_column_has_is_a_plan_of_the_grid():
    plan_of = by_classes([Network("n", "digits", 0, "at", found(classes=c)) for c in (3, 10)])
    for classes, plan in plan_of[study.COLUMN].items():
        assert all(spec.name in ATTACKS for spec in plan)
        assert plan[-1].params["targets"] == classes - 1
        (column,) = protocol("cascade", classes=classes).columns
        assert plan == column.attacks  # version 1 is what was chosen


def test_the_edge_is_what_no_other_beats():
    points = {"a": (10.0, 5.0), "b": (20.0, 5.0), "c": (30.0, 2.0), "d": (5.0, 9.0)}
    assert frontier.edge(points) == ["d", "a", "c"]
