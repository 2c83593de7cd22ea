"""Rank ranges: Holm and McNemar held to statsmodels, symmetry, what is separated and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from bench.stats import ranks
from bench.stats.intervals import mcnemar_exact
from bench.stats.ranks import holm, kept_ranges, mcnemar_p_values, rank_ranges


def ladder(rows: int, n: int = 400, *, top: float = 0.9, step: float = 0.1) -> np.ndarray:
    """(rows, n): each row stands on a subset of what the row before stands on."""
    images = np.arange(n)
    return np.array([images < round(n * (top - step * k)) for k in range(rows)])


def simulated(rng: np.random.Generator, shares: list[float], n: int) -> np.ndarray:
    """Rows of given expected shares over images of unequal hardness, most standing first."""
    felt = rng.random(n) + 0.2 * rng.standard_normal((len(shares), n))
    standing = felt < np.array(shares)[:, None]
    return standing[np.argsort(-standing.sum(axis=1), kind="stable")]


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """statsmodels collects garbage at every call, which takes a tenth of a second."""
    monkeypatch.setattr("gc.collect", lambda: 0)


@pytest.mark.parametrize(("pairs", "level"), [(1, 0.05), (2, 0.2), (10, 0.05), (500, 0.01)])
def test_holm_equals_statsmodels(pairs, level):
    rng = np.random.default_rng(pairs)
    for small in (0.0, 0.3, 0.9, 1.0):  # the share of clear pairs; rounding makes ties
        p_values = np.where(rng.random(pairs) < small, 1e-3 * rng.random(pairs), rng.random(pairs))
        p_values = np.round(p_values, 4)
        expected = multipletests(p_values, level, method="holm")[0]
        assert holm(p_values, level=level).tolist() == expected.tolist()
    assert not len(holm(np.zeros(0), level=level))


def test_p_values_are_those_of_the_exact_test():
    a, b = np.divmod(np.arange(40 * 40), 40)
    a, b = np.append(a, [900, 3]), np.append(b, [1100, 4000])
    expected = [mcnemar_exact(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert mcnemar_p_values(a, b) == pytest.approx(expected, rel=1e-9)


def test_ranges_by_hand():
    """Every pair one by one, as the definition reads."""
    standing = simulated(np.random.default_rng(0), [0.4, 0.5, 0.52, 0.6, 0.75], 500)
    found = rank_ranges(standing)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    p_values = []
    for i, j in pairs:
        a, b = standing[i], standing[j]
        p_values.append(mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())))
    apart = multipletests(p_values, 0.05, method="holm")[0]
    better, worse = [0] * 5, [0] * 5
    for (i, j), told in zip(pairs, apart, strict=True):
        better[j] += told
        worse[i] += told  # rows come in the order of their scores
    assert found.ranges == tuple((1 + b, 5 - w) for b, w in zip(better, worse, strict=True))
    assert (found.pairs, found.separated) == (10, sum(apart))
    assert 0 < found.separated < 10
    neighbours = [told for (i, j), told in zip(pairs, apart, strict=True) if j == i + 1]
    assert found.neighbours_separated == sum(neighbours)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_identical_rows_are_not_separated(rows):
    standing = np.tile(np.arange(100) < 60, (rows, 1))
    found = rank_ranges(standing)
    assert found.ranges == ((1, rows),) * rows
    assert found.separated == 0


@given(st.integers(0, 2**31), st.integers(2, 12))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_range_holds_the_place_and_reverses_with_the_bits(seed, rows):
    rng = np.random.default_rng(seed)
    standing = simulated(rng, rng.uniform(0.3, 0.8, rows).tolist(), 200)
    found = rank_ranges(standing)
    for place, (low, high) in enumerate(found.ranges, 1):
        assert low <= place <= high
    mirrored = rank_ranges(~standing[::-1])
    assert mirrored.ranges == tuple(
        (rows + 1 - high, rows + 1 - low) for low, high in found.ranges[::-1]
    )


def test_large_groups_compare_the_nearest_rows_alone(monkeypatch):
    monkeypatch.setattr(ranks, "ALL_PAIRS", 8)
    monkeypatch.setattr(ranks, "NEAREST", 2)
    assert rank_ranges(ladder(8)).pairs == 28
    found = rank_ranges(ladder(9))
    assert found.pairs == 8 + 7
    # Two better rows are known to be better, two worse ones to be worse; the others were not asked.
    assert found.ranges[4] == (3, 7)
    assert found.ranges[0] == (1, 7)


# ---------------------------------------------------------------- kept on disk


def test_ranges_are_kept_by_their_bits_and_damage_is_mended(tmp_path, monkeypatch):
    standing = ladder(5)
    first = kept_ranges(standing, tmp_path)
    (path,) = tmp_path.iterdir()
    assert first == rank_ranges(standing) == kept_ranges(standing, None)
    with monkeypatch.context() as patched:
        patched.setattr(ranks, "rank_ranges", lambda *a, **k: pytest.fail("computed again"))
        assert kept_ranges(standing, tmp_path) == first
    good = path.read_text()
    for text in ("", "{", "[]", "{}", good.replace("5", "7"), '{"ranges": [[1, 2]]}', "\x00\xff"):
        path.write_text(text)
        assert kept_ranges(standing, tmp_path) == first
        assert path.read_text() == good
    other = standing.copy()
    other[0, -1] = True
    kept_ranges(other, tmp_path)
    kept_ranges(standing, tmp_path, level=0.01)
    assert len(list(tmp_path.iterdir())) == 3
