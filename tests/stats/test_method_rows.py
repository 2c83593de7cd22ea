"""One row a method: which runs it gathers, what its rate is, and what the tests leave open."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench import table
from bench.schema import AwpConfig, EvaluationRecord, Flag
from bench.stats import contrasts
from bench.stats.intervals import mcnemar_exact, wilson
from bench.stats.method_rows import BADGES, MethodTable, method_table, short_names
from bench.table import WORST_CASE, Group
from tests.board.board_records import (
    HOSTILE,
    Ranker,
    make_card,
    make_record,
    matched_pair,
    named,
    ranker,
    sha,
    with_controls,
)


def methods_of(group: Group) -> MethodTable:
    pairs = contrasts.pairs(group)
    return method_table(group, contrasts.answers(group, pairs), pairs)


def alone(name: str, robust: float, **fields: Any) -> EvaluationRecord:
    """A network of somebody else: no training settings."""
    return make_record(make_card(name, train=None, seed=None), robust=robust, **fields)


def test_a_method_is_its_seeds_and_the_last_epoch_stands_beside_the_best(ranked: Ranker) -> None:
    runs = [
        record
        for seed in range(3)
        for kept, gain in (("best", 0.04 + 0.01 * seed), ("last", 0.01))
        for record in matched_pair(seed, kept, vanilla=0.5, gain=gain)
    ]
    found = methods_of(ranked(*runs).groups[0])
    assert [row.name for row in found.rows] == ["AT-AWP", "AT"]
    awp, vanilla = found.rows
    assert [row.card.seed for row in awp.rows] == [0, 1, 2]
    assert {row.card.selected_on for row in awp.rows} == {"validation"}
    assert {row.card.selected_on for row in awp.others} == {"last"} and len(awp.others) == 3
    rates = [row.rates[WORST_CASE].estimate for row in awp.rows]
    rate = awp.rate()
    low, high = stats.t.interval(0.95, 2, np.mean(rates), stats.sem(rates))
    assert (rate.low, rate.estimate, rate.high) == pytest.approx((low, np.mean(rates), high))
    answer = next(a for a in contrasts.answers(found.group) if a.method.pairs[0].awp is awp.rows[0])
    assert awp.difference == answer.method.differences[WORST_CASE]
    assert vanilla.difference is None
    assert awp.badges == ("reproduced",)


def test_methods_are_compared_by_seed(ranked: Ranker) -> None:
    noisy = (0.00, 0.06, 0.02, 0.10, 0.04, 0.08)  # of the seeds, which pairing takes out
    gains = (0.020, 0.025, 0.030, 0.020, 0.025, 0.030)
    runs = [
        record
        for seed, (base, gain) in enumerate(zip(noisy, gains, strict=True))
        for record in matched_pair(seed, vanilla=0.5 + base, gain=gain)
    ]
    found = methods_of(ranked(*runs).groups[0])
    assert [(row.name, row.range_text) for row in found.rows] == [("AT-AWP", "1"), ("AT", "2")]
    unpaired = stats.ttest_ind(*(row.each() for row in found.rows), equal_var=False)
    assert unpaired.pvalue > 0.05


def test_without_common_seeds_it_is_welchs_test(ranked: Ranker) -> None:
    a = [matched_pair(seed, vanilla=0.5 + 0.01 * seed)[0] for seed in range(3)]
    b = [
        matched_pair(seed, vanilla=0.6 + 0.01 * (seed - 5), n_train=100)[0] for seed in range(5, 8)
    ]
    found = methods_of(ranked(*a, *b).groups[0])
    p = stats.ttest_ind(*(row.each() for row in found.rows), equal_var=False).pvalue
    assert [row.name for row in found.rows] == ["AT, 100 images", "AT, 200 images"]
    assert p < 0.05 and found.rows[0].range_text == "1"


def test_networks_alone_rank_as_the_whole_table_does(ranked: Ranker) -> None:
    group = ranked(*(alone(f"net-{k}", 0.4 + 0.04 * k, n=500) for k in range(5))).groups[0]
    found = methods_of(group)
    assert [row.name for row in found.rows] == [row.card.name for row in group.rows]
    assert [row.rank_range for row in found.rows] == [row.rank_range for row in group.rows]
    assert found.ranks == group.ranks
    first = found.rows[0]
    assert first.alone and first.rate() == wilson(group.rows[0].record.worst_case_count, 500)
    assert "external" in first.badges


@pytest.mark.parametrize("rate", [0.3, 0.52, 0.75])
def test_a_network_alone_is_compared_with_every_seed_of_a_method(
    ranked: Ranker, rate: float
) -> None:
    seeds = [matched_pair(seed, vanilla=0.48 + 0.03 * seed, n=500)[0] for seed in range(3)]
    group = ranked(*seeds, alone("net", rate, n=500)).groups[0]
    found = methods_of(group)
    net = next(row for row in found.rows if row.alone)
    method = next(row for row in found.rows if not row.alone)
    stand = net.rows[0].standing[WORST_CASE]
    tests = []
    for row in method.rows:
        other = row.standing[WORST_CASE]
        only_net, only_other = int((stand & ~other).sum()), int((other & ~stand).sum())
        tests.append((np.sign(only_net - only_other), mcnemar_exact(only_net, only_other)))
    apart = len({way for way, _ in tests}) == 1 and max(p for _, p in tests) < 0.05
    assert apart == (rate != 0.52)
    assert (net.range_text in ("1", "2")) == apart


def test_a_flag_on_one_seed_keeps_its_method_without_a_rank(ranked: Ranker) -> None:
    (vanilla, awp), others = matched_pair(0), [matched_pair(seed) for seed in (1, 2)]
    flag = Flag(name="zero-gradients", message="None.", values={"share": 0.9})
    flagged = make_record(awp.card, robust=0.9, flags=(flag,))
    found = methods_of(ranked(vanilla, flagged, *itertools.chain(*others)).groups[0])
    assert [row.name for row in found.rows] == ["AT", "AT-AWP"]
    assert found.rows[0].rank == 1 and found.rows[1].rank is None
    assert found.rows[1].unranked == "unranked: zero-gradients (1 of 3 seeds)"
    assert found.ranks is None


def test_strangers_stand_alone_where_others_are_known(ranked: Ranker, tmp_path: Path) -> None:
    known = [matched_pair(seed)[0] for seed in range(3)]
    ranked(*known)
    group = ranked(matched_pair(3)[0], proven=False).groups[0]
    found = methods_of(group)
    assert sorted(row.seeds for row in found.rows) == [1, 3]
    assert {row.badges[0] for row in found.rows} == {"reproduced", "unverified"}
    assert len({row.name for row in found.rows}) == 2


def test_controls_are_named_by_what_they_are(ranked: Ranker) -> None:
    runs = [r for seed in range(2) for r in with_controls(seed, ("equal-compute", "best-vanilla"))]
    found = methods_of(ranked(*runs).groups[0])
    assert {row.name for row in found.rows} == {"AT", "AT-AWP", "AT, equal compute", "AT, tuned"}


def test_the_order_of_the_records_changes_nothing(tmp_path: Path) -> None:
    runs = [*matched_pair(0), *matched_pair(1), alone("net", 0.53), named("other", 0.4)]
    told = []
    for place, order in enumerate((runs, runs[::-1])):
        board = ranker(tmp_path / str(place))(*order)
        rows = methods_of(board.groups[0]).rows
        told.append([(r.name, r.rank, r.rank_range, r.rate(), r.seeds, r.badges) for r in rows])
    assert told[0] == told[1]


def test_the_real_results_have_a_row_a_method_and_every_run_is_in_one() -> None:
    board = table.build(Path("results"))
    for group in board.groups:
        found = methods_of(group)
        assert len({row.name for row in found.rows}) == len(found.rows)
        runs = [run for row in found.rows for run in (*row.rows, *row.others)]
        assert len(runs) == len(set(runs)) == len(group.rows)
        assert all(set(row.badges) <= set(BADGES) and len(row.name) < 60 for row in found.rows)


def test_names_stay_apart_whatever_a_card_says() -> None:
    awp = AwpConfig(gamma=0.02)
    cards = [
        make_card("a"),
        make_card("b", arch=HOSTILE),
        make_card("c", n_train=100),
        make_card("d", awp=awp),
        make_card("e", awp=awp.model_copy(update={"gamma": 0.05})),
        make_card("f", train=None),
        make_card("f", train=None, weights_sha256=sha("other")),
    ]
    names = short_names(cards)
    assert len(set(names)) == len(cards)
    assert names[3:5] == ["AT-AWP, 200 images, gamma 0.02", "AT-AWP, 200 images, gamma 0.05"]
    assert names[2] == "AT, 100 images" and all("\u202e" not in name for name in names)
    assert short_names(cards[:1]) == ["AT"]
    assert short_names([]) == []
