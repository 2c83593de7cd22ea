"""An audit: of S standing images m are drawn and attacked with more; what its hits say of the rest.

A single bound fails in 1 of 20 records: nothing is said of a column by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import TYPE_CHECKING

from bench.schema.errors import InvalidInput

if TYPE_CHECKING:
    from bench.schema.record import Audited

CONFIDENCE = Fraction(95, 100)


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


def draws_with_at_most(hits: int, standing: int, broken: int, drawn: int) -> int:
    """How many of the comb(standing, drawn) draws hold at most so many of the broken images."""
    fewest, most = max(0, drawn - (standing - broken)), min(hits, broken, drawn)
    inside, outside, ways = comb(broken, fewest), comb(standing - broken, drawn - fewest), 0
    for k in range(fewest, most + 1):
        ways += inside * outside
        inside = inside * (broken - k) // (k + 1)
        outside = outside * (drawn - k) // (standing - broken - drawn + k + 1)
    return ways


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
    left = 1 - confidence
    wanted = comb(standing, drawn) * left.numerator  # in integers: a fraction would be reduced
    # P falls in K: bisection between what was seen and all that was not seen to stand.
    low, high = hits, standing - (drawn - hits)
    while low < high:
        middle = (low + high + 1) // 2
        if draws_with_at_most(hits, standing, middle, drawn) * left.denominator > wanted:
            low = middle
        else:
            high = middle - 1
    return AuditBound(standing, drawn, hits, low)


# ---------------------------------------------------------------- in words


def bound_of(audited: Audited) -> AuditBound:
    """What a recorded audit says."""
    return audit_bound(audited.standing, audited.drawn, audited.hits)


def short(audited: Audited) -> str:
    """`0 of 60 broken, at most 8 of 162 more`."""
    bound = bound_of(audited)
    rest = f"at most {bound.others:,} of {audited.standing - audited.hits:,} more"
    if audited.drawn == audited.standing:
        rest = "all that stood"
    return f"{audited.hits:,} of {audited.drawn:,} broken, {rest}"


def sentence(audited: Audited, n: int) -> str:
    """What an audit of one column says of n images, with its bound in points of robust accuracy."""
    left = f"images that {audited.column} left standing"
    if audited.drawn == audited.standing:
        return f"AutoAttack broke {audited.hits:,} of the {audited.standing:,} {left}"
    others = bound_of(audited).others
    return (
        f"AutoAttack broke {audited.hits:,} of {audited.drawn:,} drawn at random from the "
        f"{audited.standing:,} {left}; one seed of it would break at most {others:,} of the other "
        f"{audited.standing - audited.hits:,} (95 %), {100 * others / n:.1f} points of n = {n:,}"
    )
