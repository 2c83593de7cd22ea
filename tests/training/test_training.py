"""Training: twins, logging, selection, failures, and what the checkpoints hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awp_train import train as training
from awp_train.presets import pair_of
from awp_train.run_files import TrainingFailed
from awp_train.step import Stepped, build, piecewise
from awp_train.validation import validate
from bench.datasets import training_split
from bench.gap import read_gap
from bench.schema import AwpConfig, InvalidInput
from bench.sources import checkpoint
from tests.training.conftest import recorded
from tests.training.tiny_runs import TINY, bits, lines, quiet


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the same bits only there


# ---------------------------------------------------------------- what a run leaves


def test_checkpoints_hold_the_best_and_the_last_epoch(whole):
    best, last = whole.folders
    assert [p.name for p in whole.folders] == ["run-best", "run-last"]
    log = lines(last)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4, 5]
    for line in log:
        assert (line["train_n"], line["validation_n"]) == (61, 40)
        for part in ("train", "validation"):
            counts = [line[f"{part}_{kind}"] for kind in ("robust_correct", "clean_correct", "n")]
            assert 0 <= counts[0] <= counts[1] <= counts[2]
    scores = [line["validation_robust_correct"] for line in log]
    kept = {"validation": (best, scores.index(max(scores)) + 1), "last": (last, 5)}
    for selected_on, (folder, epoch) in kept.items():
        model, card = checkpoint.load(folder)
        assert (card.train, card.epoch_kept, card.selected_on) == (TINY, epoch, selected_on)
        assert card.pair == folder.name.replace("run", "twin")
        assert read_gap(folder, weights_sha256=card.weights_sha256) is not None
        # What the log says of that epoch is true of these weights.
        for part, images in zip(("train", "validation"), training_split(TINY), strict=True):
            assert validate(model, images, TINY, part).items() <= log[epoch - 1].items()


def test_validation_is_in_eval_mode_and_changes_nothing():
    model, (images, _) = build(TINY), training_split(TINY)
    for _ in range(20):
        model(images.x)
    before = bits(model.state_dict())
    counts = validate(model.train(), images, TINY, "train")
    assert bits(model.state_dict()) == before
    right = (model.eval()(images.x).argmax(1) == images.labels).sum()
    assert counts["train_clean_correct"] == int(right)
    few = validate(model, images, TINY.model_copy(update={"log_images": 7}), "train")
    assert few["train_n"] == 7


def test_a_finished_run_is_skipped(whole, monkeypatch):
    monkeypatch.setattr(training, "step", None)  # training would raise
    folder = whole.folders[0].parents[1]
    assert quiet(TINY, folder) == whole.folders
    with pytest.raises(InvalidInput, match="epochs 5 -> 6.*--name"):
        quiet(TINY.model_copy(update={"epochs": 6}), folder)


def test_without_validation_images_there_is_only_the_last_epoch(tmp_path):
    (last,) = quiet(TINY.model_copy(update={"n_validation": 0, "epochs": 2}), tmp_path)
    assert last.name == "run-last"
    assert lines(last)[-1]["validation_n"] == 0


def test_natural_training_is_selected_on_clean_accuracy(tmp_path):
    config = pair_of(TINY).model_copy(update={"objective": "natural", "log_every": 2})
    best, last = quiet(config, tmp_path)
    candidates = [line for line in lines(last) if line["epoch"] in (2, 4, 5)]
    card = checkpoint.read_card(best)
    # The earliest of equals.
    chosen = max(candidates, key=lambda line: line["validation_clean_correct"])
    assert card.epoch_kept == chosen["epoch"]
    assert card.threat is None
    assert card.method == "natural"


# ---------------------------------------------------------------- twins


def test_twins_share_initial_weights_data_order_and_random_starts(whole, tmp_path):
    twin = pair_of(TINY)
    other_seed = twin.model_copy(update={"seed": 1, "epochs": 1})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    start, same, other = (bits(build(c).state_dict()) for c in (TINY, twin, other_seed))
    assert start == same != other
    assert torch.equal(before, torch.get_rng_state())
    folders, seen, _ = recorded(twin, tmp_path / "at")
    assert len(seen) == len(whole.crafted)
    assert all(map(torch.equal, seen, whole.crafted))
    assert not torch.equal(seen[0], recorded(other_seed, tmp_path / "seed").crafted[0])
    logs = lines(whole.folders[-1]), lines(folders[-1])
    assert logs[0][0] == logs[1][0]  # the warm-up epoch
    assert logs[0][1] != logs[1][1]


def test_every_epoch_is_another_order_of_all_training_images(tmp_path, monkeypatch):
    config = TINY.model_copy(update={"n_train": 60, "epochs": 3, "augment": "none"})
    seen: dict[int, list[Tensor]] = {}
    rates: dict[int, float] = {}

    def idle(model, optimiser, config, x, y, *, epoch: int, **more) -> Stepped:
        seen.setdefault(epoch, []).append(x)
        rates[epoch] = optimiser.param_groups[0]["lr"]
        return Stepped(torch.tensor(1.0), x, y, x)

    monkeypatch.setattr(training, "step", idle)
    quiet(config, tmp_path)
    images = training_split(config)[0].x.flatten(1)
    chosen = [torch.cat(seen[epoch]).flatten(1) for epoch in range(3)]
    orders = [(x[:, None] == images[None]).all(2).int().argmax(1).tolist() for x in chosen]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != list(range(60))
    assert rates == {epoch: piecewise(config, epoch) for epoch in range(3)}
    assert rates[2] < rates[0]


# ---------------------------------------------------------------- failures


def test_a_collapse_is_reported_and_gives_no_checkpoint(tmp_path):
    fields = {
        "awp": AwpConfig(gamma=1.0),
        "epochs": 40,
        "log_every": 40,
        "n_train": 200,
        "attack_steps": 1,
    }
    config = TINY.model_copy(update=fields)
    with pytest.raises(TrainingFailed, match=r"collapsed.*longer warm-up.*smaller gamma"):
        quiet(config, tmp_path)
    assert not [*(tmp_path / "out").glob("*")]
    last = lines(tmp_path / "runs" / "run")[-1]
    assert last["collapsed"] and last["epoch"] < 40
    with pytest.raises(TrainingFailed, match="delete"):  # at once, without training again
        quiet(config, tmp_path)


@pytest.mark.parametrize("awp", [None, AwpConfig(gamma=0.01)], ids=["at", "at-awp"])
def test_a_loss_that_is_not_finite_stops_the_run(awp, tmp_path):
    with pytest.raises(TrainingFailed, match="not finite.*smaller lr"):
        quiet(TINY.model_copy(update={"lr": 1e25, "awp": awp}), tmp_path)
    assert not [*(tmp_path / "out").glob("*")]
