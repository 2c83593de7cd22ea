"""The security curve is an upper bound, and never above the standing bits it comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.attacks import Problem, fmn, pgd
from bench.attacks.geometry import admissible, distance
from bench.judge import Judge
from bench.protocols import protocol
from bench.schema import InvalidInput, ThreatModel
from bench.schema.packing import pack_floats, unpack_floats
from bench.stats.curve import (
    largest_admissible,
    smallest_distances,
    standing_at,
)
from bench.streams import Streams

STANDARD = protocol("standard")
NORM = st.sampled_from(["linf", "l2", "l1"])


def test_smallest_of_several_sets():
    clean = np.array([True, True, True, False])
    none = np.full(4, np.inf)
    assert smallest_distances(clean).tolist() == [np.inf, np.inf, np.inf, 0]
    found = smallest_distances(clean, np.array([0.3, 0.1, np.inf, 0.2]), none, np.array([0.2] * 4))
    assert found.tolist() == [0.2, 0.1, 0.2, 0]


@pytest.mark.parametrize("wrong", [[0.1], [0.1, -0.1], [0.1, np.nan]])
def test_sets_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InvalidInput, match="distances"):
        smallest_distances(np.array([True, True]), np.array(wrong))


@pytest.mark.parametrize("wrong", [-0.1, np.inf, np.nan])
def test_radii_that_are_none_are_refused(wrong):
    with pytest.raises(InvalidInput, match="radii"):
        standing_at(np.zeros(1), [wrong], norm="l2", protocol=STANDARD)


@settings(max_examples=30)
@given(NORM, st.lists(st.floats(0, 3) | st.just(np.inf), min_size=1, max_size=20))
def test_curve_falls_with_the_radius_from_the_clean_images(norm, distances):
    grid = np.linspace(0, 3.1, 40)
    counts = standing_at(np.array(distances), grid, norm=norm, protocol=STANDARD)
    assert (np.diff(counts) <= 0).all()
    assert counts[0] == sum(np.float32(d) > 0 for d in distances)
    assert counts[-1] == sum(np.isinf(distances))


@settings(max_examples=30)
@given(NORM, st.integers(1, 255), st.floats(0, 1, exclude_min=True))
def test_what_the_judge_accepted_at_a_radius_does_not_stand_there(norm, numerator, share):
    """Up to the very edge of the tolerance, in float64 and as a record stores it."""
    eps = numerator / 256
    edge = largest_admissible(eps, norm=norm, protocol=STANDARD)
    accepted = np.array([edge, np.nextafter(edge, 0), edge * share])
    for distances in (accepted, unpack_floats(pack_floats(accepted), 3)):
        assert standing_at(distances, [eps], norm=norm, protocol=STANDARD).tolist() == [0]
    far = np.array([edge * (1 + 2e-7)])
    assert standing_at(far, [eps], norm=norm, protocol=STANDARD).tolist() == [1]


@settings(max_examples=30)
@given(NORM, st.integers(1, 250), st.integers(-40, 40))
def test_the_limit_is_that_of_the_judge(norm, numerator, steps):
    """One pixel moved from 0 by float32 numbers around eps + 1e-6, or eps * (1 + 1e-6)."""
    threat = ThreatModel.parse(f"{norm}:{numerator}/255")
    eps = threat.epsilon
    limit = eps + 1e-6 if norm == "linf" else eps * (1 + 1e-6)
    assert largest_admissible(eps, norm=norm, protocol=STANDARD) == limit
    pixel = torch.tensor(limit, dtype=torch.float32) * (1 + steps * 2.0**-23)
    x, x_adv = torch.zeros(1, 1, 1, 1), pixel.view(1, 1, 1, 1)
    assert bool(admissible(x, x_adv, threat, STANDARD)) == (float(pixel) <= limit)


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2"])
def test_curve_of_all_evidence_is_never_above_the_standing_bits(threat, net, labelled):
    """PGD's evidence and FMN's, judged by the network: the curve at eps is at most the bits'."""
    x, y = labelled
    parsed, judge = ThreatModel.parse(threat), Judge(net)
    standing = np.ones(len(x), dtype=bool)
    correct = ~judge(x, y).broken.numpy()
    sets = []
    for attack in (pgd, fmn):
        x_adv = attack(Problem(net, x, y, parsed, Streams.for_images(x, 0)), steps=20)
        broken = judge(x_adv, y).broken
        sets.append(torch.where(broken, distance(x, x_adv, parsed.norm), torch.inf).numpy())
        standing &= ~(broken & admissible(x, x_adv, parsed, STANDARD)).numpy()
    stored = unpack_floats(pack_floats(smallest_distances(correct, *sets)), len(x))
    (count,) = standing_at(stored, [parsed.epsilon], norm=parsed.norm, protocol=STANDARD)
    assert count == int((standing & correct).sum())
    (alone,) = standing_at(sets[1], [parsed.epsilon], norm=parsed.norm, protocol=STANDARD)
    assert count <= alone
