"""Averages of the weights: their closed forms, and that they are what is validated and kept."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from awp_train.batches import batches_of
from awp_train.step import averaged, averaged_from, build, decay_of, mix_in
from awp_train.validation import validate
from bench.datasets import training_split
from bench.sources import checkpoint
from tests.training.conftest import recorded
from tests.training.tiny_runs import TINY, bits, lines, settings, weights

State = dict[str, Tensor]


def replayed(seen: list[State], shares: list[float]) -> State:
    model, average = build(TINY), {}
    for values, share in zip(seen, shares, strict=True):
        model.load_state_dict(values)
        mix_in(average, model, share)
    return average


@pytest.mark.parametrize(
    ("shares", "kept"),
    [([0.2] * 6, [0.8**5] + [0.2 * 0.8 ** (5 - i) for i in range(1, 6)]),
     ([1 / (i + 1) for i in range(6)], [1 / 6] * 6)],
    ids=["exponential", "equal"],
)  # fmt: skip
def test_averages_are_their_closed_forms_and_copies(shares, kept):
    model = build(TINY)
    start = model.state_dict()
    seen = [
        {k: v + torch.randn_like(v) if v.is_floating_point() else v + i for k, v in start.items()}
        for i in range(6)
    ]
    before, expected = copy.deepcopy(seen), {}
    for name, last in seen[-1].items():  # counters as they were last
        total = sum(share * one[name].double() for share, one in zip(kept, seen, strict=True))
        expected[name] = total.float() if last.is_floating_point() else last
    average = replayed(seen, shares)
    torch.testing.assert_close(average, expected)
    assert averaged(model, {}, TINY, torch.rand(4, 1, 8, 8)) is model
    copied = averaged(model, average, TINY, torch.rand(4, 1, 8, 8)).state_dict()
    assert bits(copied) == bits(average)
    mix_in(average, model, 0.5)
    assert bits(copied) != bits(average)
    assert all(bits(a) == bits(b) for a, b in zip(seen, before, strict=True))


def test_statistics_of_an_equal_average_are_equal_means_over_batches():
    config = settings(averaging="swa", batch=20)
    images = torch.rand(61, 1, 8, 8)  # the last batch would hold one image
    model = build(config)
    found = averaged(model, copy.deepcopy(model.state_dict()), config, images)
    name, layer = next((n, m) for n, m in found.named_modules() if "BatchNorm" in str(type(m)))
    inputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda m, x: inputs.extend(x))
    with torch.no_grad():
        for part in batches_of(61, 20):
            model(images[part])
    handle.remove()
    assert len(inputs) == 3
    for statistic, of in ((layer.running_mean, torch.mean), (layer.running_var, torch.var)):
        expected = torch.stack([of(x, dim=(0, 2, 3)) for x in inputs]).mean(0)
        torch.testing.assert_close(statistic, expected)
    assert layer.momentum == 0.1


@pytest.mark.parametrize(
    ("epochs", "share", "first"), [(10, 0.5, 5), (10, 0.0, 0), (3, 0.99, 2), (100, 0.07, 7)]
)
def test_averaging_starts_after_its_fraction_and_before_the_end(epochs, share, first):
    assert averaged_from(settings(epochs=epochs, averaging_from=share)) == first


@pytest.mark.parametrize("horizon", [0.5, 2, 10])
def test_after_a_horizon_weights_count_1_e_however_many_batches_an_epoch_has(horizon):
    config = settings(averaging="ema", averaging_horizon=horizon)
    for batches in (1, 4, 79):
        assert decay_of(config, batches) ** (horizon * batches) == pytest.approx(math.exp(-1))
    assert decay_of(settings(averaging="ema", averaging_decay=0.7), 4) == 0.7


def test_a_horizon_is_left_out_of_configurations_that_have_none():
    """Their text, and so the hashes over it, is what it was."""
    assert "averaging_horizon" not in TINY.model_dump_json()
    config = settings(averaging="ema", averaging_horizon=2.5)
    assert type(config).model_validate_json(config.model_dump_json()) == config


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("averaging", ["ema", "swa", "horizon"])
def test_a_run_validates_and_keeps_the_average(averaging, whole, tmp_path):
    fields = {"averaging": averaging, "averaging_from": 0.4, "averaging_decay": 0.7}
    if averaging == "horizon":  # of 2 epochs of 3 batches
        fields = {"averaging": "ema", "averaging_from": 0.4, "averaging_horizon": 2}
    config = TINY.model_copy(update=fields)
    (best_folder, last), _, seen = recorded(config, tmp_path)
    # The weights themselves are trained as without an average.
    assert [bits(state) for state in seen] == [bits(state) for state in whole.states]

    assert len(seen) == 15  # 3 batches an epoch; averaged from the third epoch on
    if averaging != "swa":
        kept = math.exp(-1 / 6) if averaging == "horizon" else 0.7
        average = replayed(seen[6:], [1 - kept] * 9)
    else:
        average = replayed(seen[8::3], [1, 1 / 2, 1 / 3])
    images, validation = training_split(config)
    expected = averaged(build(config), average, config, images.images)
    assert bits(weights(last)) == bits(expected.state_dict())

    log, without = lines(last), lines(whole.folders[-1])
    assert log[:2] == without[:2]
    assert [line["loss"] for line in log] == [line["loss"] for line in without]
    measured = validate(expected, images, config, "train")
    measured |= validate(expected, validation, config, "validation")
    assert measured.items() <= log[-1].items()
    best, card = checkpoint.load(best_folder)
    kept = log[card.epoch_kept - 1]
    assert validate(best, validation, config, "validation").items() <= kept.items()
