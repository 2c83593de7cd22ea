"""The rule behind every verdict, one condition at a time; families; the same words everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.stats.intervals import Interval, seed_interval, seed_p_value
from bench.stats.verdicts import (
    INDICATION,
    NO_VERDICT,
    NOTHING,
    ONE_SEED,
    TOO_FEW,
    Effect,
    Verdict,
    judge,
)

CLEAR = (0.030, 0.028, 0.033, 0.029, 0.031, 0.030)
ABOVE, BELOW, OPEN = (0.01, 0.05), (-0.05, -0.01), (-0.01, 0.05)


def effect(each: tuple[float, ...], crossed: tuple[float, float] = ABOVE) -> Effect:
    return Effect(each, Interval(sum(each) / len(each), *crossed))


def alone(each: tuple[float, ...], crossed: tuple[float, float] = ABOVE) -> Verdict:
    return judge([effect(each, crossed)], "of this test")[0]


def mirrored(each: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(-value for value in each)


@pytest.mark.parametrize(
    ("each", "crossed", "standing", "sign"),
    [
        (CLEAR, ABOVE, "better", 1),
        (mirrored(CLEAR), BELOW, "worse", -1),
        (CLEAR, OPEN, NOTHING, 0),  # seeds x images holds zero
        (mirrored(CLEAR), (-0.05, 0.0), NOTHING, 0),  # an end at zero does not leave it out
        (CLEAR, (0.0, 0.05), NOTHING, 0),
        (CLEAR, BELOW, NOTHING, 0),  # the two contradict each other
        ((0.05, -0.04, 0.06, 0.05, -0.01, 0.02), ABOVE, NOTHING, 0),  # Student's t holds zero
        # Rounded to a tenth of a point both would read [+0.0, +2.0].
        ((0.0195, 0.0005, 0.0005, 0.0195, 0.0195, 0.0005), (1e-6, 0.02), NOTHING, 0),
        ((0.0195, 0.0045, 0.0045, 0.0195, 0.0195, 0.0005), (1e-6, 0.02), "better", 1),
        (CLEAR[:5], ABOVE, INDICATION["better"], 1),
        (CLEAR[:3], ABOVE, INDICATION["better"], 1),
        (mirrored(CLEAR[:3]), BELOW, INDICATION["worse"], -1),
        (CLEAR[:3], OPEN, NOTHING, 0),
        (CLEAR[:1], (-math.inf, math.inf), ONE_SEED, 0),
        ((0.1,) * 3, ABOVE, TOO_FEW, 0),  # whose mean rounds to something else
        ((0.03,) * 8, ABOVE, TOO_FEW, 0),
        ((-0.07,) * 6, BELOW, TOO_FEW, 0),
        ((0.0,) * 6, (0.0, 0.0), NOTHING, 0),
    ],
)
def test_each_condition_alone_keeps_a_headline_away(each, crossed, standing, sign):
    verdict = alone(each, crossed)
    assert verdict.standing == standing
    assert verdict.sign == sign
    assert verdict.headline == (standing in ("better", "worse"))
    assert verdict.words.startswith(standing)


def test_what_the_intervals_alone_would_let_expect_is_explained():
    assert "holds zero" in alone(CLEAR, OPEN).words
    assert "3 seeds; a headline needs 6" in alone(CLEAR[:3]).words
    tight = effect((0.02, 0.001, 0.015, 0.03, 0.002, 0.025))
    verdict, *_ = judge([tight, *[effect((0.01, -0.01))] * 9], "of this test")
    assert verdict.standing == NOTHING
    assert "not by Holm over the 10 contrasts of this test" in verdict.words
    assert alone(tight.each).standing == "better"


# ---------------------------------------------------------------- the test over seeds


def test_the_p_value_equals_scipy_and_agrees_with_the_interval():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 6, 12):
        for shift in (0.0, 0.01, 0.03):
            each = rng.normal(shift, 0.02, seeds)
            p = seed_p_value(each)
            assert p == pytest.approx(stats.ttest_1samp(each, 0).pvalue, rel=1e-9)
            interval = seed_interval(each)
            assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


@pytest.mark.parametrize("value", [0.1, 0.03, 1 / 3, -0.7])
def test_equal_differences_have_an_interval_of_no_width_and_no_test(value):
    for seeds in (2, 3, 6, 7):
        found = seed_interval([value] * seeds)
        assert found.low == found.estimate == found.high == value
        assert seed_p_value([value] * seeds) == 1.0
    assert seed_p_value([value]) == 1.0


def test_an_effect_of_bits_is_the_mean_of_the_seeds_on_the_same_images():
    rng = np.random.default_rng(1)
    bits = rng.integers(-1, 2, (4, 50))
    found = Effect.of_bits(bits)
    assert found.each == pytest.approx(bits.mean(axis=1))
    assert found.over_seeds == seed_interval(found.each)
    assert found.crossed.low < bits.mean() < found.crossed.high
    assert found.p_value == pytest.approx(stats.ttest_1samp(bits.mean(axis=1), 0).pvalue)


# ---------------------------------------------------------------- families

EACH = st.lists(st.integers(-40, 60).map(lambda count: count / 1000), min_size=1, max_size=8)
FAMILY = st.lists(EACH.map(tuple), min_size=1, max_size=8)


def effects(family: list[tuple[float, ...]]) -> list[Effect]:
    """Each with a second interval that leaves zero out whenever its mean does."""
    ends = [
        (m / 2, 3 * m / 2) if (m := sum(e) / len(e)) > 0 else (3 * m / 2, m / 2) for e in family
    ]
    return [effect(each, crossed) for each, crossed in zip(family, ends, strict=True)]


@settings(max_examples=30)
@given(FAMILY, st.randoms(use_true_random=False))
def test_the_order_of_a_family_changes_no_verdict(family, random):
    found = dict(zip(range(len(family)), judge(effects(family), "of this test"), strict=True))
    order = list(range(len(family)))
    random.shuffle(order)
    again = judge([effects(family)[place] for place in order], "of this test")
    assert dict(zip(order, again, strict=True)) == found


@settings(max_examples=30)
@given(FAMILY, EACH.map(tuple))
def test_a_larger_family_never_turns_nothing_into_a_headline(family, one_more):
    few = judge(effects(family), "of this test")
    many = judge(effects([*family, one_more]), "of this test")
    own = [judge([one], "of this test")[0] for one in effects(family)]
    for small, large, single in zip(few, many, own, strict=False):
        # Holm's rejections may grow only by a small p of the newcomer; never beyond the test alone.
        assert single.rejected or not (small.rejected or large.rejected)
    declared = judge(effects(family), "of this test", declared=len(family) + 3)
    for small, large in zip(few, declared, strict=True):
        assert small.rejected or not large.rejected


@settings(max_examples=30)
@given(FAMILY)
def test_a_smaller_p_is_rejected_wherever_a_larger_one_is(family):
    found = judge(effects(family), "of this test")
    rejected = [v.effect.p_value for v in found if v.rejected]
    kept = [v.effect.p_value for v in found if not v.rejected and v.effect.seeds > 1]
    assert not rejected or not kept or max(rejected) < min(kept)


def test_one_seed_is_no_member_of_a_family_that_was_not_declared():
    found = judge([effect(CLEAR), effect((0.02,))], "of this test")
    assert [v.family for v in found] == ["the 1 contrast of this test"] * 2
    declared = judge([effect(CLEAR), effect((0.02,))], "of X", declared=4, kind="primary contrast")
    assert declared[0].family == "the 4 primary contrasts of X"
    assert [v.standing for v in declared] == ["better", ONE_SEED]


def test_what_was_declared_counts_before_it_is_measured():
    """p = 0.023 alone passes; as the first of four declared it would have to be below 0.0125."""
    one = effect((0.03, 0.001, 0.02, 0.04, 0.005, 0.03))
    assert 0.0125 < one.p_value < 0.05
    assert judge([one], "of X", declared=1)[0].headline
    assert not judge([one], "of X", declared=4)[0].headline
    with pytest.raises(ValueError, match="at most the 1"):
        judge([one, one], "of X", declared=1)


def test_what_may_have_no_verdict_is_not_tested_and_still_counts():
    """CLEAR is rejected at any size; p = 0.022 among 2 would have to be below 0.025, among 3 not."""
    border = (0.030, 0.001, 0.020, 0.040, 0.005, 0.031)
    assert 0.05 / 3 < seed_p_value(border) < 0.05 / 2
    effects = [effect(CLEAR), effect(border), effect(CLEAR)]
    clear, judged, none = judge(
        effects, "of this", declared=3, why_none=["", "", "nothing overfits"]
    )
    assert (clear.standing, judged.standing, none.standing) == ("better", "better", NO_VERDICT)
    assert none.words == "no verdict: nothing overfits" and none.sign == 0 and not none.headline
    assert len({v.family for v in (clear, judged, none)}) == 1
    first, *_ = judge(effects[1:], "of this", declared=3, why_none=["", "nothing overfits"])
    assert first.standing == NOTHING
