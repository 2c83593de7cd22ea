"""The bound of an audit: its coverage by enumeration, and the cases that have one answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from bench.records import store
from bench.schema import AuditRule, InvalidInput
from bench.schema.record import drawn
from bench.stats.audit import audit_bound

RESULTS = Path(__file__).parents[2] / "results"

GRID = [(1, 1), (7, 3), (40, 10), (60, 60), (100, 60), (677, 60), (3000, 300)]


@pytest.mark.parametrize(("standing", "drawn"), GRID)
def test_the_bound_covers_for_every_number_of_hits(standing, drawn):
    """Whatever number of the standing images would be broken, at most 5 % of draws bound it too low."""
    bounds = [audit_bound(standing, drawn, hits).at_most for hits in range(drawn + 1)]
    assert bounds == sorted(bounds)
    step = max(1, standing // 150)
    for true in [*range(0, standing + 1, step), standing]:
        chances = hypergeom.pmf(range(drawn + 1), standing, true, drawn)
        covered = sum(p for p, bound in zip(chances, bounds, strict=True) if bound >= true)
        assert covered >= 0.95 - 1e-9


@pytest.mark.parametrize(("standing", "drawn"), GRID)
def test_the_bound_is_the_largest_number_that_is_not_refused(standing, drawn):
    for hits in {0, drawn // 2, drawn}:
        bound = audit_bound(standing, drawn, hits).at_most
        likely = [
            k
            for k in range(hits, standing - drawn + hits + 1)
            if hypergeom.cdf(hits, standing, k, drawn) > 0.05
        ]
        assert bound == max(likely)


@pytest.mark.parametrize("standing", [0, 1, 60, 1000])
def test_an_audit_of_all_leaves_nothing_open(standing):
    assert audit_bound(standing, standing, 0).at_most == 0
    assert audit_bound(standing, standing, standing // 3).others == 0


def test_no_draw_says_nothing():
    assert audit_bound(50, 0, 0).at_most == 50


@pytest.mark.parametrize(
    ("standing", "drawn"),
    [(0, 0), (1, 1), (60, 60), (61, 60), (2999, 60), (3000, 300), (9420, 300)],
)
def test_how_many_are_drawn(standing, drawn):
    assert AuditRule(attacks=()).size(standing) == drawn


@pytest.mark.parametrize("counts", [(5, 6, 0), (5, 3, 4), (5, 3, -1)])
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(InvalidInput, match="0 <= hits <= drawn <= standing"):
        audit_bound(*counts)


def test_it_holds_where_the_truth_is_known():
    """PGD-20 audited by AutoAttack, whose verdict on every image is recorded."""
    paths = RESULTS.glob("digits/linf-0.15/digits-at-s0-last/*.json")
    records = [store.read(path) for path in paths if len(path.stem) == 16]
    record = next(r for r in records if "autoattack" in r.columns and r.engine == "ours")
    standing = record.standing("pgd20")
    breakable = standing & ~record.standing("autoattack")
    total, true = int(standing.sum()), int(breakable.sum())
    assert true >= 10
    hits = [int((drawn(standing, 60, str(k)) & breakable).sum()) for k in range(400)]
    bound_of = {each: audit_bound(total, 60, each).at_most for each in set(hits)}
    bounds = [bound_of[each] for each in hits]
    assert np.mean([bound >= true for bound in bounds]) >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5
    assert np.median(bounds) < 5 * true  # and it says something
