"""Interrupted runs: whatever stops them, they go on to the bits of an uninterrupted one."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from awp_train import train as training
from awp_train.run_files import RUN, STATE, Places, load_state, read_run
from awp_train.step import Stepped
from bench.records.lock import locked
from bench.schema import InvalidInput
from tests.training.tiny_runs import TINY, equal_runs, lines, quiet


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the same bits only there


def test_a_resumed_run_is_the_uninterrupted_one(whole, tmp_path, monkeypatch):
    step = training.step

    def interrupted(*args, epoch: int, batch: int, **more) -> Stepped:
        if (epoch, batch) == (4, 2):
            raise KeyboardInterrupt
        return step(*args, epoch=epoch, batch=batch, **more)

    with monkeypatch.context() as patch:
        patch.setattr(training, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quiet(TINY, tmp_path)
    assert not (tmp_path / "out").exists()
    assert equal_runs(quiet(TINY, tmp_path), whole.folders)


# Forked, for a new process takes 10 s to import torch's optimisers and scikit-learn.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path):
    def until_saved() -> None:
        save = training.save_state

        def save_and_wait(where, state) -> None:
            save(where, state)
            if state.epoch == 2:
                time.sleep(600)

        training.save_state = save_and_wait
        quiet(TINY, tmp_path)

    process = multiprocessing.get_context("fork").Process(target=until_saved)
    process.start()
    curves = tmp_path / "runs" / "run" / "train.jsonl"
    try:
        until = time.monotonic() + 60
        while not (curves.exists() and len(curves.read_text().splitlines()) == 2):
            assert process.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (curves.parent / STATE).exists()
    assert not (tmp_path / "out").exists()
    assert equal_runs(quiet(TINY, tmp_path), whole.folders)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory) -> Path:
    """A run that was interrupted after an epoch."""
    folder, save = tmp_path_factory.mktemp("stopped"), training.save_state

    def save_once(where, state):
        save(where, state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(training, "save_state", save_once)
        with pytest.raises(KeyboardInterrupt):
            quiet(TINY, folder)
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """A copy of it, in `tmp_path`."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "run"


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
def test_a_damaged_state_is_named_and_left_in_place(damage, stopped, tmp_path):
    path = stopped / STATE
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match=f"{path} is damaged.*Delete the folder"):
        quiet(TINY, tmp_path)
    assert path.read_bytes() == before


def test_an_interrupted_run_keeps_its_configuration(stopped, tmp_path):
    with pytest.raises(InvalidInput, match=r"other settings \(seed 0 -> 3\).*resume run"):
        quiet(TINY.model_copy(update={"seed": 3}), tmp_path)


# ---------------------------------------------------------------- within an epoch

HARD = {
    "awp": {},
    "trades-ema": {
        "objective": "trades",
        "averaging": "ema",
        "averaging_from": 0.4,
        "averaging_decay": 0.8,
        "schedule": "cosine",
    },
    "mart-swa": {
        "objective": "mart",
        "averaging": "swa",
        "averaging_from": 0.4,
        "schedule": "cyclic",
        "nesterov": True,
    },
    "stopping": {
        "awp": None,
        "mixup": 1.0,
        "cutout": 3,
        "l1": 1e-4,
        "early_stopping": 1,
        "n_validation": 100,  # fewer may not stop a run
        "lr": 1e-6,
    },
}


@pytest.mark.parametrize("name", HARD)
def test_a_run_stopped_after_every_batch_is_the_uninterrupted_one(name, tmp_path, monkeypatch):
    # At 8 the weights are laid out channels last, as those of larger images.
    monkeypatch.setattr("awp_train.faster.SMALL", 8 if name in ("awp", "mart-swa") else 16)
    config = TINY.model_copy(update={"epochs": 3} | HARD[name])
    expected = quiet(config, tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    save, places = training.save_state, []

    def save_once(folder, state) -> None:
        save(folder, state)
        places.append((state.epoch, state.batch))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_once)
    for _ in range(100):
        try:
            resumed = quiet(config, tmp_path)
            break
        except KeyboardInterrupt:
            continue
    epochs = lines(expected[-1])[-1]["epoch"]
    whole_epochs = [(epoch, batch) for epoch in range(epochs) for batch in (1, 2)]
    assert sorted(places) == sorted([*whole_epochs, *((e + 1, 0) for e in range(epochs))])
    assert (epochs < config.epochs) == (config.early_stopping is not None)
    assert equal_runs(resumed, expected)


def test_a_state_within_an_epoch_is_saved_every_few_minutes(tmp_path, monkeypatch):
    saved, save = [], training.save_state
    clock = iter(range(0, 10**6, 100))  # seconds
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))

    def spy(folder, state) -> None:
        save(folder, state)
        saved.append((state.epoch, state.batch))

    monkeypatch.setattr(training, "save_state", spy)
    quiet(TINY.model_copy(update={"epochs": 1, "batch": 6, "awp": None}), tmp_path)
    within = [place for place in saved if place[1]]
    assert within and len(saved) == len(within) + 1
    assert len(within) < 9  # not after every batch


def test_a_run_remembers_where_its_files_lie(tmp_path):
    folder = tmp_path / "runs" / "run"
    there, elsewhere = Places(Path("/a/extra.npz"), Path("/b/start")), Places(Path("/c/extra.npz"))
    training.claim(folder, training.Run(TINY, "twin", "awp", there))
    kept = training.claim(folder, training.Run(TINY, "twin"))
    assert kept.places == there
    assert read_run(folder.parent, "run") == kept
    moved = training.claim(folder, training.Run(TINY, "twin", places=elsewhere)).places
    assert moved == Places(elsewhere.extra, there.start)


def test_a_run_that_was_started_before_places_were_kept_goes_on(tmp_path):
    folder = tmp_path / "run"
    training.claim(folder, training.Run(TINY, "twin"))
    text = (folder / RUN).read_text()
    old = text.replace(' "control_of": null,\n', "").replace(',\n "places": {}', "")
    assert old != text
    (folder / RUN).write_text(old)
    assert read_run(tmp_path, "run").places == Places()


# ---------------------------------------------------------------- the real process

_RUN = """
import sys
from awp_train import train
from awp_train.__main__ import main
train.SAVE_SECONDS = 0.0
sys.exit(main(sys.argv[1:]))
"""


def command(folder: Path) -> list[str]:
    flags = "--epochs 40 --awp.warm_up 10 --n_train 120 --batch 20 --averaging ema --log_every 10"
    where = ["--out", str(folder / "out"), "--runs", str(folder / "runs"), "--name", "run"]
    return [sys.executable, "-c", _RUN, "run", "digits-at-awp", *flags.split(), *where]


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen]:
    """A training process, killed on the way out."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    quietly = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(folder), env=environment, **quietly) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_process_killed_at_random_goes_on_to_the_same_bits(tmp_path):
    with running(tmp_path / "whole") as process:
        assert process.wait() == 0
    chance, places = random.Random(0), []
    state = tmp_path / "runs" / "run" / STATE
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        with running(tmp_path) as process:
            while not (state.exists() and state.stat().st_mtime_ns > before):
                assert process.poll() is None
                time.sleep(0.005)  # until it trains
            time.sleep(chance.uniform(0, 0.2))
        assert process.returncode == -signal.SIGKILL
        reached = load_state(state.parent)
        places.append((reached.epoch, reached.batch))
    assert places == sorted(set(places))  # each went on from where the last was killed
    assert any(batch for _, batch in places)
    with running(tmp_path) as process:
        assert process.wait() == 0
    runs = [sorted((folder / "out").iterdir()) for folder in (tmp_path, tmp_path / "whole")]
    assert equal_runs(*runs)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path):
    with (
        locked(tmp_path / "runs" / "busy.lock", "the run busy"),
        pytest.raises(InvalidInput, match=r"another process \(pid \d+\) works on the run busy"),
    ):
        training.train(
            TINY,
            name="busy",
            out=tmp_path / "checkpoints",
            runs=tmp_path / "runs",
            progress=False,
        )
    assert not (tmp_path / "runs" / "busy").exists()
