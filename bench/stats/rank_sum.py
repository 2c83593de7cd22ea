"""Whether one group of images has lower losses than another, class by class: van Elteren's test.

Within a class the two groups are compared by Wilcoxon's rank sum; the classes are summed with van
Elteren's weights (1960). Counts alone are kept, so that every figure follows from whole numbers.
m and n images of a class in the two groups, N = m + n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from pydantic import Field, model_validator

from bench.schema.frozen import Frozen

_MOST = 10**6  # images of a class in a group


class Stratum(Frozen):
    """The pairs of one class: an image of the first group with one of the second."""

    first: int = Field(ge=1, le=_MOST)  # images
    second: int = Field(ge=1, le=_MOST)
    # Pairs in which the first group's image has the lower loss, counted twice; equal ones count once.
    lower_twice: int = Field(ge=0)
    ties: int = Field(ge=0)  # sum of t^3 - t over all groups of t equal losses

    @model_validator(mode="after")
    def _consistent(self) -> Stratum:
        n = self.first + self.second
        if self.lower_twice > 2 * self.first * self.second or self.ties > n**3 - n:
            raise ValueError("expected at most as many pairs and ties as there are images")
        return self


def strata(
    first: np.ndarray, first_labels: np.ndarray, second: np.ndarray, second_labels: np.ndarray
) -> tuple[Stratum, ...]:
    """The strata of losses (M,) and (N,) with labels (M,) and (N,), of classes that both have."""
    both = np.intersect1d(first_labels, second_labels)
    return tuple(_stratum(first[first_labels == k], second[second_labels == k]) for k in both)


def _stratum(first: np.ndarray, second: np.ndarray) -> Stratum:
    ordered = np.sort(second)
    above = len(second) - np.searchsorted(ordered, first, side="right")
    not_below = len(second) - np.searchsorted(ordered, first, side="left")
    _, counts = np.unique(np.concatenate([first, second]), return_counts=True)
    return Stratum(
        first=len(first),
        second=len(second),
        lower_twice=int((above + not_below).sum()),
        ties=int((counts.astype(object) ** 3 - counts).sum()),
    )


@dataclass(frozen=True)
class Order:
    """How much lower the losses of the first group are."""

    lower: float  # weighted share of pairs in which they are; 1/2 where the groups are alike
    error: float  # its standard deviation where the groups are exchangeable within each class

    @property
    def p_value(self) -> float:
        """One-sided, of shares as high as this one or higher; 1 where all losses are equal."""
        if not self.error:
            return 1.0
        return math.erfc((self.lower - 0.5) / self.error / math.sqrt(2)) / 2


def order(of: Iterable[Stratum]) -> Order:
    """Van Elteren's statistic as a share of pairs, by the permutation variance with ties.

    The normal approximation, without a correction of continuity. Raises ValueError without a stratum.
    """
    lower = pairs = variance = 0.0
    for s in of:
        total = s.first + s.second
        weight = 1 / (total + 1)
        lower += weight * s.lower_twice / 2
        pairs += weight * s.first * s.second
        tied = s.ties / (total * (total - 1))
        variance += weight**2 * s.first * s.second * (total + 1 - tied) / 12
    if not pairs:
        raise ValueError("expected at least one class that both groups have")
    return Order(lower / pairs, math.sqrt(max(variance, 0.0)) / pairs)


def quantile(level: float) -> float:
    """The standard normal deviate that is exceeded with this probability."""
    return NormalDist().inv_cdf(1 - level)
