"""Intervals and paired tests: what a difference between two counts may be taken to say.

The pages of the board wait for this file, and importing scipy.stats alone takes about two seconds
on a small machine. So the closed forms are written out (the tests hold them equal to scipy), and
scipy is loaded only for Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


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
        return _root(lambda d: score(d) - target, low, high)

    edge = 1 - 1e-12
    return Interval(estimate, end(z, -edge, estimate), end(-z, estimate, edge))


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f changes its sign between low and high, to 1e-12, by bisection."""
    rising = f(low) < 0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if (f(middle) < 0) == rising:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def seed_interval(differences: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of per-seed paired differences with Student's t interval: the seed is the unit.

    One seed has no interval: its ends are infinite.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        raise ValueError("expected at least one difference")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    from scipy.special import stdtrit

    spread = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * spread
    return Interval(mean, mean - half, mean + half)
