"""A training method over seeds: the seed is the unit, the images are shared by all seeds.

S seeds, N images, R draws of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.stats.intervals import Interval

_AT_ONCE = 500  # draws held in memory; all 10,000 of a thousand images would take 100 MB
ENOUGH = 6  # seeds of a headline; with fewer, every sentence says so


def seed_interval(differences: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of per-seed paired differences with Student's t interval: the seed is the unit.

    One seed has no interval: its ends are infinite. Equal differences have one of no width.
    """
    mean, spread, seeds = _mean_and_error(differences)
    if seeds == 1:
        return Interval(mean, -math.inf, math.inf)
    from scipy.special import stdtrit

    half = float(stdtrit(seeds - 1, 0.5 + confidence / 2)) * spread
    return Interval(mean, mean - half, mean + half)


def seed_p_value(differences: Sequence[float]) -> float:
    """Two-sided p of Student's one-sample t test that per-seed differences have the mean 0.

    1 where nothing can be tested: with one seed, or where all differences are equal.
    """
    mean, spread, seeds = _mean_and_error(differences)
    if seeds == 1 or spread == 0:
        return 1.0
    from scipy.special import stdtr

    return float(2 * stdtr(seeds - 1, -abs(mean) / spread))


def _mean_and_error(differences: Sequence[float]) -> tuple[float, float, int]:
    """The mean, its standard error (0 for one difference), and how many there are."""
    values = np.asarray(differences, dtype=float)
    if not len(values):
        raise ValueError("expected at least one difference")
    # Exactly: the mean of three times 0.1 rounds to something else, and a spread would be left.
    if values.min() == values.max():
        return float(values[0]), 0.0, len(values)
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values)


def crossed_bootstrap(
    differences: np.ndarray, *, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean of paired differences, seeds and images both drawn again.

    differences (S, N) in {-1, 0, 1}: A's bit minus B's, of one seed on one image. Each draw takes S
    seeds and, independently, N images with replacement: the pigeonhole bootstrap (Owen 2007, arXiv
    0712.1111), mildly conservative with many seeds. With a handful its percentiles are too narrow:
    read it beside `seed_interval`. One seed has no interval: its ends are infinite.
    """
    table = np.asarray(differences, dtype=np.int8)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"expected differences (seeds, images), got shape {table.shape}")
    seeds, images = table.shape
    mean = float(table.mean())
    if seeds == 1:
        return Interval(mean, -math.inf, math.inf)
    # Images with the same differences are interchangeable: how often each kind is drawn is one
    # multinomial, exactly, and there are far fewer kinds than images.
    kinds, counts = np.unique(table, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)  # (R, S)
    sums = np.empty(draws, dtype=np.int64)
    for part in range(0, draws, _AT_ONCE):
        some = slice(part, min(part + _AT_ONCE, draws))
        drawn_kinds = rng.multinomial(images, counts / images, size=some.stop - part)
        sums[some] = ((drawn_seeds[some] @ kinds.astype(np.int64)) * drawn_kinds).sum(axis=1)
    low, high = np.quantile(sums, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(mean, float(low) / table.size, float(high) / table.size)
