"""Averages of the weights: their closed forms, and that they are what is validated and kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from awp_train import train as training
from awp_train.averaging import averaged, averaged_from, mix_in
from awp_train.batches import batches_of
from awp_train.step import build
from awp_train.validation import validate
from bench.datasets import training_split
from bench.schema import TrainConfig
from bench.sources import checkpoint
from tests.training.tiny_runs import TINY, lines, quiet, weights


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def wandering(steps: int) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A network, and its weights and buffers as they are changed at random."""
    model, seen = build(TINY), []
    for _ in range(steps):
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn_like(value))
                else:
                    value.add_(1)
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
    return model, seen


def means(seen: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    """Sums of what was seen, weighted; counters as they were last."""
    return {
        k: sum(share * one[k].double() for share, one in zip(shares, seen, strict=True)).float()
        if last.is_floating_point()
        else last
        for k, last in seen[-1].items()
    }


def replayed(seen: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    model, average = build(TINY), {}
    for values, share in zip(seen, shares, strict=True):
        model.load_state_dict(values)
        mix_in(average, model, share)
    return average


def test_an_exponential_average_forgets_at_its_decay():
    _, seen = wandering(6)
    average = replayed(seen, [0.2] * 6)
    expected = means(seen, [0.8**5] + [0.2 * 0.8 ** (5 - i) for i in range(1, 6)])
    torch.testing.assert_close(average, expected)


def test_an_equal_average_is_the_mean():
    _, seen = wandering(5)
    average = replayed(seen, [1 / (i + 1) for i in range(5)])
    torch.testing.assert_close(average, means(seen, [1 / 5] * 5))


def test_the_average_is_a_copy():
    model, _ = wandering(1)
    before, average = copy.deepcopy(model.state_dict()), {}
    mix_in(average, model, 0.5)
    kept = averaged(model, average, TINY, torch.rand(4, 1, 8, 8))
    mix_in(average, wandering(2)[0], 0.5)
    assert kept is not model
    for states in (kept.state_dict(), model.state_dict()):
        assert all(torch.equal(v, before[k]) for k, v in states.items())
    assert averaged(model, {}, TINY, torch.rand(4, 1, 8, 8)) is model


def test_statistics_are_equal_means_over_batches():
    images = torch.rand(61, 3, 4, 4)  # the last batch would hold one image
    layer = nn.BatchNorm2d(3)
    model = nn.Sequential(layer, nn.Flatten())
    layer.running_mean.fill_(9.0)
    measure_statistics(model, images, batch=20)
    parts = [images[part] for part in batches_of(61, 20)]
    assert len(parts) == 3
    expected = torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0)
    torch.testing.assert_close(layer.running_mean, expected)
    expected = torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0)
    torch.testing.assert_close(layer.running_var, expected)
    assert layer.momentum == 0.1


@pytest.mark.parametrize(
    ("epochs", "share", "first"), [(10, 0.5, 5), (10, 0.0, 0), (3, 0.99, 2), (100, 0.07, 7)]
)
def test_averaging_starts_after_its_fraction_and_before_the_end(epochs, share, first):
    config = TINY.model_copy(update={"epochs": epochs, "averaging_from": share})
    assert averaged_from(config) == first


# ---------------------------------------------------------------- in a run


def trajectory(config: TrainConfig, folder, monkeypatch) -> list[dict[str, Tensor]]:
    """Weights and buffers after every step of a run."""
    seen, step = [], training.step

    def spy(model, *args, **kwargs):
        done = step(model, *args, **kwargs)
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return done

    with monkeypatch.context() as patch:
        patch.setattr(training, "step", spy)
        quiet(config, folder)
    return seen


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_a_run_validates_and_keeps_the_average(averaging, tmp_path, monkeypatch):
    fields = {
        "averaging": averaging,
        "averaging_from": 0.4,
        "averaging_decay": 0.7,
        "augment": "none",
    }
    config = TINY.model_copy(update=fields)
    seen = trajectory(config, tmp_path, monkeypatch)
    plain = trajectory(TINY.model_copy(update={"augment": "none"}), tmp_path / "plain", monkeypatch)
    # The weights themselves are trained as without an average.
    assert all(torch.equal(a[k], b[k]) for a, b in zip(seen, plain, strict=True) for k in a)

    assert len(seen) == 15  # 3 batches an epoch; averaged from the third epoch on
    if averaging == "ema":
        average = replayed(seen[6:], [1 - 0.7] * 9)
    else:
        average = replayed(seen[8::3], [1, 1 / 2, 1 / 3])
    training_images, validation_images = training_split(config)
    expected = averaged(build(config), average, config, training_images.images)
    last = tmp_path / "out" / "run-last"
    torch.testing.assert_close(weights(last), expected.state_dict(), rtol=0, atol=0)

    logs = lines(last), lines(tmp_path / "plain" / "out" / "run-last")
    assert logs[0][:2] == logs[1][:2]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]
    measured = validate(expected, training_images, config, "train")
    measured |= validate(expected, validation_images, config, "validation")
    assert measured.items() <= logs[0][-1].items()
    best = checkpoint.load(tmp_path / "out" / "run-best")
    kept = logs[0][best[1].epoch_kept - 1]
    assert validate(best[0], validation_images, config, "validation").items() <= kept.items()
