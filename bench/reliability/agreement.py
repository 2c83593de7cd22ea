"""Do our attacks and the published ones agree? What the runs of both engines over seeds say.

Means, equivalence and disagreement are derived from the standing bits of a study. S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.measure import evaluate
from bench.reliability.agreement_runs import ENGINES, Study
from bench.schema import Column
from bench.schema.packing import unpack_bits
from bench.stats.intervals import Equivalence, disagreements, welch_tost

MARGIN = 0.005  # of standing accuracy: half a point
# Over the first five seeds ours may leave a tenth of a point more. With fewer, standing counts are
# often the same by chance, and a spread of zero would pass for certainty: no verdict.
SEEDS, SLACK = 5, 0.001


@dataclass(frozen=True)
class Spread:
    """Shares in [0, 1] over seeds or over pairs of runs."""

    count: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Truth:
    """Ours leaves at most a tenth of a point more standing, and never less than is proven."""

    seeds: int  # the first ones; the rule wants five
    excess: float  # mean of ours minus mean of the reference over them
    proven: float | None  # lower bound of the true robust accuracy, where one is known
    lowest: float  # of ours over all seeds

    @property
    def below_proven(self) -> bool:
        """Wrong beyond doubt: the ball or the box was left, or a clean error counted twice."""
        return self.proven is not None and self.lowest < self.proven - 1e-9

    @property
    def holds(self) -> bool | None:
        """None while fewer than five seeds have run and nothing contradicts it."""
        if self.below_proven:
            return False
        return None if self.seeds < SEEDS else self.excess <= SLACK + 1e-9


@dataclass(frozen=True)
class Agreement:
    """One attack, or the column, by both engines."""

    column: str
    n: int
    seeds: tuple[int, ...]  # finished by both engines
    ours: Spread  # standing accuracy: mean, smallest, largest
    reference: Spread
    equivalence: Equivalence  # of the two means over seeds, unpaired (Welch)
    between: Spread  # disagreement, ours against reference: mean, 5 % and 95 % quantiles
    within_reference: Spread | None  # between two seeds of the reference; None below two seeds
    within_ours: Spread | None
    truth: Truth

    @property
    def equivalent(self) -> bool | None:
        """Within half a point by two one-sided tests; None below five seeds."""
        return None if len(self.seeds) < SEEDS else self.equivalence.equivalent

    @property
    def disagrees_no_more(self) -> bool | None:
        """Whether the engines differ, on average, no more than two seeds of the reference do."""
        within = self.within_reference
        return None if within is None else self.between.mean <= within.mean + 1e-12


def agreements(
    study: Study, columns: Sequence[Column], *, seeds: int, batch: int, proven: float | None = None
) -> list[Agreement]:
    """What the finished cells of this version say; columns without a seed of both are left out."""
    found = []
    for column in columns:
        bits = {
            engine: _bits(study, column, engine, evaluate.engine_version(engine, batch))
            for engine in ENGINES
        }
        shared = [s for s in range(seeds) if all(s in bits[engine] for engine in ENGINES)]
        if shared:
            stacks = [np.stack([bits[engine][s] for s in shared]) for engine in ENGINES]
            found.append(_agreement(column.name, shared, *stacks, proven=proven))
    return found


def _bits(study: Study, column: Column, engine: str, version: str) -> dict[int, np.ndarray]:
    return {
        c.seed: unpack_bits(c.standing, study.n)
        for c in study.cells
        if (c.column, c.column_id, c.engine, c.engine_version)
        == (column.name, column.column_id, engine, version)
    }


def _agreement(
    name: str,
    seeds: Sequence[int],
    ours: np.ndarray,  # (S, N) bool
    reference: np.ndarray,
    *,
    proven: float | None,
) -> Agreement:
    a, b = ours.mean(axis=1), reference.mean(axis=1)
    first = min(SEEDS, len(seeds))
    return Agreement(
        column=name,
        n=ours.shape[1],
        seeds=tuple(seeds),
        ours=Spread(len(a), float(a.mean()), float(a.min()), float(a.max())),
        reference=Spread(len(b), float(b.mean()), float(b.min()), float(b.max())),
        equivalence=welch_tost(a.tolist(), b.tolist(), margin=MARGIN),
        between=_quantiles(disagreements(ours, reference)),
        within_reference=_quantiles(disagreements(reference)) if len(b) > 1 else None,
        within_ours=_quantiles(disagreements(ours)) if len(a) > 1 else None,
        truth=Truth(first, float(a[:first].mean() - b[:first].mean()), proven, float(a.min())),
    )


def _quantiles(values: np.ndarray) -> Spread:
    low, high = np.quantile(values, [0.05, 0.95])
    return Spread(len(values), float(values.mean()), float(low), float(high))


# ---------------------------------------------------------------- the answer


def as_json(study: Study, found: Sequence[Agreement]) -> dict[str, Any]:
    """For programs: shares in [0, 1]; an interval that does not exist has null ends."""
    rows = [
        asdict(each)
        | {
            "equivalent": each.equivalent,
            "disagrees_no_more": each.disagrees_no_more,
            "truth": asdict(each.truth) | {"holds": each.truth.holds},
        }
        for each in found
    ]
    for row in rows:
        ends = row["equivalence"]["difference"]
        row["equivalence"]["difference"] = {
            k: float(v) if np.isfinite(v) else None for k, v in ends.items()
        }
    about = study.model_dump(mode="json", exclude={"cells", "columns"})
    return about | {"agreements": rows}


def summary(study: Study, found: Sequence[Agreement]) -> str:
    """A table that can be pasted, with the rules in words under it."""
    head = ("attack", "n", "S", "ours % [min, max]", "reference % [min, max]",
            "difference, points [90 %]", "within 0.5", "disagree % [5 %, 95 %]",
            "ref. seeds % [5 %, 95 %]", "no more", "truth")  # fmt: skip
    rows = [head, *map(_row, found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    versions = sorted({f"{c.engine}: {c.engine_version}" for c in study.cells})
    return "\n".join(
        [
            f"{study.name}, {study.dataset} {study.split} {study.threat}; {'; '.join(versions)}",
            *(line.rstrip() for line in table),
            "within 0.5: two one-sided Welch tests over seeds (unpaired), margin 0.5 points, 5 %; "
            "no more: mean disagreement of all pairs ours x reference at most that of all pairs of "
            "reference seeds;",
            f"truth: mean over {SEEDS} seeds at most the reference's + 0.1 point"
            + _proven_words(found),
        ]
    )


def _proven_words(found: Sequence[Agreement]) -> str:
    proven = next((each.truth.proven for each in found if each.truth.proven is not None), None)
    return "" if proven is None else f", never below the proven {100 * proven:g} %"


def _row(each: Agreement) -> tuple[str, ...]:
    d, within = each.equivalence.difference, each.within_reference
    return (
        each.column,
        str(each.n),
        str(len(each.seeds)),
        _spread(each.ours),
        _spread(each.reference),
        f"{100 * d.estimate:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]".replace("inf", "∞"),
        _word(each.equivalent),
        _spread(each.between),
        _spread(within) if within else "needs 2 seeds",
        _word(each.disagrees_no_more),
        "BELOW PROVEN" if each.truth.below_proven else _word(each.truth.holds),
    )


def _spread(s: Spread) -> str:
    return f"{100 * s.mean:.2f} [{100 * s.low:.2f}, {100 * s.high:.2f}]"


def _word(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: "too few seeds"}[answer]
