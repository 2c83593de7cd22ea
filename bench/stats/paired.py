"""Two models on the same images: by the records there are, or while images still come in.

Only records of the same images, threat and attacks are compared: equal numbers of two data sets, or of
two columns of one name, are not the same thing.

While images come in one may stop at any look and errs no more often than said. Each image gives X = A
stands - B stands, in {-1, 0, 1}. Against "the mean of X is d" somebody who bets a fixed share of what
they own multiplies it by 1 + share * (X - d) at each image. If d is true no bet gains on average, so by
Ville's inequality their wealth ever reaches 1 / level with a chance of at most `level`, at whichever
look. The e-value is the mean wealth over many shares (Waudby-Smith and Ramdas 2023, arXiv 2010.09686:
betting, mixed over a fixed prior). At d = 0 images on which both agree change nothing, and it is the
beta-binomial one of m = a + b discordant images, a of them A's:

    E = 2^m B(a + 1/2, b + 1/2) / B(1/2, 1/2)

What is inferred is the difference over what the images were drawn from, as for every interval here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.records.selection import CLEAN, WORST_CASE
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.intervals import Interval, PairedComparison, compare_paired


def why_not(a: EvaluationRecord, b: EvaluationRecord, measure: str = WORST_CASE) -> str:
    """Why two records may not be compared by a measure; empty where they may.

    measure is a column's name, or clean, or worst_case.
    """
    if reason := _other_images(a, b):
        return reason
    if measure == CLEAN:
        return ""
    if reason := _other_threats(a, b):
        return reason
    if measure == WORST_CASE:
        return _unlike("protocol", a.protocol.protocol_id, b.protocol.protocol_id)
    for record in (a, b):
        if measure not in record.columns:
            return f"record {record.id} has no column {measure}; it has {', '.join(record.columns)}"
    return _other_judges(a, b) or _unlike(
        f"column {measure}", *(r.columns[measure].column_id for r in (a, b))
    )


def _other_images(a: EvaluationRecord, b: EvaluationRecord) -> str:
    for record in (a, b):
        if record.failure is not None:
            return f"record {record.id} is of a measurement that failed: {record.failure}"
    if a.n != b.n:
        return f"n differs: {a.n:,} and {b.n:,} images"
    if a.examples_sha256 == b.examples_sha256:
        return ""
    return (
        f"the images differ: {a.dataset} {a.split} (sha256 {a.examples_sha256[:8]}) and "
        f"{b.dataset} {b.split} (sha256 {b.examples_sha256[:8]})"
    )


def _other_threats(a: EvaluationRecord, b: EvaluationRecord) -> str:
    return "" if a.threat == b.threat else f"the threats differ: {a.threat} and {b.threat}"


def _other_judges(a: EvaluationRecord, b: EvaluationRecord) -> str:
    judging = ("linf_tolerance", "lp_tolerance", "passes")
    if all(getattr(a.protocol, name) == getattr(b.protocol, name) for name in judging):
        return ""
    return "the protocols judge differently (tolerance, passes of the judge)"


def _unlike(what: str, first: str, second: str) -> str:
    return "" if first == second else f"{what} means other attacks: id {first} and id {second}"


def compare_records(
    a: EvaluationRecord,
    b: EvaluationRecord,
    measure: str = WORST_CASE,
    *,
    confidence: float = 0.95,
) -> PairedComparison:
    """A minus B on their common images. Raises InvalidInput with the reason where they may not be."""
    reason = why_not(a, b, measure)
    if reason:
        raise InvalidInput(
            f"{a.card.name} and {b.card.name} cannot be compared by {measure}: {reason}"
        )
    first, second = (_bits(record, measure) for record in (a, b))
    return compare_paired(first, second, confidence=confidence)


def why_not_protocols(a: EvaluationRecord, b: EvaluationRecord) -> str:
    """Why two records do not show what two protocols break of one network; empty where they do."""
    if a.card.weights_sha256 != b.card.weights_sha256:
        return (
            f"the networks differ: {a.card.name} (weights {a.card.weights_sha256[:8]}) and "
            f"{b.card.name} (weights {b.card.weights_sha256[:8]})"
        )
    if a.protocol.protocol_id == b.protocol.protocol_id:
        return f"both records are of one protocol, {a.protocol.name}"
    return _other_images(a, b) or _other_threats(a, b) or _other_judges(a, b)


def broken_by_each(a: EvaluationRecord, b: EvaluationRecord) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool twice: of one network's images that are right unattacked, those a protocol breaks.

    Raises InvalidInput with the reason where the two records are not of one network, images and threat.
    """
    if reason := why_not_protocols(a, b):
        raise InvalidInput(f"{a.id} and {b.id} do not compare two protocols: {reason}")
    right = a.clean_correct & b.clean_correct
    return right & ~a.worst_case_standing, right & ~b.worst_case_standing


def _bits(record: EvaluationRecord, measure: str) -> np.ndarray:
    if measure == CLEAN:
        return record.clean_correct
    return record.worst_case_standing if measure == WORST_CASE else record.standing(measure)


def common_measures(a: EvaluationRecord, b: EvaluationRecord) -> tuple[str, ...]:
    """The measures by which two records may be compared, worst case first, clean last."""
    return tuple(m for m in (WORST_CASE, *a.columns, CLEAN) if not why_not(a, b, m))


def remarks(a: EvaluationRecord, b: EvaluationRecord) -> tuple[str, ...]:
    """What differs besides the models, and does not forbid the comparison: engine, precision, seed."""
    return tuple(
        f"{name.replace('_', ' ')} differs: {getattr(a, name)} and {getattr(b, name)}"
        for name in ("engine", "engine_version", "precision", "seed")
        if getattr(a, name) != getattr(b, name)
    )


# ---------------------------------------------------------------- while images come in

# Chebyshev's nodes, all of equal weight: the mixture over Beta(1/2, 1/2) above, exactly, up to
# m = 2,047; beyond that still fair bets, of a prior that is these points themselves.
_SHARES = np.cos(np.pi * (np.arange(1024) + 0.5) / 1024)


def log_e_value(
    only_a: np.ndarray | int,
    only_b: np.ndarray | int,
    n: np.ndarray | int,
    *,
    difference: float = 0.0,
) -> np.ndarray:
    """log of the e-value against a mean difference in [-1, 1], at each look (L,).

    only_a, only_b, n (L,): of n images, those on which only A stands, and only B.
    """
    counts = np.broadcast_arrays(*map(np.atleast_1d, (only_a, only_b, n)))
    a, b, seen = (each.astype(float)[:, None] for each in counts)
    share = _SHARES / (1 + abs(difference))  # wealth stays positive whatever X comes
    wealth = a * np.log1p(share * (1 - difference))
    wealth += b * np.log1p(share * (-1 - difference))
    wealth += (seen - a - b) * np.log1p(share * -difference)
    top = wealth.max(axis=1)
    logs: np.ndarray = top + np.log(np.exp(wealth - top[:, None]).mean(axis=1))
    return logs


def confidence_sequence(only_a: int, only_b: int, n: int, *, level: float = 0.05) -> Interval:
    """The differences that the bets have not refuted; they hold the truth at all looks at once.

    Zero lies outside exactly where `log_e_value` reaches log(1 / level).
    """
    if not (only_a >= 0 and only_b >= 0 and only_a + only_b <= n and n >= 1):
        raise ValueError(f"expected counts within n >= 1, got {only_a} and {only_b} of {n}")
    estimate = (only_a - only_b) / n

    def refuted(difference: float) -> bool:
        log_e = float(log_e_value(only_a, only_b, n, difference=difference)[0])
        return log_e >= -math.log(level)

    # Bets on more gain the more, the lower d is; at the estimate itself no bet has gained (Jensen).
    # Zero is looked at first, so that rounding cannot tell the interval and the test apart.
    return Interval(estimate, *(_end(refuted, far, estimate) for far in (-1.0, 1.0)))


def _end(refuted: Callable[[float], bool], far: float, kept: float) -> float:
    """The last refuted difference between far and kept, to 1e-9; far itself where it is kept."""
    if not refuted(far):
        return far
    if min(far, kept) < 0 < max(far, kept):
        far, kept = (0.0, kept) if refuted(0.0) else (far, 0.0)
    while abs(far - kept) > 1e-9:
        middle = (far + kept) / 2
        far, kept = (middle, kept) if refuted(middle) else (far, middle)
    return far


@dataclass(frozen=True)
class Look:
    """What is known after so many images."""

    images: int
    only_a: int  # images on which A stands and B does not
    only_b: int
    log_e: float  # of the e-value against "no difference"
    level: float
    difference: Interval  # the confidence sequence at this look

    @property
    def separated(self) -> bool:
        return self.log_e >= -math.log(self.level)


def first_look(a: np.ndarray, b: np.ndarray, *, level: float = 0.05, stop: bool = True) -> Look:
    """The first look that separates A from B, looking after every image; else the last one.

    a, b (N,) bool, in the order the images came in. stop False: the last look in any case.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"expected two vectors over the same images, got {a.shape} and {b.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level:g}")
    only_a, only_b = np.cumsum(a & ~b), np.cumsum(~a & b)
    # The e-value moves at discordant images alone.
    looks = np.append(np.flatnonzero(a != b), len(a) - 1)
    log_e = log_e_value(only_a[looks], only_b[looks], looks + 1)
    crossed = np.flatnonzero(log_e >= -math.log(level))
    at = int(crossed[0]) if stop and len(crossed) else len(looks) - 1
    last = int(looks[at])
    images, counts = last + 1, (int(only_a[last]), int(only_b[last]))
    difference = confidence_sequence(*counts, images, level=level)
    return Look(images, *counts, float(log_e[at]), level, difference)
