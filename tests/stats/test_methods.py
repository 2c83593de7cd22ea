"""Pairs and methods: what AWP did, counted on the same images and averaged over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.board.awp import labels
from bench.exports import render
from bench.notation import points
from bench.records import store
from bench.records.card_text import awp_text
from bench.schema import AwpConfig, ExtraData, StartingPoint
from bench.stats.contrasts import Method, answers, methods, pairs
from bench.table import WORST_CASE, Leaderboard
from tests.board.board_records import (
    make_card,
    make_record,
    matched_pair,
    with_differences,
)


def test_a_pair_is_counted_on_the_same_images(ranked: Any) -> None:
    vanilla, awp = matched_pair(0, vanilla=0.5, gain=0.1)
    (pair,) = pairs(ranked(vanilla, awp).groups[0])
    a, b = awp.worst_case_standing, vanilla.worst_case_standing
    comparison = pair.comparisons[WORST_CASE]
    assert (comparison.only_a, comparison.only_b) == (int((a & ~b).sum()), int((~a & b).sum()))
    assert comparison.difference.estimate == pytest.approx(0.1)
    assert comparison.difference.low < 0.1 < comparison.difference.high
    assert set(pair.comparisons) == {"clean", WORST_CASE, *vanilla.columns}
    assert pair.matched


def method_of(board: Leaderboard) -> Method:
    (method,) = methods(board.groups[0])
    return method


def test_a_method_is_the_mean_of_its_seeds(ranked: Any) -> None:
    method = method_of(ranked(*with_differences(0.046, 0.042, 0.027, 0.019, 0.020)))
    difference = method.differences[WORST_CASE]
    assert points(difference.estimate) == "+3.1"
    assert (points(difference.low), points(difference.high)) == ("+1.5", "+4.6")
    assert method.differences["autoattack"] == difference
    assert difference.estimate == pytest.approx(np.mean([0.046, 0.042, 0.027, 0.019, 0.020]))
    (answer,) = answers(method.group)
    sentence = answer.sentence
    assert sentence.startswith(
        "AT-AWP minus AT (small_cnn, 200 training images, 100 epochs, gamma 0.02, "
        "warm-up 17 epochs, last"
    )
    assert "worst case of standard (FGSM, PGD-20, CW-inf, AutoAttack), n = 1,000" in sentence
    assert "5 seeds (fewer than 6)" in sentence
    drawn = method.bootstrap()
    assert difference.low < drawn.low < drawn.estimate < drawn.high < difference.high
    between = f"seeds x images drawn again [{points(drawn.low)}, {points(drawn.high)}]"
    said = "indication: better (5 seeds; a headline needs 6)"
    assert sentence.endswith(f"+3.1 points [+1.5, +4.6], {between}: {said}.")


@pytest.mark.parametrize(
    ("gains", "standing"),
    [
        ((-0.03, -0.02, -0.025, -0.03, -0.02, -0.02), "worse"),
        ((0.03,), "one seed shows nothing"),
    ],
)
def test_the_verdict_says_no_more_than_the_seeds_allow(
    ranked: Any, gains: tuple[float, ...], standing: str
) -> None:
    (answer,) = answers(ranked(*with_differences(*gains)).groups[0])
    assert answer.verdict.standing == standing
    assert answer.sentence.endswith(f": {answer.verdict.words}.")
    assert ("fewer than 6" in answer.sentence) == (len(gains) < 6)
    if len(gains) == 1:
        assert "no interval" in answer.sentence


@pytest.mark.parametrize(
    ("fields", "uses", "text"),
    [
        ({"awp": AwpConfig(gamma=0.01)}, True, "yes"),
        ({"awp": AwpConfig(gamma=0.01, direction="random")}, False, "random"),
        ({}, False, "no"),
        ({"objective": None}, None, "unknown"),
    ],
)
def test_a_random_direction_is_not_awp(fields: Any, uses: bool | None, text: str) -> None:
    card = make_card(**fields)
    assert card.uses_awp is uses
    assert awp_text(card) == text


def test_best_and_last_and_random_directions_are_methods_of_their_own(ranked: Any) -> None:
    records = [record for kept in ("best", "last") for record in matched_pair(0, kept)]
    random_awp = AwpConfig(direction="random", gamma=0.02, warm_up=17)
    control = make_card("rwp", awp=random_awp, pair="digits-at-seed0-last")
    board = ranked(*records, make_record(control, robust=0.5))
    found = methods(board.groups[0])
    kept = [method.settings.split("warm-up")[-1] for method in found]
    assert [method.name for method in found] == ["AT-AWP", "AT-AWP", "AT-RWP"]
    assert "validation" in kept[0]
    assert "robust overfitting" in kept[1]


def test_training_sets_of_other_sizes_are_methods_of_their_own(ranked: Any) -> None:
    sizes = (2000, 500)
    found = methods(ranked(*(r for n in sizes for r in matched_pair(0, n_train=n))).groups[0])
    said = [method.facts["images"] for method in found]
    assert said == ["500 training images", "2,000 training images"]
    assert labels(found) == [f"AT-AWP − AT, last ({text})" for text in said]
    (alone,) = methods(ranked(*matched_pair(1, n_train=100)).groups[0])[:1]
    assert labels([alone]) == ["AT-AWP − AT, last"]


@pytest.mark.parametrize(("own", "count"), [(True, 1), (False, 2)])
def test_files_made_by_runs_of_the_same_seed_are_one_method(
    ranked: Any, own: bool, count: int
) -> None:
    """A teacher of each seed is part of the method; two files of other origin are two methods."""
    records = []
    for seed in (0, 1):
        name = f"digits-natural-s{seed}-last-pseudo.npz" if own else f"part-{seed}.npz"
        extra = ExtraData(file=name, sha256=str(seed) * 64, n=397)
        start = StartingPoint(name=f"digits-0to4-at-s{seed}-last", weights_sha256=str(seed) * 64)
        for record in matched_pair(seed):
            train = record.card.train
            assert train is not None
            train = train.model_copy(update={"extra": extra, "start": start})
            records.append(make_record(record.card.model_copy(update={"train": train})))
    assert len(methods(ranked(*records).groups[0])) == count


def test_an_unmatched_pair_is_shown_with_its_reason_and_never_averaged(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    assert awp.card.train is not None
    longer = awp.card.train.model_copy(update={"epochs": 200, "lr": 0.2})
    changed = make_record(awp.card.model_copy(update={"train": longer}), robust=0.9)
    group = ranked(vanilla, changed).groups[0]
    (pair,) = pairs(group)
    assert pair.differs == ("epochs", "lr")
    assert not pair.matched
    assert methods(group) == ()
    assert "also differs in epochs, lr" in render.markdown(
        Leaderboard((group,), (), store.Collection())
    )


def test_best_is_never_averaged_with_last(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    best = make_record(awp.card.model_copy(update={"selected_on": "validation"}), robust=0.9)
    group = ranked(vanilla, best).groups[0]
    assert pairs(group)[0].differs == ("selected_on",)
    assert methods(group) == ()


def test_a_foreign_pair_without_settings_is_not_averaged(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    foreign = make_record(awp.card.model_copy(update={"train": None}), robust=0.9)
    group = ranked(vanilla, foreign).groups[0]
    assert pairs(group)[0].remark == "training settings not recorded"
    assert methods(group) == ()


def test_a_twin_in_another_group_is_no_twin(ranked: Any) -> None:
    vanilla, _ = matched_pair(0)
    _, awp = matched_pair(0, n=100)
    assert [pairs(group) for group in ranked(vanilla, awp).groups] == [(), ()]
