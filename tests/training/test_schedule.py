"""Learning rates over a run."""

from __future__ import annotations

import pytest

from awp_train.step import SCHEDULES, learning_rate
from bench.schema import TrainConfig
from tests.training.tiny_runs import settings


def rates(config: TrainConfig, batches: int) -> list[float]:
    return [
        learning_rate(config, epoch, batch, batches)
        for epoch in range(config.epochs)
        for batch in range(batches)
    ]


def test_the_rate_falls_at_the_milestones():
    config = settings(epochs=100, milestones=(0.07, 0.75))
    assert rates(config, 3) == [0.1] * 21 + [0.01] * 204 + [0.001] * 75


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_rate_lies_between_none_and_the_largest(schedule):
    config = settings(epochs=10, schedule=schedule, lr=0.3)
    coarse, fine = rates(config, 32), rates(config, 64)
    assert all(0 < rate <= 0.3 for rate in coarse)
    assert max(fine) == pytest.approx(0.3, rel=1e-2)
    # The rates of finer steps average to the same: a step has the rate of its middle.
    assert sum(fine) / len(fine) == pytest.approx(sum(coarse) / len(coarse), rel=1e-3)


def test_schedules_are_their_formulas():
    config = settings(epochs=10, lr=1.0)
    at = {name: [f(config, t) for t in (0, 2, 4, 5, 7, 10)] for name, f in SCHEDULES.items()}
    assert at["linear"] == pytest.approx([1, 0.8, 0.6, 0.5, 0.3, 0])
    assert at["cyclic"] == pytest.approx([0, 0.5, 1, 5 / 6, 0.5, 0])
    assert at["cosine"] == pytest.approx([1, 0.904508, 0.654508, 0.5, 0.206107, 0], abs=1e-6)
    assert at["piecewise"] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])
