"""A method over seeds: Student's interval, and seeds x images drawn again; coverage is simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.stats.seeds import crossed_bootstrap, seed_interval


def test_seed_interval_of_the_published_example():
    """Differences 4.6, 4.2, 2.7, 1.9, 2.0 give +3.1 [1.5, 4.6]."""
    found = seed_interval([4.6, 4.2, 2.7, 1.9, 2.0])
    assert round(found.estimate, 1) == 3.1
    assert round(found.low, 1) == 1.5
    assert round(found.high, 1) == 4.6
    assert seed_interval([1.0]).high == math.inf


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


def test_the_bootstrap_covers_crossed_data():
    """100 simulated studies of 20 seeds x 100 images; pooling the bits covers far less."""
    rng, hits, pooled = np.random.default_rng(0), 0, 0
    for _ in range(100):
        table = crossed(rng, 20, 100, gain=0.03)
        found = crossed_bootstrap(table, draws=400)
        hits += found.low <= 0.03 <= found.high
        half = 1.96 * table.std() / math.sqrt(table.size)
        pooled += abs(table.mean() - 0.03) <= half
    assert hits / 100 >= 0.90
    assert pooled < hits - 5
