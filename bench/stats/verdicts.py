"""What may be said of two methods compared over seeds: one rule for pages, studies and exports.

A headline takes all of this, on unrounded numbers: both 95 % intervals leave zero out, Student's t over
seeds and seeds x images drawn again; Holm's procedure rejects at 5 % within the family that the
contrast belongs to; there are 6 seeds. With fewer seeds two intervals that leave zero out are an
indication. S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.notation import p_value_text
from bench.stats.intervals import (
    ENOUGH,
    Interval,
    crossed_bootstrap,
    seed_interval,
    seed_p_value,
)
from bench.stats.ranks import LEVEL, holm

BETTER, WORSE = "better", "worse"
INDICATION = {BETTER: "indication: better", WORSE: "indication: worse"}
NOTHING = "nothing shown"
TOO_FEW = "too few seeds and images to tell"
ONE_SEED = "one seed shows nothing"
DESCRIPTIVE = "descriptive"
NO_VERDICT = "no verdict"

# Epoch kept, best or last, and the ids of two records, treated and control. The ids alone would not do:
# a run whose best epoch is its last has two records of one id.
Compared = tuple[str, str, str]

RULE = (
    "A verdict is on the worst case. Better or worse: both 95 % intervals leave zero out (Student's t "
    f"over seeds; seeds x images drawn again), Holm's procedure rejects at {100 * LEVEL:g} % within "
    f"the family that is named, and there are {ENOUGH} seeds; with fewer it is an indication."
)


def seed_means(differences: np.ndarray) -> tuple[float, ...]:
    """Means over images of differences (S, N) in {-1, 0, 1}, each rounded once."""
    table = np.asarray(differences, dtype=np.int8)
    return tuple((table.sum(axis=1, dtype=np.int64) / table.shape[1]).tolist())


@dataclass(frozen=True)
class Effect:
    """Treated minus control over S seeds, as shares of N images, and what follows from them."""

    each: tuple[float, ...]  # one a seed
    drawn: Interval | None = None  # what `crossed` is, where that is known
    bits: bytes = b""  # else what it is drawn from: differences (S, N), int8

    @classmethod
    def of_bits(cls, differences: np.ndarray) -> Effect:
        """The effect of differences (S, N) in {-1, 0, 1}: the treated's bit minus the control's."""
        return cls(seed_means(differences), bits=np.asarray(differences, dtype=np.int8).tobytes())

    @cached_property
    def crossed(self) -> Interval:
        """Seeds and images both drawn again, when first asked for; infinite ends with one seed."""
        if self.drawn is not None:
            return self.drawn
        return crossed_bootstrap(np.frombuffer(self.bits, np.int8).reshape(self.seeds, -1))

    @property
    def seeds(self) -> int:
        return len(self.each)

    @cached_property
    def over_seeds(self) -> Interval:
        """The mean with Student's t interval."""
        return seed_interval(self.each)

    @cached_property
    def p_value(self) -> float:
        """Student's t test, two-sided; 1 where it cannot be made."""
        return seed_p_value(self.each)

    @property
    def without_spread(self) -> bool:
        """Whether several seeds agree to the last image: no interval can be built on that."""
        return self.seeds > 1 and min(self.each) == max(self.each)

    @property
    def direction(self) -> int:
        """1: both intervals are above zero, -1: both below, 0: one holds zero or has no width."""
        way = int(self.over_seeds.low > 0) - int(self.over_seeds.high < 0)
        if self.without_spread or not way:
            return 0  # whatever is drawn again
        drawn = self.crossed.low > 0 if way > 0 else self.crossed.high < 0
        return way if drawn else 0


@dataclass(frozen=True)
class Verdict:
    """An effect within its family: what may be said of it, in the words used everywhere."""

    effect: Effect
    family: str  # `the 20 contrasts of this table`; empty: descriptive
    rejected: bool  # by Holm's procedure within the family
    why_none: str = ""  # why there is no verdict, where its study asks for more than seeds

    @property
    def standing(self) -> str:
        """One of the words above."""
        way = {1: BETTER, -1: WORSE}.get(self.effect.direction)
        if not self.family:
            return DESCRIPTIVE
        if self.why_none:
            return NO_VERDICT
        if self.effect.seeds == 1:
            return ONE_SEED
        if self.effect.without_spread and self.effect.each[0] != 0:
            return TOO_FEW
        if way is None:
            return NOTHING
        if self.effect.seeds < ENOUGH:
            return INDICATION[way]
        return way if self.rejected else NOTHING

    @property
    def sign(self) -> int:
        """1 for better, -1 for worse, indications too; 0 for everything else: what colours follow."""
        shown = self.standing in (BETTER, WORSE, *INDICATION.values())
        return self.effect.direction if shown else 0

    @property
    def headline(self) -> bool:
        """Whether it may be said without a caveat."""
        return self.standing in (BETTER, WORSE)

    @property
    def words(self) -> str:
        """The standing, with the reason where the intervals alone would let one expect another."""
        standing, over_seeds = self.standing, self.effect.over_seeds
        if standing == DESCRIPTIVE:
            return f"{standing}, no primary contrast of its study"
        if standing == NO_VERDICT:
            return f"{standing}: {self.why_none}"
        if standing in INDICATION.values():
            return f"{standing} ({self.effect.seeds} seeds; a headline needs {ENOUGH})"
        if standing != NOTHING or self.effect.without_spread:
            return standing
        if self.effect.direction:
            p = p_value_text(self.effect.p_value)
            said = f"p {p} alone, not by Holm over {self.family}"
            return f"{standing} (both intervals leave zero out; {said})"
        if over_seeds.low > 0 or over_seeds.high < 0:
            return f"{standing} (seeds x images drawn again holds zero)"
        return standing


def judge(
    effects: Sequence[Effect],
    of: str,
    *,
    declared: int | None = None,
    kind: str = "contrast",
    why_none: Sequence[str] | None = None,
) -> tuple[Verdict, ...]:
    """The verdicts of one family, in order; the order changes none.

    kind and of name its members: `the 20 contrasts of this table`. The family has as many as were
    declared, some of which may not be measured yet, else as can be tested, which takes two seeds. What
    cannot be tested is never rejected. why_none: for each effect why it gets no verdict, else nothing;
    it is not tested then, and still counts. Raises ValueError for more effects than were declared.
    """
    reasons = why_none or [""] * len(effects)
    testable = [e.seeds > 1 and not why for e, why in zip(effects, reasons, strict=True)]
    tested = [place for place, can_be in enumerate(testable) if can_be]
    size = len(tested) if declared is None else declared
    if declared is not None and len(effects) > declared:
        raise ValueError(f"expected at most the {declared} effects declared, got {len(effects)}")
    p_values = np.ones(size)
    p_values[: len(tested)] = [effects[place].p_value for place in tested]
    rejected = dict(zip(tested, holm(p_values).tolist(), strict=False))
    family = f"the {size:,} {kind}{'' if size == 1 else 's'} {of}"
    return tuple(
        Verdict(effect, family, rejected.get(place, False), why)
        for place, (effect, why) in enumerate(zip(effects, reasons, strict=True))
    )


def descriptive(effect: Effect) -> Verdict:
    """What a contrast gets whose study declared others as primary: numbers, and no verdict."""
    return Verdict(effect, "", rejected=False)


def seeds_text(seeds: int) -> str:
    """`6 seeds`; `3 seeds (fewer than 6)`."""
    few = f" (fewer than {ENOUGH})" if seeds < ENOUGH else ""
    return f"{seeds} seed{'' if seeds == 1 else 's'}{few}"
