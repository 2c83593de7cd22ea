"""Two rows of a table against each other: images or seeds as the unit, and what tells them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bench.schema import InvalidInput
from bench.stats import contrasts
from bench.stats.intervals import compare_paired
from bench.stats.method_rows import MethodRow, method_table
from bench.stats.versus import network, separated, twins, versus
from bench.table import CLEAN, WORST_CASE, Group
from tests.board.board_records import Ranker, make_card, make_record, matched_pair, ranker

GAINS = (0.03, 0.05, 0.02, 0.06)


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """Four seeds of a method beside those of its twin, and a network of somebody else."""
    rank: Ranker = ranker(tmp_path)
    runs = [record for seed, gain in enumerate(GAINS) for record in matched_pair(seed, gain=gain)]
    stranger = make_record(make_card("stranger", train=None, seed=None), robust=0.4)
    (found,) = rank(*runs, stranger).groups
    return found


@pytest.fixture
def rows(group: Group) -> dict[str, MethodRow]:
    pairs = contrasts.pairs(group)
    found = method_table(group, contrasts.answers(group, pairs), pairs)
    return {row.name: row for row in found.rows}


@pytest.mark.parametrize("measure", [WORST_CASE, CLEAN, "pgd20"])
def test_two_networks_are_compared_image_by_image(group: Group, measure: str) -> None:
    first, second = (network(group, row) for row in group.rows[:2])
    one = versus(first, second)
    a, b = (side.rows[0].standing[measure] for side in (first, second))
    paired = compare_paired(a, b)
    assert one.difference(measure) == paired.difference
    assert one.p_value(measure) == paired.p_value
    assert one.outcomes(measure) == (paired.both, paired.only_a, paired.only_b, paired.neither)
    assert not one.over_seeds


def test_two_methods_are_compared_by_seed(group: Group, rows: dict[str, MethodRow]) -> None:
    one = versus(rows["AT-AWP"], rows["AT"])
    differences = np.subtract(rows["AT-AWP"].each(), rows["AT"].each())
    assert one.seeds == 4 and one.difference().estimate == pytest.approx(differences.mean())
    assert one.p_value() == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert sum(one.outcomes()) == pytest.approx(group.n)
    turned = versus(rows["AT"], rows["AT-AWP"])
    assert turned.difference().estimate == pytest.approx(-differences.mean())
    answers = contrasts.answers(group)
    assert one.answer(answers) is turned.answer(answers) is not None
    assert one.difference() == answers[0].method.differences[WORST_CASE]


def test_methods_without_common_seeds_are_refused_with_the_reason(
    rows: dict[str, MethodRow],
) -> None:
    with pytest.raises(InvalidInput, match="the seeds 0, 1, 2, 3 and stranger has one network"):
        versus(rows["AT"], rows["stranger"])


def test_telling_images_are_those_of_the_bits(group: Group, rows: dict[str, MethodRow]) -> None:
    first, second = (network(group, row) for row in group.rows[:2])
    a, b = (row.standing[WORST_CASE] for row in group.rows[:2])
    mine, other = versus(first, second).telling()
    assert [each.place for each in mine] == np.flatnonzero(a & ~b).tolist()
    assert [each.place for each in other] == np.flatnonzero(~a & b).tolist()
    one = versus(rows["AT-AWP"], rows["AT"])
    treated, control = (bits.sum(axis=0) for bits in one.bits(WORST_CASE))
    more, fewer = one.telling()
    assert {each.place for each in more} == set(np.flatnonzero(treated - control >= 2))
    assert {each.place for each in fewer} == set(np.flatnonzero(control - treated >= 2))
    leads = [each.standing - each.others for each in more]
    assert leads == sorted(leads, reverse=True)
    assert all(treated[each.place] == each.standing for each in more)


def test_holm_runs_over_all_pairs_that_are_shown(group: Group) -> None:
    sides = [network(group, row) for row in group.rows]
    found = [versus(sides[0], other) for other in sides[1:]]
    order = sorted(found, key=lambda one: one.p_value())
    apart = dict(zip(map(id, found), separated(found), strict=True))
    expected, still = {}, True
    for place, one in enumerate(order):
        still = still and one.p_value() <= 0.05 / (len(order) - place)
        expected[id(one)] = still
    assert apart == expected and len(set(apart.values())) == 2
    assert separated([]) == []


def test_a_twin_is_found_among_methods_and_among_networks(
    group: Group, rows: dict[str, MethodRow]
) -> None:
    listed = list(rows.values())
    names = [(listed[a].name, listed[b].name) for a, b in twins(listed)]
    assert names == [("AT", "AT-AWP")]
    pairs = {id(pair.awp): pair for pair in contrasts.pairs(group)}
    sides = [network(group, row, pairs.get(id(row))) for row in group.rows]
    assert {(sides[a].name, sides[b].name) for a, b in twins(sides)} == {
        (f"digits-at-seed{k}-last", f"digits-at-awp-seed{k}-last") for k in range(4)
    }
