"""Rank correlations that are not fooled: given a third quantity, within methods, over families.

A gap is test minus train, so whatever knows the train error predicts the gap by arithmetic. N models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.stats.intervals import Interval

DRAWS = 1000  # of the bootstrap
LEAST = 5  # models, below which no correlation is told

Figures = np.ndarray | Sequence[float]
Statistic = Callable[[np.ndarray], float]  # places (M,) among N models, repeats allowed -> a figure


def ranks(values: Figures) -> np.ndarray:
    """(N,) ranks from 1; equal values share the mean of their places. Raises ValueError for NaN."""
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or np.isnan(found).any():
        raise ValueError("expected a vector of numbers without NaN")
    _, place, count = np.unique(found, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    shared: np.ndarray = (last - (count - 1) / 2)[place]
    return shared


def spearman(a: Figures, b: Figures) -> float:
    """Spearman's rank correlation; NaN where one of the two does not vary."""
    return _pearson(ranks(a), ranks(b))


def partial_spearman(a: Figures, b: Figures, given: Figures) -> float:
    """Spearman's correlation of a and b given a third: what is left once its rank is known.

    NaN where the third determines one of the two.
    """
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    left = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / math.sqrt(left) if left > 1e-12 else math.nan


def within_spearman(a: Figures, b: Figures, groups: Sequence[Hashable]) -> float:
    """The correlation of ranks inside groups, such as methods: each group's mean rank is taken off.

    A group of one says nothing. NaN where nothing varies inside groups.
    """
    codes = _codes(groups)
    sizes = np.bincount(codes)

    def inside(values: Figures) -> np.ndarray:
        rank = ranks(values)
        return rank - (np.bincount(codes, rank) / sizes)[codes]

    return _pearson(inside(a), inside(b))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        raise ValueError(f"expected vectors over the same models, got {a.shape} and {b.shape}")
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / size, -1, 1)) if size > 1e-9 else math.nan


def _codes(groups: Sequence[Hashable]) -> np.ndarray:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(g, len(known)) for g in groups], dtype=int)


def over_families(
    statistic: Statistic, families: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """A figure of N models with its 95 % interval by resampling whole families.

    Models of one family (settings of one method, seeds of one setting) are alike, and resampling them
    one by one would count one finding many times. Draws without a figure are left out; fewer than
    three families, or figures in less than half of the draws, give infinite ends.
    """
    codes = _codes(families)
    members = [
        np.flatnonzero(codes == code) for code in range(codes.max() + 1 if len(codes) else 0)
    ]
    estimate = statistic(np.arange(len(codes)))
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws if len(members) >= 3 else 0):
        drawn = random.integers(len(members), size=len(members))
        found.append(statistic(np.concatenate([members[m] for m in drawn])))
    known = np.array([value for value in found if not math.isnan(value)])
    if len(known) < max(draws / 2, 1):
        return Interval(estimate, -math.inf, math.inf)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


# ---------------------------------------------------------------- what flatness says of the gap


@dataclass(frozen=True)
class FlatnessAgainstGap:
    """How flatness goes with the gap over N models, and what is left of it."""

    n: int
    families: int
    gap: Interval  # Spearman of flatness (larger: sharper) with the gap
    gap_given_train: Interval  # the same, given the robust error on training images
    test: Interval  # Spearman of flatness with the robust error on test images
    within: Interval  # with the gap, inside families
    train_with_gap: float  # Spearman of the train error with the gap: what arithmetic gives


def flatness_against_gap(
    flatness: Figures,
    train_error: Figures,
    test_error: Figures,
    families: Sequence[Hashable],
    *,
    draws: int = DRAWS,
) -> FlatnessAgainstGap:
    """All figures of N models; errors (N,) are robust errors in one unit, larger flatness is sharper.

    Raises ValueError for fewer than LEAST models.
    """
    flat, train, test = (np.asarray(v, dtype=float) for v in (flatness, train_error, test_error))
    if not len(flat) == len(train) == len(test) == len(families) or len(flat) < LEAST:
        raise ValueError(f"expected {LEAST} models or more, with a figure of each kind")
    # Rounded, for equal gaps are to stay equal: 5.7 is not 48.9 - 43.2.
    gap, codes = np.round(test - train, 9), _codes(families)

    def over(statistic: Statistic) -> Interval:
        return over_families(statistic, families, draws=draws)

    return FlatnessAgainstGap(
        n=len(flat),
        families=len(set(families)),
        gap=over(lambda i: spearman(flat[i], gap[i])),
        gap_given_train=over(lambda i: partial_spearman(flat[i], gap[i], train[i])),
        test=over(lambda i: spearman(flat[i], test[i])),
        within=over(lambda i: within_spearman(flat[i], gap[i], codes[i].tolist())),
        train_with_gap=spearman(train, gap),
    )


def sentence(found: FlatnessAgainstGap) -> str:
    """What the figures say of `the flatter, the smaller the gap`, also where they do not support it."""
    whole, given = found.gap, found.gap_given_train
    about = f"Over {found.n} models of {found.families} families, "
    if not whole.low > 0:
        verdict = "a flatter landscape does not show with a smaller robust generalisation gap"
        if whole.high < 0:
            verdict = "a flatter landscape goes with a larger robust generalisation gap"
        return (
            f"{about}{verdict} (rank correlation {_shown(whole)}): the claim is not supported here."
        )
    about += f"a flatter landscape goes with a smaller gap (rank correlation {_shown(whole)})"
    if not given.low > 0:
        return (
            f"{about}, but not once the robust error on training images is known ({_shown(given)}), "
            f"which predicts the gap by arithmetic ({found.train_with_gap:+.2f}): the claim is not "
            "supported beyond that."
        )
    rest = (
        "and with a smaller robust error on test images"
        if found.test.low > 0
        else "but does not show with a smaller robust error on test images"
    )
    return (
        f"{about}, also given the robust error on training images ({_shown(given)}), {rest} "
        f"({_shown(found.test)}). Correlation does not show that flatness is the cause."
    )


def _shown(value: Interval) -> str:
    """`+0.75 [+0.60, +0.85]`."""
    if math.isnan(value.estimate):
        return "not defined"
    if math.isinf(value.low):
        return f"{value.estimate:+.2f}, no interval"
    return f"{value.estimate:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"
