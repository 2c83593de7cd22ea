"""Learning rates over a run, and the seeds and batches of an epoch."""

from __future__ import annotations

import pytest
import torch

from awp_train.batches import batches_of, epoch_batches, generator, seed_of
from awp_train.schedule import SCHEDULES, learning_rate, piecewise
from bench.schema import TrainConfig
from tests.training.tiny_runs import TINY


def rates(config: TrainConfig, batches: int = 4) -> list[float]:
    return [
        learning_rate(config, epoch, batch, batches)
        for epoch in range(config.epochs)
        for batch in range(batches)
    ]


def test_the_rate_falls_at_the_milestones():
    config = TINY.model_copy(update={"epochs": 100, "milestones": (0.07, 0.75)})
    assert [piecewise(config, epoch) for epoch in range(100)] == [0.1] * 7 + [0.01] * 68 + [
        0.001
    ] * 25
    assert rates(config, 3) == [0.1] * 21 + [0.01] * 204 + [0.001] * 75


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_rate_lies_between_none_and_the_largest(schedule):
    config = TINY.model_copy(update={"epochs": 10, "schedule": schedule, "lr": 0.3})
    assert all(0 < rate <= 0.3 for rate in rates(config))
    assert max(rates(config, 100)) == pytest.approx(0.3, rel=1e-2)
    # The rates of finer steps average to the same: a step has the rate of its middle.
    fine, coarse = rates(config, 64), rates(config, 32)
    assert sum(fine) / len(fine) == pytest.approx(sum(coarse) / len(coarse), rel=1e-3)


def test_schedules_are_their_formulas():
    config = TINY.model_copy(update={"epochs": 10, "lr": 1.0})
    at = {name: [f(config, t) for t in (0, 2, 4, 5, 7, 10)] for name, f in SCHEDULES.items()}
    assert at["linear"] == pytest.approx([1, 0.8, 0.6, 0.5, 0.3, 0])
    assert at["cyclic"] == pytest.approx([0, 0.5, 1, 5 / 6, 0.5, 0])
    assert at["cosine"] == pytest.approx([1, 0.904508, 0.654508, 0.5, 0.206107, 0], abs=1e-6)
    assert at["piecewise"] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])


def test_a_last_batch_of_one_image_is_left_out():
    assert batches_of(41, 20) == [slice(0, 20), slice(20, 40)]
    assert batches_of(42, 20)[-1] == slice(40, 60)


def test_an_epoch_is_another_order_of_all_images():
    orders = [torch.cat(epoch_batches(TINY, 60, 0, epoch)).tolist() for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(60))


def test_seeds_differ_by_run_and_purpose():
    other = TINY.model_copy(update={"seed": 1})
    seeds = [
        seed_of(c, *path) for c in (TINY, other) for path in (("order", 0), ("order", 1), ("a", 0))
    ]
    assert len(set(seeds)) == 6
    drawn = [torch.rand(3, generator=generator(TINY, "order", 0)) for _ in range(2)]
    assert torch.equal(*drawn)
