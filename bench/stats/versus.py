"""Two methods, or two networks, of one table against each other on the same images.

Two networks are compared image by image: Tango's interval and the exact McNemar test. Two methods are
compared by seed, over the seeds that both have: Student's t. S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.schema import InvalidInput
from bench.stats.contrasts import Answer, Pair
from bench.stats.intervals import Interval, compare_paired, seed_interval, seed_p_value
from bench.stats.method_rows import MethodRow
from bench.stats.ranks import holm
from bench.stats.verdicts import seed_means
from bench.table import WORST_CASE, Group, Row


class Outcomes(NamedTuple):
    """How many images stand, of two networks, or a seed on average."""

    both: float
    only_a: float
    only_b: float
    neither: float


class Telling(NamedTuple):
    """An image on which one of two does better."""

    place: int  # among the images of the record
    standing: int  # networks of the one that withstand, a seed each
    others: int  # and of the other


@dataclass(frozen=True, eq=False)
class Versus:
    """One row of a table minus another one, a pair of networks a seed."""

    a: MethodRow
    b: MethodRow
    pairs: tuple[tuple[Row, Row], ...]  # one a seed that both have; of two networks, these alone

    @property
    def seeds(self) -> int:
        return len(self.pairs)

    @property
    def over_seeds(self) -> bool:
        """Whether the seed is the unit; else the image is."""
        return self.seeds > 1

    def bits(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """What stands of a, and of b: (S, N) bool each."""
        return (
            np.array([a.standing[measure] for a, _ in self.pairs]),
            np.array([b.standing[measure] for _, b in self.pairs]),
        )

    def outcomes(self, measure: str = WORST_CASE) -> Outcomes:
        a, b = self.bits(measure)
        each = (a & b, a & ~b, ~a & b, ~a & ~b)
        return Outcomes(*(float(found.sum()) / self.seeds for found in each))

    def difference(self, measure: str = WORST_CASE) -> Interval:
        """a minus b, as shares: over seeds for methods, over images for networks; 95 %."""
        if self.over_seeds:
            return seed_interval(self._each(measure))
        return compare_paired(*(bits[0] for bits in self.bits(measure))).difference

    def p_value(self, measure: str = WORST_CASE) -> float:
        """Of no difference, two-sided: Student's paired t for methods, exact McNemar for networks."""
        if self.over_seeds:
            return seed_p_value(self._each(measure))
        return compare_paired(*(bits[0] for bits in self.bits(measure))).p_value

    def telling(self, measure: str = WORST_CASE) -> tuple[list[Telling], list[Telling]]:
        """Images on which a stands and b falls, and the other way round, the clearest first.

        Of methods: with more seeds of the one than of the other, by half of them at least.
        """
        a, b = (bits.sum(axis=0) for bits in self.bits(measure))

        def more(mine: np.ndarray, other: np.ndarray) -> list[Telling]:
            lead = mine - other
            places = np.flatnonzero((2 * lead >= self.seeds) & (lead > 0))
            order = places[np.argsort(-lead[places], kind="stable")]
            return [Telling(int(k), int(mine[k]), int(other[k])) for k in order]

        return more(a, b), more(b, a)

    def answer(self, known: Iterable[Answer]) -> Answer | None:
        """The contrast of the table that compares these very networks, in either direction."""
        mine = {frozenset(map(id, pair)) for pair in self.pairs}
        return next((one for one in known if _networks(one) == mine), None)

    def _each(self, measure: str) -> tuple[float, ...]:
        a, b = self.bits(measure)
        return seed_means(a.astype(np.int8) - b)


def _networks(answer: Answer) -> set[frozenset[int]]:
    return {frozenset({id(pair.awp), id(pair.vanilla)}) for pair in answer.method.pairs}


def network(group: Group, row: Row, against: Pair | None = None) -> MethodRow:
    """One network as a row of its own, with its rank among all networks of the table."""
    return MethodRow(group, row.card.name, (row,), (), row.rank, row.rank_range, against)


def twins(rows: Sequence[MethodRow]) -> list[tuple[int, int]]:
    """Places of rows that are twins in their table: the vanilla one, then the other."""
    places = {frozenset(map(id, row.rows)): place for place, row in enumerate(rows)}
    found = []
    for place, row in enumerate(rows):
        pairs = _pairs(row.against)
        vanilla = places.get(frozenset(id(pair.vanilla) for pair in pairs))
        if vanilla is not None:
            found.append((vanilla, place))
    return found


def _pairs(against: Answer | Pair | None) -> tuple[Pair, ...]:
    if isinstance(against, Answer):
        return against.method.pairs
    return () if against is None else (against,)


def versus(a: MethodRow, b: MethodRow) -> Versus:
    """The comparison of two rows of one table. Raises InvalidInput where they share no unit."""
    if a.alone and b.alone:
        return Versus(a, b, ((a.rows[0], b.rows[0]),))
    mine, other = ({row.card.train.seed: row for row in m.rows if row.card.train} for m in (a, b))
    common = sorted(mine.keys() & other.keys())
    if len(common) < 2:
        said = " and ".join(f"{m.name} has {_seeds(m)}" for m in (a, b))
        raise InvalidInput(
            f"{said}: two methods are compared over seeds that both have, two at least; "
            "choose single networks instead"
        )
    return Versus(a, b, tuple((mine[seed], other[seed]) for seed in common))


def _seeds(method: MethodRow) -> str:
    if method.alone:
        return "one network"
    return f"the seeds {', '.join(str(row.card.seed) for row in method.rows)}"


def separated(found: Sequence[Versus]) -> list[bool]:
    """Which of the pairs differ in their worst case at 5 %, by Holm's procedure over all of them."""
    rejected: list[bool] = holm(np.array([one.p_value() for one in found])).tolist()
    return rejected
