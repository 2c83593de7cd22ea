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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from awp_train import train as training
from awp_train.__main__ import main
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
    assert not [*(tmp_path / "out").glob("*")]
    assert equal_runs(quiet(TINY, tmp_path), whole.folders)


def forks(test: Callable[..., None]) -> Callable[..., None]:
    """Of a test whose processes are forked: a new one takes 10 s to import what training needs."""
    skip = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    return skip(pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test))


@contextmanager
def running(target: Callable[..., object], *arguments: object) -> Iterator[BaseProcess]:
    """A process that is killed on the way out, before it has ended."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL


@forks
def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path):
    def until_saved() -> None:
        save = training.save_state

        def save_and_wait(where, state) -> None:
            save(where, state)
            if state.epoch == 2:
                time.sleep(600)

        training.save_state = save_and_wait
        quiet(TINY, tmp_path)

    curves = tmp_path / "runs" / "run" / "train.jsonl"
    with running(until_saved) as process:
        until = time.monotonic() + 60
        while not (curves.exists() and len(curves.read_text().splitlines()) == 2):
            assert process.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
    assert (curves.parent / STATE).exists()
    assert not [*(tmp_path / "out").glob("*")]
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
    config = TINY.model_copy(update={"epochs": 3, "n_train": 41} | HARD[name])
    expected = quiet(config, tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    save, places = training.save_state, []

    def save_once(folder, state) -> None:
        save(folder, state)
        places.append((state.epoch, state.batch))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_once)
    for _ in range(2 * config.epochs + 1):
        with suppress(KeyboardInterrupt):
            resumed = quiet(config, tmp_path)
    epochs = lines(expected[-1])[-1]["epoch"]
    assert places == [place for e in range(epochs) for place in ((e, 1), (e + 1, 0))]
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


def words(folder: Path) -> list[str]:
    flags = "--epochs 20 --awp.warm_up 5 --n_train 120 --batch 20 --averaging ema --log_every 10"
    where = ["--out", str(folder / "out"), "--runs", str(folder / "runs"), "--name", "run"]
    return ["run", "digits-at-awp", *flags.split(), *where]


@forks
@pytest.mark.slow
def test_a_process_killed_at_random_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    assert main(words(tmp_path / "whole")) == 0
    chance, places = random.Random(0), []
    state = tmp_path / "runs" / "run" / STATE
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        with running(main, words(tmp_path)) as process:
            while not (state.exists() and state.stat().st_mtime_ns > before):
                assert process.is_alive()
                time.sleep(0.005)  # until it trains
            time.sleep(chance.uniform(0, 0.2))
        reached = load_state(state.parent)
        places.append((reached.epoch, reached.batch))
    assert places == sorted(set(places))  # each went on from where the last was killed
    assert any(batch for _, batch in places)
    # To its end in a new interpreter, as a user goes on.
    alone = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", _RUN, *words(tmp_path)], env=alone, check=True)
    runs = [sorted((folder / "out").iterdir()) for folder in (tmp_path, tmp_path / "whole")]
    assert equal_runs(*runs)


_WRITES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "tempfile.mkdtemp")


def counting(call: list[str], folder: Path, most: int = 0) -> int:
    """How many files below the folder a call opens, makes, renames or removes, in a process of its own.

    The process kills itself at number `most`; the count is then `most`.
    """
    ours, theirs = os.pipe()

    def until_then() -> None:
        done = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal done
            if event in _WRITES and str(folder) in str(arguments[:2]):
                done += 1
                os.write(theirs, b".")
                if done == most:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        assert main(call) == 0
        os.kill(os.getpid(), signal.SIGKILL)  # as `running` expects it

    with running(until_then) as process:
        process.join()
    os.close(theirs)
    with open(ours, "rb") as said:
        return len(said.read())


@forks
@pytest.mark.slow
def test_a_run_killed_at_any_file_that_it_writes_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """20 runs, each killed twice: states, curves, both checkpoints and cards, between any two steps."""
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    flags = "--epochs 2 --awp.warm_up 1 --n_train 40 --batch 20 --n_validation 40 --log_every 1"

    def call(folder: Path) -> list[str]:
        where = ["--out", str(folder / "out"), "--runs", str(folder / "runs"), "--name", "run"]
        return ["run", "digits-at-awp", *flags.split(), *where]

    every = counting(call(tmp_path / "whole"), tmp_path)
    whole = sorted((tmp_path / "whole" / "out").iterdir())
    assert every > 40 and len(whole) == 2
    chance = random.Random(0)
    for k in range(20):
        folder = tmp_path / str(k)
        for most in (1 + (k * every + chance.randrange(every)) // 20, chance.randint(1, every)):
            assert counting(call(folder), tmp_path, most) <= most
        assert main(call(folder)) == 0
        # Drafts of the last hour stay: they could be another process's, and nothing finds them.
        assert equal_runs(sorted((folder / "out").glob("[!.]*")), whole)


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
