"""Which epochs are logged, which of them may be the best, and when a run stops early."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import safetensors
import safetensors.torch
import torch

from awp_train import step as stepping
from awp_train import train as training
from awp_train.objectives import OBJECTIVES
from awp_train.run_files import NAN_BATCH, Places, TrainingFailed, read_run
from awp_train.step import Stepped
from awp_train.train import is_logged
from awp_train.validation import validate
from bench import datasets
from bench.datasets import Examples
from bench.schema import AwpConfig, ExtraData, InvalidInput, StartingPoint
from bench.sources import checkpoint
from tests.training.tiny_runs import TINY, equal_runs, lines, quiet


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# ---------------------------------------------------------------- logging and selection


STOPPING = {"epochs": 20, "n_validation": 100}  # fewer may not stop a run
SCORED = {
    "the last six are logged, multiples may be best": (
        {"epochs": 13, "log_every": 4},
        {4: 3, 8: 5, 9: 9, 10: 9, 11: 9, 12: 5, 13: 4},
        ([4, 8, 9, 10, 11, 12, 13], [8, 13]),
    ),
    "and the last": (
        {"epochs": 13, "log_every": 4},
        {4: 3, 11: 9, 13: 4},
        ([4, 8, 9, 10, 11, 12, 13], [13, 13]),
    ),
    "the earliest of equals is best, three later the run stops": (
        STOPPING | {"early_stopping": 3, "awp": None},
        {1: 5, 2: 4, 3: 6, 4: 6, 5: 2, 6: 6, 7: 9},
        ([1, 2, 3, 4, 5, 6], [3, 6]),
    ),
    "patience counts from the start of awp": (
        STOPPING | {"early_stopping": 2, "awp": AwpConfig(gamma=0.01, warm_up=5)},
        {1: 5},
        ([1, 2, 3, 4, 5, 6, 7], [1, 7]),
    ),
    "patience is looked at where the best may change": (
        STOPPING | {"epochs": 8, "early_stopping": 4, "log_every": 4, "awp": None},
        {4: 5},
        ([3, 4, 5, 6, 7, 8], [4, 8]),
    ),
}


@pytest.mark.parametrize(("fields", "scores", "expected"), SCORED.values(), ids=SCORED)
def test_epochs_are_logged_kept_and_waited_for_by_their_scores(
    fields, scores, expected, tmp_path, monkeypatch
):
    """scores: epoch -> robust images, else 0; expected: epochs logged, then those kept."""
    config = TINY.model_copy(update=fields)
    measured = (e for e in range(1, 100) if is_logged(config, e - 1))

    def pretended(model, examples, config, part, **named) -> dict[str, float]:
        if part == "train":
            pretended.epoch = next(measured)
        counts = {"clean_correct": 0, "robust_correct": scores.get(pretended.epoch, 0)}
        counts |= {"n": len(examples), "robust_loss": 1.0}
        return {f"{part}_{key}": value for key, value in counts.items()}

    idle = Stepped(torch.tensor(1.0), torch.zeros(2), torch.zeros(2), torch.zeros(2))
    monkeypatch.setattr(training, "validate", pretended)
    monkeypatch.setattr(training, "step", lambda *args, **named: idle)
    folders = quiet(config, tmp_path)
    kept = [checkpoint.read_card(folder).epoch_kept for folder in folders]
    assert ([line["epoch"] for line in lines(folders[-1])], kept) == expected


def test_test_images_are_logged_and_choose_nothing(whole, tmp_path):
    with_test = quiet(TINY.model_copy(update={"log_test_images": 30}), tmp_path / "with")
    plain = whole.folders
    logs = lines(with_test[-1]), lines(plain[-1])
    assert [{k: v for k, v in line.items() if "test_" not in k} for line in logs[0]] == logs[1]
    assert not any("test_n" in line for line in logs[1])
    model, card = checkpoint.load(with_test[-1])
    images = datasets.load("digits", "test", n=30)
    assert card.train is not None
    measured = validate(model, images, card.train, "test", limit=30)
    assert measured["test_n"] == 30 and measured.items() <= logs[0][-1].items()
    for one, other in zip(with_test, plain, strict=True):
        cards = [checkpoint.read_card(f) for f in (one, other)]
        assert cards[0].epoch_kept == cards[1].epoch_kept
        assert cards[0].weights_sha256 == cards[1].weights_sha256


# ---------------------------------------------------------------- files beside the data set

EXTRA = ExtraData(file="more.npz", sha256="1" * 64, n=30, fraction=0.5)


def test_extra_images_follow_the_labelled_ones(tmp_path, monkeypatch):
    config = TINY.model_copy(
        update={"objective": "rst", "extra": EXTRA, "epochs": 2, "n_train": 60}
    )
    with pytest.raises(InvalidInput, match="--extra FILE"):
        quiet(config, tmp_path)

    bright = Examples("more", "train[0:30]", torch.ones(30, 1, 8, 8), torch.arange(30) % 10, 10)
    monkeypatch.setattr(training, "load_extra", lambda path, config, **_: bright)
    seen, step = [], training.step

    def spy(model, optimiser, config, x, y, **named):
        seen.append((x.flatten(1).amin(1) == 1).sum().item() / len(x))
        return step(model, optimiser, config, x, y, **named)

    monkeypatch.setattr(training, "step", spy)
    folders = quiet(config, tmp_path, places=Places(extra=tmp_path / "more.npz"))
    assert seen == [0.5] * 12
    assert read_run(tmp_path / "runs", "run").places.extra == tmp_path / "more.npz"
    card = checkpoint.read_card(folders[-1])
    assert card.extra_data == "30 pseudo-labelled images of more.npz"
    assert card.method == "RST-AWP"


def test_fine_tuning_starts_from_the_checkpoint_and_goes_on_without_it(
    whole, tmp_path, monkeypatch
):
    base = shutil.copytree(whole.folders[-1], tmp_path / "base")
    sha = checkpoint.read_card(base).weights_sha256
    start = StartingPoint(name="run-last", weights_sha256=sha)
    vanilla = TINY.model_copy(update={"awp": None, "lr": 0.01, "epochs": 2})
    config = vanilla.model_copy(update={"objective": "pretrain", "start": start})
    with pytest.raises(InvalidInput, match="--start FOLDER"):
        quiet(config, tmp_path)
    tuned = quiet(config, tmp_path / "whole", places=Places(start=base))
    fresh = quiet(vanilla.model_copy(update={"epochs": 1}), tmp_path / "fresh")
    assert lines(tuned[-1])[0]["loss"] < lines(fresh[-1])[0]["loss"]

    save = training.save_state

    def save_once(folder, state) -> None:
        save(folder, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", save_once)
        with pytest.raises(KeyboardInterrupt):
            quiet(config, tmp_path, places=Places(start=base))
    base.rename(base.with_name("moved"))
    assert equal_runs(quiet(config, tmp_path), tuned)


# ---------------------------------------------------------------- what is left of a failure


def test_the_batch_whose_loss_is_not_finite_is_kept(tmp_path, monkeypatch):
    at, calls = OBJECTIVES["at"], []

    def broken(model, x, x_adv, y, beta):
        if len(x) > 1:  # not the one image of the loss of equal answers
            calls.append((x, y, x_adv))
        return at.loss(model, x, x_adv, y, beta) * (torch.inf if len(calls) == 5 else 1)

    monkeypatch.setitem(stepping.OBJECTIVES, "at", replace(at, loss=broken))
    config = TINY.model_copy(update={"awp": None})
    path = tmp_path / "runs" / "run" / NAN_BATCH
    said = rf"batch 2 of epoch 2 is not finite.*{path}; its images and labels are finite"
    with pytest.raises(TrainingFailed, match=said):
        quiet(config, tmp_path)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"epoch": "1", "batch": "1"}
    for name, value in zip(("x", "y", "x_adv"), calls[4], strict=True):
        assert torch.equal(safetensors.torch.load_file(path)[name], value)
    assert len(calls) == 5
    with pytest.raises(TrainingFailed, match="delete"):  # at once, without training again
        quiet(config, tmp_path)
    assert len(calls) == 5


def test_images_that_are_not_finite_are_named(tmp_path, monkeypatch):
    training_images, validation = datasets.training_split(TINY)
    training_images.images[7, 0, 3, 3] = torch.nan
    monkeypatch.setattr(
        datasets, "training_split", lambda config, **_: (training_images, validation)
    )
    with pytest.raises(TrainingFailed, match="not finite in it: x, x_adv"):
        quiet(TINY.model_copy(update={"augment": "none"}), tmp_path)


def test_a_collapse_is_seen_at_the_loss_of_that_objective(tmp_path, monkeypatch):
    objective = "mart"  # whose loss of equal answers is not ln K
    known = OBJECTIVES[objective]

    def undecided(model, x, x_adv, y, beta):
        return known.loss(lambda images: 1e-6 * model(images), x, x_adv, y, beta)

    monkeypatch.setitem(stepping.OBJECTIVES, objective, replace(known, loss=undecided))
    fields = {"objective": objective, "awp": None, "epochs": 40, "log_every": 40, "lr": 1e-6}
    with pytest.raises(TrainingFailed, match=r"collapsed.*all classes are equally likely"):
        quiet(TINY.model_copy(update=fields), tmp_path)
    last = json.loads((tmp_path / "runs" / "run" / "train.jsonl").read_text().splitlines()[-1])
    assert last["collapsed"]
