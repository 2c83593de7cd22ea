"""Images of another shape than the model's, and counts, at both entrances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench import AutoAttack, evaluate
from bench.schema import InvalidInput
from tests.measure.short_protocols import QUICK

X, Y = torch.rand(6, 1, 8, 8), torch.arange(6)


def network(channels: int = 1, size: int = 8) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * size * size, 10)).eval()


def by_evaluate(model, x, y):
    return evaluate(model, x, y, threat="linf:0.02", protocol=QUICK)


def by_autoattack(model, x, y):
    attack = AutoAttack(
        model, eps=0.02, version="custom", attacks_to_run=["apgd-ce"], verbose=False
    )
    attack.apgd.n_iter = 2
    attack.run_standard_evaluation(x, y, bs=4)
    return attack.record


ENTRANCES = pytest.mark.parametrize("entrance", [by_evaluate, by_autoattack])


@ENTRANCES
@pytest.mark.parametrize(
    ("channels", "size", "words"),
    [
        (3, 8, "images of (1, 8, 8)"),
        (1, 28, "it answers images (1, 28, 28)"),
        (3, 32, "it answers images (3, 32, 32)"),
    ],
)
def test_images_of_another_shape_than_the_models_are_named(entrance, channels, size, words):
    with pytest.raises(InvalidInput) as told:
        entrance(network(channels, size), X, Y)
    assert words in str(told.value)


@pytest.mark.parametrize("count", [0, -1, 2.5, "8", True, None])
def test_counts_are_whole_numbers(count):
    with pytest.raises(InvalidInput, match="must be an int of at least 1"):
        evaluate(network(), X, Y, threat="linf:0.1", protocol=QUICK, workers=count)
    if count is not None:
        with pytest.raises(InvalidInput, match="must be an int of at least 1"):
            AutoAttack(network()).run_standard_evaluation(X, Y, bs=count)
        with pytest.raises(InvalidInput, match="must be an int of at least 1"):
            evaluate(network(), X, Y, threat="linf:0.1", protocol=QUICK, batch=count)


def test_counts_may_be_of_numpy():
    model = network()
    record = evaluate(
        model, X, Y, threat="linf:0.02", protocol=QUICK, batch=np.int64(4), seed=np.int32(0)
    )
    assert record.environment["batch"] == "4"
