"""An audit: of S standing images m are drawn and attacked with more; what its hits say of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import comb

from bench.schema.errors import InvalidInput

ALL_FROM, MANY, FEW = 3000, 300, 60  # standing images, and how many of them are drawn
CONFIDENCE = Fraction(95, 100)


def sample_size(standing: int) -> int:
    """How many of so many standing images are drawn: 300 of 3,000 or more, else 60, or all."""
    return MANY if standing >= ALL_FROM else min(standing, FEW)


@dataclass(frozen=True)
class AuditBound:
    """What an audit with h hits among m of S standing images says of the others."""

    standing: int  # S, before the audit
    drawn: int  # m
    hits: int  # h
    at_most: int  # K_u: of the S images so many would be broken, at most

    @property
    def others(self) -> int:
        """Beyond the hits: the attack would break at most so many of the other S - h images."""
        return self.at_most - self.hits


def at_most_hits(hits: int, standing: int, broken: int, drawn: int) -> Fraction:
    """The chance that a draw without replacement holds at most so many of the broken, exactly."""
    fewest, most = max(0, drawn - (standing - broken)), min(hits, broken, drawn)
    ways = (comb(broken, k) * comb(standing - broken, drawn - k) for k in range(fewest, most + 1))
    return Fraction(sum(ways), comb(standing, drawn))


def audit_bound(
    standing: int, drawn: int, hits: int, *, confidence: Fraction = CONFIDENCE
) -> AuditBound:
    """The one-sided upper bound on how many of the standing images the audit's attack would break.

    The largest number K with P(at most h hits | S, K, m) above 1 - confidence (hypergeometric). Raises
    InvalidInput where the counts do not fit one another.
    """
    if not 0 <= hits <= drawn <= standing:
        raise InvalidInput(
            f"an audit has 0 <= hits <= drawn <= standing, got {hits}, {drawn}, {standing}"
        )
    # P falls in K: bisection between what was seen and all that was not seen to stand.
    low, high = hits, standing - (drawn - hits)
    while low < high:
        middle = (low + high + 1) // 2
        if at_most_hits(hits, standing, middle, drawn) > 1 - confidence:
            low = middle
        else:
            high = middle - 1
    return AuditBound(standing, drawn, hits, low)
