"""Intervals and tests of counts: one share, two models on the same images, a method over seeds.

The pages of the board wait for this file, and importing scipy.stats alone takes about two seconds
on a small machine. So the closed forms are written out (the tests hold them equal to scipy), and
scipy is loaded only for Student's t. S seeds, N images, R draws of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

ENOUGH = 6  # seeds of a headline; with fewer, every sentence says so
_AT_ONCE = 500  # draws held in memory; all 10,000 of a thousand images would take 100 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its interval, all in the same unit."""

    estimate: float
    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the boundary the interval touches it exactly; rounding must not leave a stray 1e-17.
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == n else min(centre + half, 1.0)
    return Interval(p, low, high)


def newcombe(successes_a: int, n_a: int, successes_b: int, n_b: int) -> Interval:
    """Share a minus share b of independent samples, 95 % (Newcombe 1998, Stat. Med. 17:873, no. 10)."""
    a, b = wilson(successes_a, n_a), wilson(successes_b, n_b)
    difference = a.estimate - b.estimate
    below = math.hypot(a.estimate - a.low, b.high - b.estimate)
    above = math.hypot(a.high - a.estimate, b.estimate - b.low)
    return Interval(difference, difference - below, difference + above)


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers on the same images: counts of the four outcomes, the test, the interval."""

    n: int
    both: int
    only_a: int
    only_b: int
    p_value: float  # exact McNemar
    difference: Interval  # share right under A minus share right under B, Tango

    @property
    def neither(self) -> int:
        return self.n - self.both - self.only_a - self.only_b


def compare_paired(a: np.ndarray, b: np.ndarray, *, confidence: float = 0.95) -> PairedComparison:
    """Compares two boolean vectors (N,) over the same images: exact McNemar, Tango's interval."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"expected two vectors over the same images, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return PairedComparison(
        n=len(a),
        both=int((a & b).sum()),
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar_exact(only_a, only_b),
        difference=tango(only_a, only_b, len(a), confidence=confidence),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that the two discordant counts come from a fair coin."""
    discordant = only_a + only_b
    ways = tail = 1  # C(discordant, 0); whole numbers, so nothing is rounded before the division
    for k in range(min(only_a, only_b)):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)


def tango(only_a: int, only_b: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Score interval of a paired difference of proportions (Tango 1998, Stat. Med. 17:891)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    estimate = (only_a - only_b) / n

    def score(delta: float) -> float:
        # Tango's eq.: the restricted maximum likelihood estimate of the (B only) probability,
        # the larger root of 2n q^2 + b q + c.
        b = -only_a - only_b + (2 * n - only_a + only_b) * delta
        c = -only_b * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return (only_a - only_b - n * delta) / math.sqrt(max(variance, 1e-300))

    def end(target: float, low: float, high: float) -> float:
        if (score(low) - target) * (score(high) - target) > 0:
            return low if abs(low) > abs(high) else high  # the interval reaches the boundary
        rising = score(low) < target
        while high - low > 1e-12:  # by bisection
            middle = (low + high) / 2
            low, high = (middle, high) if (score(middle) < target) == rising else (low, middle)
        return (low + high) / 2

    edge = 1 - 1e-12
    return Interval(estimate, end(z, -edge, estimate), end(-z, estimate, edge))


# ---------------------------------------------------------------- over seeds, on the same images


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


def detectable(differences: Sequence[float], *, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean that as many seeds of this spread would show with this power.

    A two-sided t test at a level, in the unit of the differences: what a design can see, from the
    spread that was seen. Infinite for one seed. The noncentral t's other tail is left out: it holds
    less than the level.
    """
    _, error, n = _mean_and_error(differences)
    if n == 1:
        return math.inf
    from scipy.special import nctdtrinc, stdtrit

    return float(nctdtrinc(n - 1, 1 - power, stdtrit(n - 1, 1 - level / 2))) * error


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


# ---------------------------------------------------------------- samples of a finite population


def chance_of_seeing(breakable: int, sample: int, population: int) -> float:
    """Probability that a sample without replacement holds at least one of the breakable images.

    Exact: 1 minus the hypergeometric probability of none.
    """
    _check_within(sample, population)
    _check_within(breakable, population)
    # Whole numbers up to the one division, which Python rounds correctly at any size.
    return 1 - math.comb(population - breakable, sample) / math.comb(population, sample)


def most_breakable(found: int, sample: int, population: int, *, confidence: float = 0.95) -> int:
    """The largest number of breakable images in the population that `found` in a sample allows.

    The exact one-sided upper limit: the finite-population (hypergeometric) form of Clopper and
    Pearson 1934, reached by drawing without replacement; never above theirs.
    """
    _check_within(sample, population)
    _check_within(found, sample)
    ways = math.comb(population, sample)

    def refuted(breakable: int) -> bool:
        others = population - breakable
        at_most = sum(
            math.comb(breakable, k) * math.comb(others, sample - k) for k in range(found + 1)
        )
        return at_most / ways <= 1 - confidence

    low, high = found, population - (sample - found)  # those seen standing are not breakable
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (low, middle - 1) if refuted(middle) else (middle, high)
    return low


def _check_within(some: int, images: int) -> None:
    if not 0 <= some <= images:
        raise ValueError(f"expected 0 <= {some} <= {images} images")


# ---------------------------------------------------------------- two engines over seeds


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests that two means differ by less than a margin."""

    difference: Interval  # mean of a minus mean of b; the 1 - 2 level interval, 90 % as usual
    p_value: float  # the larger of the two one-sided ones
    margin: float
    level: float

    @property
    def equivalent(self) -> bool:
        """True exactly where the interval lies inside the margin."""
        return self.p_value < self.level


def welch_tost(
    a: Sequence[float], b: Sequence[float], *, margin: float, level: float = 0.05
) -> Equivalence:
    """Equivalence of the means of two independent samples of unequal variance (Schuirmann 1987).

    Unpaired: seed 3 of one engine has nothing in common with seed 3 of the other. Fewer than two
    values on a side prove nothing: p is 1 and the interval infinite. Without any spread the
    difference is taken as exact.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not len(first) or not len(second):
        raise ValueError("expected at least one value on each side")
    estimate = float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2:
        return Equivalence(Interval(estimate, -math.inf, math.inf), 1.0, margin, level)
    parts = [float(v.var(ddof=1)) / len(v) for v in (first, second)]
    spread = math.sqrt(sum(parts))
    if spread == 0:
        p_value = 0.0 if abs(estimate) < margin else 1.0
        return Equivalence(Interval(estimate, estimate, estimate), p_value, margin, level)
    from scipy.special import stdtr, stdtrit

    # Welch and Satterthwaite's degrees of freedom, in a form that tiny variances do not underflow.
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(s**2 / (len(v) - 1) for s, v in zip(shares, (first, second), strict=True))
    above = float(stdtr(freedom, -(estimate + margin) / spread))
    below = float(stdtr(freedom, (estimate - margin) / spread))
    half = float(stdtrit(freedom, 1 - level)) * spread
    interval = Interval(estimate, estimate - half, estimate + half)
    return Equivalence(interval, max(above, below), margin, level)


def disagreements(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Share of images on which two runs differ, for every pair of runs, (pairs,).

    a is (S, N) bool. With b (T, N): the S x T pairs across; without: the pairs of two rows of a.
    """
    if b is not None:
        return (a[:, None, :] != b[None, :, :]).mean(axis=2).ravel()
    first, second = np.triu_indices(len(a), k=1)
    return (a[first] != a[second]).mean(axis=1)
