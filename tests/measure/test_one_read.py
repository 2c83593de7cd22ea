"""Loaded is what was hashed, though the file be swapped or cut short meanwhile."""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from awp_train import extra
from awp_train.starting import load_start
from awp_train.state import STATE, RunState, load_state, save_state
from bench import evidence
from bench.evidence import Perturbations
from bench.records import one_read
from bench.records.one_read import read_whole
from bench.records.store import sha256_of
from bench.schema import InvalidInput, ModelCard, StartingPoint, TrainConfig
from bench.sources import checkpoint, zoo
from bench.verify import _evidence

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2}


def saved(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    card = ModelCard(
        name="net", arch="small_cnn", arch_args=ARGS, dataset="digits", class_count=10,
        weights_sha256="0" * 64, n_parameters=0,
    )  # fmt: skip
    checkpoint.save(folder, models.build("small_cnn", ARGS), card)
    return folder


@pytest.fixture
def swapped_once_read(monkeypatch):
    """swap(path, content): another file takes its place as soon as it has been opened."""

    def swap(path: Path, content: bytes) -> None:
        real, done = (builtins.open, os.open), []

        def after(opened):
            if not done:
                done.append(True)
                other = path.with_name("other")
                with real[0](other, "wb") as file:
                    file.write(content)
                os.replace(other, path)
            return opened

        def is_it(name) -> bool:
            return not isinstance(name, int) and os.fspath(name) == str(path)

        def opening(name, *more, **named):
            opened = real[0](name, *more, **named)
            return after(opened) if is_it(name) else opened

        def opening_descriptor(name, *more, **named):
            opened = real[1](name, *more, **named)
            return after(opened) if is_it(name) else opened

        monkeypatch.setattr(builtins, "open", opening)
        monkeypatch.setattr("io.open", opening)
        monkeypatch.setattr(os, "open", opening_descriptor)

    return swap


def test_a_checkpoint_swapped_after_it_was_hashed_is_the_hashed_one(tmp_path, swapped_once_read):
    first, second = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    wanted = checkpoint.load_model(first).state_dict()
    swapped_once_read(first / checkpoint.WEIGHTS, (second / checkpoint.WEIGHTS).read_bytes())
    model, card = checkpoint.load(first)
    assert checkpoint.weights_sha256(model) == card.weights_sha256
    assert all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())
    with pytest.raises(InvalidInput, match="sha256 differs"):  # the other one came
        checkpoint.load(first)


def test_evidence_swapped_after_it_was_hashed_is_the_hashed_one(tmp_path, swapped_once_read):
    path, shape = tmp_path / "a.evidence.npz", (1, 2, 2)
    one = Perturbations(
        np.arange(1, dtype=np.int32), np.ones((1, *shape), np.int8), np.ones(1, np.float32),
        np.zeros((0, *shape), np.float32),
    )  # fmt: skip
    path.write_bytes(evidence.to_bytes({"fgsm": one}))
    named = type("Named", (), {"evidence_sha256": sha256_of(path)})
    swapped_once_read(path, evidence.to_bytes({"fgsm": Perturbations.none(shape)}))
    assert len(_evidence(named, path, path)["fgsm"].index) == 1


def test_a_zoo_model_swapped_while_it_is_loaded_has_its_own_card(tmp_path, swapped_once_read):
    entry = zoo.find("robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN", tmp_path)
    entry.path.parent.mkdir(parents=True)
    raws = []
    for shift in (0.0, 1.0):
        state = {k: v + shift for k, v in zoo.build(entry).state_dict().items()}
        torch.save(state, entry.path)
        raws.append(entry.path.read_bytes())
    entry.path.write_bytes(raws[0])
    swapped_once_read(entry.path, raws[1])
    model, card = zoo.load(entry)
    assert card.weights_sha256 == hashlib.sha256(raws[0]).hexdigest()
    loaded = torch.load(io.BytesIO(raws[0]))
    assert all(torch.equal(v, loaded[k]) for k, v in model.state_dict().items())


def test_extra_data_swapped_after_it_was_hashed_is_the_hashed_one(tmp_path, swapped_once_read):
    path = tmp_path / "extra.npz"
    zeros, ones = (torch.full((3, 1, 8, 8), value) for value in (0.0, 1.0))
    extra.save_extra(path, ones, torch.tensor([1, 1, 1]), source="others")
    other = path.read_bytes()
    path.unlink()
    extra.save_extra(path, zeros, torch.tensor([0, 1, 2]), source="these")
    config = TrainConfig(dataset="digits", extra=extra.describe_extra(path), n_validation=0)
    swapped_once_read(path, other)
    found = extra.load_extra(path, config)
    assert bool((found.images == 0).all())
    assert found.labels.tolist() == [0, 1, 2]


def test_a_description_of_extra_data_is_of_one_file(tmp_path, swapped_once_read):
    path = tmp_path / "extra.npz"
    extra.save_extra(path, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), source="others")
    other = path.read_bytes()
    path.unlink()
    extra.save_extra(path, torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]), source="these")
    wanted = sha256_of(path)
    swapped_once_read(path, other)
    found = extra.describe_extra(path)
    assert (found.n, found.sha256) == (3, wanted)


def test_a_starting_point_replaced_between_its_card_and_its_weights_is_refused(
    tmp_path, monkeypatch
):
    first, second = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    card = checkpoint.read_card(first)
    config = TrainConfig(
        dataset="digits", arch_args=ARGS, n_validation=0,
        start=StartingPoint(name="net", weights_sha256=card.weights_sha256),
    )  # fmt: skip
    real, model = checkpoint.read_card, models.build("small_cnn", ARGS)
    asked = []

    def replaced_after(folder):
        found = real(folder)
        if not asked:
            first.rename(tmp_path / "gone")
            second.rename(first)
        asked.append(folder)
        return found

    monkeypatch.setattr(checkpoint, "read_card", replaced_after)
    with pytest.raises(InvalidInput, match=r"sha256 differs|not the checkpoint"):
        load_start(model, first, config)


def test_the_state_of_a_run_that_was_checked_is_the_one_loaded(tmp_path, swapped_once_read):
    save_state(tmp_path, RunState(epoch=7))
    other = (tmp_path / STATE).read_bytes()
    save_state(tmp_path, RunState(epoch=3))
    swapped_once_read(tmp_path / STATE, other[:-1])
    assert load_state(tmp_path).epoch == 3


def test_files_swapped_all_the_time_are_either_right_or_refused(tmp_path):
    """A card and weights of two checkpoints in turn: never the weights of another card."""
    folders = [saved(tmp_path / name, seed) for seed, name in enumerate("ab")]
    raws = [(f / checkpoint.WEIGHTS).read_bytes() for f in folders]
    place, stop = folders[0] / checkpoint.WEIGHTS, threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            other = tmp_path / "other"
            other.write_bytes(raws[turn % 2] if turn % 3 else raws[0][: len(raws[0]) // 2])
            os.replace(other, place)

    swapper = threading.Thread(target=swap)
    swapper.start()
    loaded = refused = 0
    try:
        for _ in range(150):
            try:
                model, card = checkpoint.load(folders[0])
            except InvalidInput:
                refused += 1
                continue
            loaded += 1
            assert checkpoint.weights_sha256(model) == card.weights_sha256
    finally:
        stop.set()
        swapper.join()
    assert loaded
    assert refused


# Another process cuts the file short as soon as it is open, or mapped.
TRUNCATED = """
import os, sys
from pathlib import Path
import safetensors.torch
from bench.sources import checkpoint
from bench.schema import InvalidInput

path = Path(sys.argv[1])
mapped, state_of = safetensors.torch.load_file, os.fstat

def load_file(*a, **k):
    found = mapped(*a, **k)
    os.truncate(path, 0)
    return found

def fstat(descriptor):
    state = state_of(descriptor)
    if os.path.samestat(state, os.stat(path)):
        os.truncate(path, 0)
    return state

safetensors.torch.load_file, os.fstat = load_file, fstat
try:
    checkpoint.load(path.parent)
except InvalidInput as error:
    print("refused:", error)
"""


def test_a_file_cut_short_while_it_is_read_is_refused_and_kills_nothing(tmp_path):
    path = saved(tmp_path / "a", 1) / checkpoint.WEIGHTS
    call = [sys.executable, "-c", TRUNCATED, str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])  # -7 is SIGBUS
    assert "changed while it was read" in done.stdout


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"12345")
    for name, words in [("pipe", "regular"), ("folder", "regular|cannot"), ("none", "no file")]:
        with pytest.raises(InvalidInput, match=words):
            read_whole(tmp_path / name)
    with pytest.raises(InvalidInput, match="at most 4"):
        read_whole(tmp_path / "large", largest=4)
    assert read_whole(tmp_path / "large", largest=5) == b"12345"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_larger_files_than_can_be_weights_are_not_read(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"file{suffix}"
    with path.open("wb") as file:
        file.truncate(one_read.LARGEST + 1)  # sparse: takes no room on the disk
    with pytest.raises(InvalidInput, match="at most"):
        checkpoint.read_state_dict(path)
