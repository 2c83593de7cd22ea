"""The bound of an audit: its coverage by enumeration, and the cases that have one answer."""

from __future__ import annotations

import pytest
from scipy.stats import hypergeom

from bench.schema import AuditRule, InvalidInput
from bench.stats.audit import audit_bound

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
