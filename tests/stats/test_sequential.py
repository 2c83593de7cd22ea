"""Looking after every image: the closed form, the rate of false stops, power, coverage at all looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from bench.stats.paired import confidence_sequence, first_look, log_e_value


def drawn(rng, images, only_a, only_b, runs=1):
    """Two (runs, images) bool of images on which only A, only B, or both stand."""
    u = rng.random((runs, images))
    return u >= only_b, (u < only_b) | (u >= only_b + only_a)


@pytest.mark.parametrize(("a", "b", "agree"), [(0, 0, 9), (1, 0, 0), (7, 3, 90), (300, 240, 5000)])
def test_against_no_difference_it_is_the_beta_binomial(a, b, agree):
    closed = (a + b) * math.log(2) + betaln(a + 0.5, b + 0.5) - betaln(0.5, 0.5)
    assert log_e_value(a, b, a + b + agree)[0] == pytest.approx(closed, abs=1e-9)


@given(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 12), st.integers(0, 12), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_no_bet_gains_on_average(difference, discordance, a, b, agree):
    """The mean of the next e-value is this one, whatever came before: a martingale, exactly."""
    width = abs(difference) + (1 - abs(difference)) * discordance  # chance that X is not 0
    chances = ((width + difference) / 2, (width - difference) / 2, 1 - width)
    n = a + b + agree
    now = log_e_value(a, b, n, difference=difference)[0]
    steps = ((a + 1, b), (a, b + 1), (a, b))
    after = [log_e_value(*counts, n + 1, difference=difference)[0] for counts in steps]
    mean = sum(p * math.exp(e - now) for p, e in zip(chances, after, strict=True))
    assert mean == pytest.approx(1, abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200))
@settings(max_examples=25, deadline=None)
def test_the_interval_turns_with_the_models_and_agrees_with_the_test(a, b, agree):
    n = a + b + agree + 1
    forth, back = confidence_sequence(a, b, n), confidence_sequence(b, a, n)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-8)
    assert -1 <= forth.low <= forth.estimate <= forth.high <= 1
    separated = log_e_value(a, b, n)[0] >= math.log(20)
    assert separated == (forth.low > -1e-9 and a > b or forth.high < 1e-9 and b > a)
    wider = confidence_sequence(a, b, n, level=0.01)
    assert wider.low <= forth.low and wider.high >= forth.high
    for end in (forth.low, forth.high):
        if abs(end) < 1:
            turn = [log_e_value(a, b, n, difference=end + step)[0] for step in (-1e-6, 1e-6)]
            assert min(turn) <= math.log(20) <= max(turn)


@pytest.mark.parametrize("discordance", [0.05, 0.2])
def test_equal_models_are_called_separated_at_most_as_often_as_said(discordance):
    """300 runs, a look after every one of 600 images."""
    rng = np.random.default_rng(0)
    a, b = drawn(rng, 600, discordance / 2, discordance / 2, runs=300)
    only_a, only_b = np.cumsum(a & ~b, axis=1), np.cumsum(~a & b, axis=1)
    codes, place = np.unique(only_a * 601 + only_b, return_inverse=True)
    log_e = log_e_value(codes // 601, codes % 601, 601)[place.reshape(a.shape)]
    wrong = (log_e >= math.log(20)).any(axis=1).mean()
    assert wrong <= 0.05
    naive = np.abs(only_a - only_b) > 1.96 * np.sqrt(np.maximum(only_a + only_b, 1))
    assert naive[:, 50:].any(axis=1).mean() > 0.15  # why a usual test must not be looked at


def test_a_look_by_hand():
    a = np.array([1, 1, 0] + [1] * 9, dtype=bool)
    b = np.array([1, 0, 0] + [0] * 9, dtype=bool)
    look = first_look(a, b)
    # m wins in m give C(2m, m) / 2^m: 14.4 for six, 26.8 for seven.
    assert math.comb(12, 6) / 2**6 < 20 < math.comb(14, 7) / 2**7
    assert look.separated
    assert (look.images, look.only_a, look.only_b) == (9, 7, 0)
    assert math.exp(look.log_e) == pytest.approx(math.comb(14, 7) / 2**7)
    assert look.difference.low > 0
    later = first_look(a, b, stop=False)
    assert (later.images, later.only_a) == (12, 10)
    strict = first_look(a, b, level=1e-6)
    assert not strict.separated
    assert strict.difference.low < 0 < strict.difference.high


@pytest.mark.parametrize(
    "call",
    [
        lambda: first_look(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)),
        lambda: first_look(np.ones(3, dtype=bool), np.ones(2, dtype=bool)),
        lambda: first_look(np.ones(3, dtype=bool), np.ones(3, dtype=bool), level=0),
        lambda: confidence_sequence(3, 3, 5),
    ],
)
def test_impossible_calls_are_refused(call):
    with pytest.raises(ValueError, match="expected|level"):
        call()
