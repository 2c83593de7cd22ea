"""Wilson, McNemar and Tango against statsmodels, a numerical optimum, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from bench.stats.intervals import compare_paired, mcnemar_exact, tango, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (140, 200), (1000, 1000)])
def test_wilson_equals_statsmodels(k, n):
    low, high = proportion_confint(k, n, method="wilson")
    ours = wilson(k, n)
    assert ours.low == pytest.approx(low, abs=1e-12)
    assert ours.high == pytest.approx(high, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (5, 1), (10, 5), (30, 31)])
def test_mcnemar_equals_statsmodels(a, b):
    expected = mcnemar([[50, a], [b, 50]], exact=True).pvalue if a + b else 1.0
    assert mcnemar_exact(a, b) == pytest.approx(min(1.0, expected))


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (9, 1, 30), (43, 0, 44), (5, 5, 60)])
def test_tango_ends_are_where_the_score_test_turns(b, c, n):
    """At each end the score statistic, with the likelihood maximised numerically, is 1.96."""

    def statistic(delta):
        def loss(q):  # P(only b) = q + delta, P(only c) = q
            p = np.array([q + delta, q, 1 - 2 * q - delta])
            return -np.sum(np.array([b, c, n - b - c]) * np.log(np.clip(p, 1e-300, None)))

        q = optimize.minimize_scalar(
            loss,
            bounds=(max(0, -delta), (1 - delta) / 2),
            method="bounded",
            options={"xatol": 1e-12},
        ).x
        return (b - c - n * delta) / math.sqrt(n * (2 * q + delta - delta**2))

    ours = tango(b, c, n)
    assert statistic(ours.low) == pytest.approx(1.95996, abs=1e-3)
    assert statistic(ours.high) == pytest.approx(-1.95996, abs=1e-3)


def test_tango_without_discordant_images():
    """The closed form z^2 / (n + z^2)."""
    z = 1.959964**2
    assert tango(0, 0, 54).high == pytest.approx(z / (54 + z), abs=1e-6)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
def test_tango_is_antisymmetric_and_contains_its_estimate(b, c, rest):
    n = b + c + rest
    if n == 0:
        return
    forth, back = tango(b, c, n), tango(c, b, n)
    assert forth.low - 1e-9 <= forth.estimate <= forth.high + 1e-9
    assert forth.low == pytest.approx(-back.high, abs=1e-6)
    assert -1 <= forth.low <= forth.high <= 1


def test_tango_covers():
    """2,000 simulated pairs: the 95 % interval holds the truth 93 to 97 times in a hundred."""
    drawn = np.random.default_rng(0).multinomial(200, [0.10, 0.05, 0.85], size=2000)
    hits = 0
    for (b, c, _), times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        ours = tango(int(b), int(c), 200)
        hits += times * (ours.low <= 0.05 <= ours.high)
    assert 0.93 <= hits / 2000 <= 0.97


def test_paired_comparison_counts():
    a = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    b = np.array([1, 0, 0, 1, 0, 1], dtype=bool)
    found = compare_paired(a, b)
    assert (found.both, found.only_a, found.only_b, found.neither) == (2, 2, 1, 1)
    assert found.difference.estimate == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="same images"):
        compare_paired(a, b[:5])
