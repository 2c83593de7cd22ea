"""Averages of the weights: their closed forms, and that they are what is validated and kept."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from awp_train import train as training
from awp_train.batches import batches_of
from awp_train.step import averaged, averaged_from, build, mix_in
from awp_train.validation import validate
from bench.datasets import training_split
from bench.schema import TrainConfig
from bench.sources import checkpoint
from tests.training.tiny_runs import TINY, bits, lines, quiet, settings, weights

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


# ---------------------------------------------------------------- in a run


def trajectory(config: TrainConfig, folder: Path) -> tuple[Path, list[State]]:
    """A run, and weights and buffers after every step of it."""
    seen, step = [], training.step

    def spy(model, *args, **kwargs):
        done = step(model, *args, **kwargs)
        seen.append(copy.deepcopy(model.state_dict()))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step", spy)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        quiet(config, folder)
    return folder / "out", seen


UNCHANGED = TINY.model_copy(update={"augment": "none"})


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, list[State]]:
    torch.set_num_threads(1)  # before the fixture of every test, which does the same
    return trajectory(UNCHANGED, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_a_run_validates_and_keeps_the_average(averaging, plain, tmp_path):
    fields = {"averaging": averaging, "averaging_from": 0.4, "averaging_decay": 0.7}
    config = UNCHANGED.model_copy(update=fields)
    out, seen = trajectory(config, tmp_path)
    # The weights themselves are trained as without an average.
    assert [bits(state) for state in seen] == [bits(state) for state in plain[1]]

    assert len(seen) == 15  # 3 batches an epoch; averaged from the third epoch on
    if averaging == "ema":
        average = replayed(seen[6:], [1 - 0.7] * 9)
    else:
        average = replayed(seen[8::3], [1, 1 / 2, 1 / 3])
    images, validation = training_split(config)
    expected = averaged(build(config), average, config, images.images)
    assert bits(weights(out / "run-last")) == bits(expected.state_dict())

    log, without = lines(out / "run-last"), lines(plain[0] / "run-last")
    assert log[:2] == without[:2]
    assert [line["loss"] for line in log] == [line["loss"] for line in without]
    measured = validate(expected, images, config, "train")
    measured |= validate(expected, validation, config, "validation")
    assert measured.items() <= log[-1].items()
    best, card = checkpoint.load(out / "run-best")
    kept = log[card.epoch_kept - 1]
    assert validate(best, validation, config, "validation").items() <= kept.items()
