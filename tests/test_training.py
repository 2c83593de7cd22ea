"""Training: twins, interruption, failures, and what the checkpoints hold."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from awp_train import train as training
from awp_train import update
from awp_train.augment import PADDING, crop_flip
from awp_train.crafting import from_uniform_on_cross_entropy
from awp_train.failure import TrainingFailed
from awp_train.presets import pair_of
from awp_train.sampler import batches_of
from awp_train.schedule import piecewise
from awp_train.state import STATE
from awp_train.train import train
from awp_train.update import Stepped, build
from awp_train.validation import validate
from bench import checkpoint
from bench.datasets import training_split
from bench.schema import AwpConfig, InvalidInput, ThreatModel, TrainConfig
from bench.streams import Streams


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the same bits only there


TINY = TrainConfig(
    dataset="digits",
    n_train=61,  # the last image is a batch of its own, which is left out
    n_validation=40,
    arch_args={"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2},
    threat=ThreatModel.parse("linf:0.1"),
    attack_steps=2,
    log_attack_steps=2,
    epochs=5,
    batch=20,
    awp=AwpConfig(gamma=0.01, warm_up=1),
    augment="crop-flip",
)


def quiet(config: TrainConfig, folder: Path, name: str = "run") -> list[Path]:
    return train(config, name=name, out=folder / "out", runs=folder / "runs", progress=False)


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(folder)[0].state_dict()


def lines(folder: Path) -> list[dict]:
    """The curves without the times."""
    read = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read]


def equal_runs(one: list[Path], other: list[Path]) -> bool:
    return len(one) == len(other) and all(
        lines(a) == lines(b) and all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())
        for a, b in zip(one, other, strict=True)
    )


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

    spied = replace(update.OBJECTIVES["at"], craft=spy)
    monkeypatch.setitem(update.OBJECTIVES, "at", spied)
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

    def spy(model, optimiser, config, x, y, *, epoch: int, batch: int) -> Stepped:
        seen.setdefault(epoch, []).append(x)
        rates[epoch] = optimiser.param_groups[0]["lr"]
        return step(model, optimiser, config, x, y, epoch=epoch, batch=batch)

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


# ---------------------------------------------------------------- interruption


@pytest.mark.parametrize("at_batch", [(0, 1), (2, 0), (4, 2)], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(at_batch, whole, tmp_path, monkeypatch):
    step = training.step

    def interrupted(*args, epoch: int, batch: int) -> Stepped:
        if (epoch, batch) == at_batch:
            raise KeyboardInterrupt
        return step(*args, epoch=epoch, batch=batch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quiet(TINY, tmp_path)
    assert not (tmp_path / "out").exists()
    assert equal_runs(quiet(TINY, tmp_path), whole)


# Forked, for a new process takes 10 s to import torch's optimisers and scikit-learn.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    config = TINY.model_copy(update={"epochs": 15})
    process = multiprocessing.get_context("fork").Process(target=quiet, args=(config, tmp_path))
    process.start()
    curves = tmp_path / "runs" / "run" / "train.jsonl"
    try:
        until = time.monotonic() + 60
        while not (curves.exists() and len(curves.read_text().splitlines()) >= 3):
            assert process.is_alive()
            assert time.monotonic() < until
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (curves.parent / STATE).exists()
    assert not (tmp_path / "out").exists()
    assert equal_runs(quiet(config, tmp_path), quiet(config, tmp_path / "uninterrupted"))


def stopped_run(folder: Path, monkeypatch) -> Path:
    """The folder of a run that was interrupted after two epochs."""
    save = training.save_state

    def save_twice(where, state):
        save(where, state)
        if state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", save_twice)
        with pytest.raises(KeyboardInterrupt):
            quiet(TINY, folder)
    return folder / "runs" / "run"


def damaged_states() -> dict[str, object]:
    def flip(raw: bytes) -> bytes:
        middle = raw.index(b"archive/data/") + 2000
        return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]

    return {
        "truncated": lambda raw: raw[: len(raw) // 2],
        "empty": lambda raw: b"",
        "text": lambda raw: b"<html>",
        "flipped": flip,
    }


@pytest.mark.parametrize("damage", damaged_states().values(), ids=damaged_states())
def test_a_damaged_state_is_named_and_left_in_place(damage, tmp_path, monkeypatch):
    path = stopped_run(tmp_path, monkeypatch) / STATE
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match=f"{path} is damaged.*Delete the folder"):
        quiet(TINY, tmp_path)
    assert path.read_bytes() == before


def test_an_interrupted_run_keeps_its_configuration(tmp_path, monkeypatch):
    stopped_run(tmp_path, monkeypatch)
    with pytest.raises(InvalidInput, match=r"other settings \(seed 0 -> 3\).*resume run"):
        quiet(TINY.model_copy(update={"seed": 3}), tmp_path)


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


# ---------------------------------------------------------------- small parts


def test_a_last_batch_of_one_image_is_left_out():
    assert batches_of(41, 20) == [slice(0, 20), slice(20, 40)]
    assert batches_of(42, 20)[-1] == slice(40, 60)


def test_the_rate_falls_at_the_milestones():
    config = TINY.model_copy(update={"epochs": 100, "milestones": (0.07, 0.75)})
    rates = [piecewise(config, epoch) for epoch in range(100)]
    assert rates == [0.1] * 7 + [0.01] * 68 + [0.001] * 25


def test_crops_come_from_the_padded_image_and_from_the_streams_alone():
    x = torch.rand(64, 3, 8, 8)
    out = crop_flip(x, Streams.for_batch(64, "augment", 0))
    assert torch.equal(out, crop_flip(x, Streams.for_batch(64, "augment", 0)))
    assert not torch.equal(out, crop_flip(x, Streams.for_batch(64, "augment", 1)))
    padded = torch.nn.functional.pad(x, (PADDING,) * 4, mode="reflect")
    places = set()
    for image, source in zip(out, padded, strict=True):
        found = [
            (top, left, flipped)
            for flipped in (False, True)
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
            if torch.equal(
                image.flip(-1) if flipped else image,
                source[:, top : top + 8, left : left + 8],
            )
        ]
        assert found
        places.update(found)
    assert {flipped for *_, flipped in places} == {False, True}
    assert len({top for top, *_ in places}) == len({left for _, left, _ in places}) == 9
