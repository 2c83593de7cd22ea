"""Training: twins, logging, selection, failures, and what the checkpoints hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from awp_train import step as stepping
from awp_train import train as training
from awp_train.objectives import from_uniform_on_cross_entropy
from awp_train.presets import pair_of
from awp_train.run_files import TrainingFailed
from awp_train.schedule import piecewise
from awp_train.step import Stepped, build
from awp_train.train import train
from awp_train.validation import validate
from bench.datasets import training_split
from bench.schema import AwpConfig, InvalidInput, TrainConfig
from bench.sources import checkpoint
from tests.training.tiny_runs import TINY, lines, quiet


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the same bits only there


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Path]:
    """An uninterrupted run."""
    torch.set_num_threads(1)  # before the fixture of every test, which does the same
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return quiet(TINY, tmp_path_factory.mktemp("whole"))


# ---------------------------------------------------------------- what a run leaves


def test_checkpoints_hold_the_best_and_the_last_epoch(whole):
    best, last = whole
    assert [p.name for p in whole] == ["run-best", "run-last"]
    log = lines(last)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4, 5]
    scores = [line["validation_robust_correct"] for line in log]
    train_images, validation_images = training_split(TINY)
    for folder, kept in ((best, scores.index(max(scores)) + 1), (last, 5)):
        model, card = checkpoint.load(folder)
        assert card.epoch_kept == kept
        assert card.train == TINY
        assert card.selected_on == ("validation" if folder is best else "last")
        # What the log says of that epoch is true of these weights.
        measured = validate(model, train_images, TINY, "train")
        measured |= validate(model, validation_images, TINY, "validation")
        assert measured.items() <= log[kept - 1].items()


def test_validation_is_in_eval_mode_and_changes_nothing():
    model, (images, _) = build(TINY), training_split(TINY)
    for _ in range(20):
        model(images.x)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    counts = validate(model.train(), images, TINY, "train")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    right = (model.eval()(images.x).argmax(1) == images.labels).sum()
    assert counts["train_clean_correct"] == int(right)
    few = validate(model, images, TINY.model_copy(update={"log_images": 7}), "train")
    assert few["train_n"] == 7


def test_logged_counts_are_consistent(whole):
    for line in lines(whole[-1]):
        assert line["train_n"] == 61
        assert line["validation_n"] == 40
        for part in ("train", "validation"):
            assert 0 <= line[f"{part}_robust_correct"] <= line[f"{part}_clean_correct"]
            assert line[f"{part}_clean_correct"] <= line[f"{part}_n"]


def test_a_finished_run_is_skipped(whole, monkeypatch):
    monkeypatch.setattr(training, "step", None)  # training would raise
    assert quiet(TINY, whole[0].parents[1]) == whole
    with pytest.raises(InvalidInput, match="epochs 5 -> 6.*--name"):
        quiet(TINY.model_copy(update={"epochs": 6}), whole[0].parents[1])


def test_without_validation_images_there_is_only_the_last_epoch(tmp_path):
    config = TINY.model_copy(update={"n_validation": 0, "epochs": 2})
    (last,) = quiet(config, tmp_path)
    assert last.name == "run-last"
    assert lines(last)[-1]["validation_n"] == 0


def test_natural_training_is_selected_on_clean_accuracy(tmp_path):
    config = pair_of(TINY).model_copy(update={"objective": "natural", "log_every": 2})
    best, last = quiet(config, tmp_path)
    log = lines(last)
    candidates = [line for line in log if line["epoch"] in (2, 4, 5)]
    scores = [line["validation_clean_correct"] for line in candidates]
    card = checkpoint.read_card(best)
    assert card.epoch_kept == candidates[scores.index(max(scores))]["epoch"]
    assert card.threat is None
    assert card.method == "natural"


def test_cards_name_the_twin_of_the_same_kind(tmp_path):
    config = TINY.model_copy(update={"epochs": 2})
    folders = train(
        config, name="a", pair="b", out=tmp_path, runs=tmp_path / "runs", progress=False
    )
    assert [checkpoint.read_card(f).pair for f in folders] == ["b-best", "b-last"]


# ---------------------------------------------------------------- twins


def recorded(config: TrainConfig, folder: Path, monkeypatch) -> list[Tensor]:
    """The images of every batch as they reach the attack, and where the attack lands in epoch 1."""
    seen: list[Tensor] = []
    craft = from_uniform_on_cross_entropy

    def spy(model, x, y, threat, streams, steps, relative_step):
        x_adv = craft(model, x, y, threat, streams, steps, relative_step)
        seen.extend([x, y, streams.keys])
        if len(seen) <= 3 * 3:
            seen.append(x_adv)
        return x_adv

    spied = replace(stepping.OBJECTIVES["at"], craft=spy)
    monkeypatch.setitem(stepping.OBJECTIVES, "at", spied)
    quiet(config, folder)
    return seen


def test_twins_share_initial_weights_data_order_and_random_starts(tmp_path, monkeypatch):
    twin, other_seed = pair_of(TINY), TINY.model_copy(update={"seed": 1})
    start = build(TINY).state_dict()
    assert all(torch.equal(v, start[k]) for k, v in build(twin).state_dict().items())
    assert any(not torch.equal(v, start[k]) for k, v in build(other_seed).state_dict().items())
    one = recorded(TINY, tmp_path / "awp", monkeypatch)
    two = recorded(twin, tmp_path / "at", monkeypatch)
    assert len(one) == len(two)
    assert all(map(torch.equal, one, two))
    assert not torch.equal(one[0], recorded(other_seed, tmp_path / "seed", monkeypatch)[0])
    logs = [lines(tmp_path / kind / "out" / "run-last") for kind in ("awp", "at")]
    assert logs[0][0] == logs[1][0]  # the warm-up epoch
    assert logs[0][1] != logs[1][1]


def test_every_epoch_is_another_order_of_all_training_images(tmp_path, monkeypatch):
    config = TINY.model_copy(update={"n_train": 60, "epochs": 3, "augment": "none"})
    seen: dict[int, list[Tensor]] = {}
    rates: dict[int, float] = {}
    step = training.step

    def spy(model, optimiser, config, x, y, *, epoch: int, batch: int, **more) -> Stepped:
        seen.setdefault(epoch, []).append(x)
        rates[epoch] = optimiser.param_groups[0]["lr"]
        return step(model, optimiser, config, x, y, epoch=epoch, batch=batch, **more)

    monkeypatch.setattr(training, "step", spy)
    quiet(config, tmp_path)
    images = training_split(config)[0].x.flatten(1)
    orders = []
    for epoch in range(3):
        here = torch.cat(seen[epoch]).flatten(1)
        orders.append((here[:, None] == images[None]).all(2).int().argmax(1).tolist())
        assert sorted(orders[-1]) == list(range(60))
    assert orders[0] != orders[1] != orders[2] != list(range(60))
    assert rates == {epoch: piecewise(config, epoch) for epoch in range(3)}
    assert rates[2] < rates[0]


def test_initialisation_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(TINY)
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------- failures


def test_a_collapse_is_reported_and_gives_no_checkpoint(tmp_path):
    config = TINY.model_copy(
        update={"awp": AwpConfig(gamma=1.0), "epochs": 40, "log_every": 40, "n_train": 200}
    )
    with pytest.raises(TrainingFailed, match=r"collapsed.*longer warm-up.*smaller gamma"):
        quiet(config, tmp_path)
    assert not (tmp_path / "out").exists()
    last = lines(tmp_path / "runs" / "run")[-1]
    assert last["collapsed"]
    assert last["epoch"] < 40
    with pytest.raises(TrainingFailed, match="delete"):  # at once, without training again
        quiet(config, tmp_path)


@pytest.mark.parametrize("awp", [None, AwpConfig(gamma=0.01)], ids=["at", "at-awp"])
def test_a_loss_that_is_not_finite_stops_the_run(awp, tmp_path):
    config = TINY.model_copy(update={"lr": 1e25, "awp": awp})
    with pytest.raises(TrainingFailed, match="not finite.*smaller lr"):
        quiet(config, tmp_path)
    assert not (tmp_path / "out").exists()
