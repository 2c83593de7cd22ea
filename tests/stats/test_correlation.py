"""Rank correlations: those of scipy, the published ones, and a sentence that also says no."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from scipy import stats

from bench.stats import correlation
from bench.stats.correlation import (
    flatness_against_gap,
    over_families,
    partial_spearman,
    ranks,
    sentence,
    spearman,
    within_spearman,
)
from tests.conftest import SHARED

STUTZ = SHARED / "reference" / "stutz2021_flatness.csv"


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    if not STUTZ.exists():
        pytest.skip("../shared is not here: it holds the 74 models of Stutz et al. 2021")
    rows = list(csv.DictReader(STUTZ.read_text().splitlines()))
    assert len(rows) == 74
    return {
        name: np.array([float(row[name]) for row in rows])
        for name in rows[0]
        if name not in ("model", "source")
    } | {"model": np.array([row["model"] for row in rows])}


@pytest.mark.parametrize(
    ("flatness", "plain", "given_train"),
    [("avg_flatness_robust_ce", 0.748, 0.396), ("worst_flatness_robust_ce", 0.561, 0.201)],
)
def test_the_published_flatness_knows_half_of_the_gap_from_the_train_error(
    published, flatness, plain, given_train
):
    flat, gap, train = (published[n] for n in (flatness, "robust_gap_aa", "train_robust_err_aa"))
    assert spearman(flat, gap) == pytest.approx(plain, abs=5e-4)
    assert partial_spearman(flat, gap, train) == pytest.approx(given_train, abs=5e-4)


def test_the_published_train_error_predicts_the_gap_by_arithmetic(published):
    found = spearman(published["train_robust_err_aa"], published["robust_gap_aa"])
    assert found == pytest.approx(-0.974, abs=5e-4)


@pytest.mark.parametrize("levels", [3, 1000])
def test_correlations_are_those_of_scipy(levels):
    a, b, c = np.random.default_rng(1).integers(levels, size=(3, 40)).astype(float)
    b = b + a
    assert ranks(a) == pytest.approx(stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    left = [ranks(v) - np.poly1d(np.polyfit(ranks(c), ranks(v), 1))(ranks(c)) for v in (a, b)]
    assert partial_spearman(a, b, c) == pytest.approx(stats.pearsonr(*left).statistic)


@pytest.mark.parametrize(
    ("a", "b", "groups", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "AAAA", 1.0),
        ([1, 2, 3, 4], [2, 1, 4, 3], "AABB", -1.0),  # between the groups it rises
        ([1, 2, 3, 4], [1, 2, 4, 3], "AABB", 0.0),
        ([1, 2, 3], [1, 2, 3], "ABC", math.nan),  # nothing varies inside groups
        ([1, 1, 1], [1, 2, 3], "AAA", math.nan),
    ],
)
def test_within_methods(a, b, groups, expected):
    assert within_spearman(a, b, groups) == pytest.approx(expected, nan_ok=True)


def test_what_a_third_determines_has_no_partial_correlation():
    a = [1.0, 2.0, 3.0, 4.0]
    assert math.isnan(partial_spearman(a, [2.0, 1.0, 4.0, 3.0], a))


@pytest.mark.parametrize("wrong", [[1.0, math.nan, 2.0], [[1.0], [2.0]]])
def test_figures_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="without NaN"):
        ranks(np.array(wrong))


def test_families_are_resampled_whole():
    values = np.repeat(np.arange(6.0), 10)
    families = np.repeat(list("abcdef"), 10).tolist()

    def mean(places: np.ndarray) -> float:
        return float(values[places].mean())

    whole = over_families(mean, families, draws=300)
    alone = over_families(mean, list(range(60)), draws=300)
    assert whole.estimate == alone.estimate == 2.5
    # Six families say as much as six models would.
    assert whole.high - whole.low > 2 * (alone.high - alone.low)
    assert math.isinf(over_families(mean, ["a"] * 30 + ["b"] * 30, draws=10).low)


def _models(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(flatness, train error, test error) of 60 models in 20 families."""
    random = np.random.default_rng(0)
    train, noise = random.uniform(10, 60, 60), random.normal(size=60)
    test = 55 + 3 * random.normal(size=60)
    return {
        "causes": (test - train + noise, train, test),
        "train alone": (-train + 5 * noise, train, test),
        "nothing": (10 * noise, train, test),
        "turned": (train + noise, train, test),
    }[case]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("causes", "also given the robust error on training images"),
        ("train alone", "not supported beyond that"),
        ("nothing", "the claim is not supported here"),
        ("turned", "goes with a larger robust generalisation gap"),
    ],
)
def test_the_sentence_follows_the_figures(case, said):
    families = [i % 20 for i in range(60)]
    found = flatness_against_gap(*_models(case), families, draws=200)
    assert (found.n, found.families) == (60, 20)
    assert said in sentence(found)


def test_too_few_models_or_families_say_nothing():
    flat = np.arange(6.0)
    with pytest.raises(ValueError, match=f"{correlation.LEAST} models"):
        flatness_against_gap(flat[:4], -flat[:4], flat[:4], list("abcd"))
    found = flatness_against_gap(flat, -flat, np.ones(6), list("aaabbb"))
    assert "no interval" in sentence(found) and "not supported" in sentence(found)
