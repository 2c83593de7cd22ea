"""Samples of a finite population, two engines, a method over seeds: held to scipy and to simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind

from bench.stats.intervals import (
    chance_of_seeing,
    crossed_bootstrap,
    detectable,
    disagreements,
    most_breakable,
    seed_interval,
    welch_tost,
)

# ---------------------------------------------------------------- samples


@pytest.mark.parametrize(
    ("breakable", "sample", "population"),
    [(0, 60, 662), (34, 60, 662), (500, 60, 10_000), (3, 5, 5), (1, 0, 9), (9, 60, 60)],
)
def test_chance_of_seeing_equals_scipy(breakable, sample, population):
    none = stats.hypergeom(population, breakable, sample).pmf(0)
    assert chance_of_seeing(breakable, sample, population) == pytest.approx(1 - none, abs=1e-12)


@given(st.data())
def test_most_breakable_is_where_the_exact_test_turns(data):
    population = data.draw(st.integers(1, 300))
    sample = data.draw(st.integers(0, population))
    found = data.draw(st.integers(0, sample))
    limit = most_breakable(found, sample, population)
    assert found <= limit <= population - (sample - found)
    if limit > found:
        assert stats.hypergeom(population, limit, sample).cdf(found) > 0.05 - 1e-9
    if limit < population - (sample - found):
        assert stats.hypergeom(population, limit + 1, sample).cdf(found) <= 0.05 + 1e-9


def test_a_whole_sample_leaves_nothing_open():
    assert most_breakable(3, 40, 40) == 3
    assert most_breakable(0, 0, 40) == 40
    assert most_breakable(0, 0, 0) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: chance_of_seeing(1, 6, 5),
        lambda: chance_of_seeing(6, 1, 5),
        lambda: most_breakable(3, 2, 5),
        lambda: most_breakable(0, -1, 5),
    ],
)
def test_impossible_samples_are_refused(call):
    with pytest.raises(ValueError, match="expected 0 <="):
        call()


# ---------------------------------------------------------------- equivalence


@pytest.mark.parametrize("shift", [0.0, 0.002, 0.0045, 0.01])
@pytest.mark.parametrize(("first", "second"), [(20, 20), (20, 5), (3, 7)])
def test_tost_equals_statsmodels(shift, first, second):
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.5 + shift, 0.002, first), rng.normal(0.5, 0.004, second)
    p_value, _, _ = ttost_ind(a, b, -0.005, 0.005, usevar="unequal")
    found = welch_tost(a, b, margin=0.005)
    assert found.p_value == pytest.approx(p_value, abs=1e-12)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert found.difference.low == pytest.approx(interval.low)
    assert found.difference.high == pytest.approx(interval.high)
    inside = found.difference.low > -0.005 and found.difference.high < 0.005
    assert found.equivalent == inside == (p_value < 0.05)


def test_tost_without_spread_is_exact_and_one_seed_proves_nothing():
    same = welch_tost([0.5, 0.5, 0.5], [0.504, 0.504], margin=0.005)
    assert same.equivalent
    assert same.difference.low == same.difference.high == pytest.approx(-0.004)
    assert not welch_tost([0.5, 0.5], [0.506, 0.506], margin=0.005).equivalent
    one = welch_tost([0.5], [0.5, 0.5], margin=0.005)
    assert (one.p_value, one.difference.high, one.equivalent) == (1.0, math.inf, False)
    with pytest.raises(ValueError, match="at least one"):
        welch_tost([], [0.5], margin=0.005)


# ---------------------------------------------------------------- disagreement


def test_disagreements_count_every_pair():
    a = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    b = np.array([[0, 0, 0, 0]], dtype=bool)
    assert disagreements(a).tolist() == [0.25, 0.5, 0.75]
    assert disagreements(a, b).tolist() == [0.5, 0.25, 1.0]
    assert not len(disagreements(b))


# ---------------------------------------------------------------- over seeds


def test_seed_interval_equals_scipy():
    values = np.random.default_rng(1).normal(0.02, 0.01, 7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = seed_interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


# ---------------------------------------------------------------- seeds x images


def crossed(rng, seeds, images, *, gain=0.0, by_seed=0.05, by_image=0.1):
    """(S, N) in {-1, 0, 1}; its expectation over seeds and images is `gain`."""
    centre = gain + by_seed * rng.uniform(-1, 1, (seeds, 1)) + by_image * rng.uniform(-1, 1, images)
    u = rng.random((seeds, images))
    return (u < 0.15 + centre / 2).astype(int) - (u > 0.85 + centre / 2).astype(int)


def test_the_bootstrap_is_definite_and_seeded():
    table = crossed(np.random.default_rng(0), 6, 300, gain=0.03)
    first, again = crossed_bootstrap(table), crossed_bootstrap(table)
    assert first == again
    assert first.low < first.estimate == table.mean() < first.high
    assert crossed_bootstrap(table, seed=1) != first


def test_the_bootstrap_equals_drawing_rows_and_columns_one_by_one():
    """The spread of the plain double loop, within its own simulation error."""
    rng = np.random.default_rng(3)
    table = crossed(rng, 5, 40, gain=0.05, by_seed=0.15)
    means = [
        table[np.ix_(rng.integers(0, 5, 5), rng.integers(0, 40, 40))].mean() for _ in range(10_000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    found = crossed_bootstrap(table)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_the_bootstrap_keeps_what_leaves_nothing_to_chance():
    same = np.ones((4, 9), dtype=int)
    assert (crossed_bootstrap(same).low, crossed_bootstrap(same).high) == (1.0, 1.0)
    forth = crossed(np.random.default_rng(5), 6, 200, gain=0.05)
    back = crossed_bootstrap(-forth)
    assert back.low == pytest.approx(-crossed_bootstrap(forth).high, abs=0.004)
    one = crossed_bootstrap(forth[:1])
    assert (one.low, one.high) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="seeds, images"):
        crossed_bootstrap(forth[0])


@pytest.mark.parametrize("seeds", [3, 6, 12])
def test_what_a_design_can_see_is_found_as_often_as_it_says(seeds):
    """The power of the noncentral t at that difference is the one asked for."""
    each = [0.01 * ((7 * i) % 5) for i in range(seeds)]
    spread = np.std(each, ddof=1)
    for level, power in ((0.05, 0.8), (0.0125, 0.8), (0.05, 0.5)):
        shift = detectable(each, level=level, power=power) / (spread / math.sqrt(seeds))
        critical = stats.t.ppf(1 - level / 2, seeds - 1)
        found = stats.nct.sf(critical, seeds - 1, shift)
        assert found == pytest.approx(power, abs=1e-6)
    assert detectable([0.02] * seeds) == 0 and detectable([0.02]) == math.inf
