"""Van Elteren's test: known answers, its level, and what moves it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import mannwhitneyu

from bench.stats.rank_sum import Stratum, order, quantile, strata

SOME = st.lists(st.integers(0, 9), min_size=2, max_size=40)


def one_class(first: list[float], second: list[float]) -> tuple[Stratum, ...]:
    a, b = np.array(first, dtype=float), np.array(second, dtype=float)
    return strata(a, np.zeros(len(a), int), b, np.zeros(len(b), int))


@given(SOME, SOME)
def test_one_class_is_the_test_of_mann_and_whitney(first, second):
    """Ties among the losses, too."""
    (found,) = one_class(first, second)
    theirs = mannwhitneyu(
        first, second, alternative="less", use_continuity=False, method="asymptotic"
    )
    assert found.lower_twice / 2 == len(first) * len(second) - theirs.statistic
    if len({*first, *second}) > 1:
        assert order([found]).p_value == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)


def test_the_variance_is_that_of_all_divisions():
    """Of 3 + 2 images of one class and 2 + 2 of another: every way to divide each, by enumeration."""
    losses = ([0.1, 0.4, 0.4, 0.7, 0.9], [1.0, 2.0, 3.0, 4.0])
    shares = []
    for chosen in itertools.product(
        itertools.combinations(range(5), 3), itertools.combinations(range(4), 2)
    ):
        parts = []
        for values, some in zip(losses, chosen, strict=True):
            others = [v for k, v in enumerate(values) if k not in some]
            parts += one_class([values[k] for k in some], others)
        shares.append(order(parts).lower)
    assert np.mean(shares) == pytest.approx(0.5)
    assert np.std(shares) == pytest.approx(order(parts).error)


@given(SOME, SOME)
def test_sides_turn(first, second):
    there, back = order(one_class(first, second)), order(one_class(second, first))
    assert there.lower + back.lower == pytest.approx(1)
    assert there.error == pytest.approx(back.error)
    assert there.p_value + back.p_value == pytest.approx(1 if there.error else 2)


@given(SOME, SOME, st.integers(0, 39))
def test_a_lower_loss_is_never_less_of_a_sign(first, second, place):
    lowered = list(first)
    lowered[place % len(first)] -= 10
    assert order(one_class(lowered, second)).lower >= order(one_class(first, second)).lower


def test_only_order_within_a_class_counts():
    """Classes of other difficulty and other numbers of images say nothing."""
    rng = np.random.default_rng(0)
    labels = [np.repeat([0, 1], counts) for counts in ((300, 100), (100, 300))]
    first, second = (rng.random(400) + 5 * of for of in labels)
    within = order(strata(first, labels[0], second, labels[1]))
    assert 0.4 < within.lower < 0.6
    squeezed = strata(np.exp(first), labels[0], np.exp(second), labels[1])
    assert order(squeezed) == within
    assert order(one_class(list(first), list(second))).p_value < 1e-9  # across classes


def test_classes_of_one_side_are_left_out():
    found = strata(np.array([1.0, 2.0]), np.array([0, 1]), np.array([3.0, 4.0]), np.array([1, 2]))
    assert found == (Stratum(first=1, second=1, lower_twice=2, ties=0),)
    assert strata(np.ones(1), np.zeros(1, int), np.ones(1), np.ones(1, int)) == ()
    with pytest.raises(ValueError, match="at least one class"):
        order([])


@pytest.mark.parametrize(("n", "classes"), [(100, 10), (100, 1)])
def test_the_level_holds_where_nothing_is_to_be_found(n, classes):
    """The share of p below a level, of 1,000 draws from one distribution, has its binomial error."""
    rng, draws, labels = np.random.default_rng(1), 1000, np.arange(n) % classes
    p = []
    for _ in range(draws):
        first, second = np.round(rng.exponential(size=(2, n)), 2)  # with ties
        p.append(order(strata(first, labels, second, labels)).p_value)
    for level in (0.05, 0.005):
        error = math.sqrt(draws * level * (1 - level))
        assert abs((np.array(p) < level).sum() - draws * level) <= 3 * error


@pytest.mark.parametrize(
    "wrong",
    [{"lower_twice": 13}, {"ties": 121}, {"first": 0}, {"second": 10**7}, {"ties": -1}, {"p": 0.1}],
)
def test_counts_that_cannot_be_are_refused(wrong):
    fields = {"first": 2, "second": 3, "lower_twice": 12, "ties": 120}
    Stratum.model_validate(fields)
    with pytest.raises(ValidationError):
        Stratum.model_validate(fields | wrong)


def test_all_equal_losses_are_no_sign():
    assert order(one_class([1, 1, 1], [1, 1])).p_value == 1
    assert quantile(0.025) == pytest.approx(1.959964, abs=1e-6)
