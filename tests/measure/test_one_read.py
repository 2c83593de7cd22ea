"""Loaded is what was hashed, though the file be swapped or cut short meanwhile."""

from __future__ import annotations

import builtins
import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from awp_train import extra_images as extra
from awp_train.run_files import STATE, RunState, load_start, load_state, save_state
from bench import evidence, models
from bench.evidence import Perturbations
from bench.records import one_read
from bench.records.one_read import opened, read_whole
from bench.records.store import sha256_of
from bench.schema import ExtraData, InvalidInput, StartingPoint, TrainConfig
from bench.sources import checkpoint, zoo
from bench.verify import evidence_of
from tests.conftest import SMALL_CNN, network

ARGS = SMALL_CNN


def saved(folder: Path, seed: int) -> Path:
    return network(folder.parent, folder.name, seed=seed)


@pytest.fixture
def swapped_once_read(monkeypatch):
    """swap(path, content): another file takes its place as soon as it has been opened."""

    def swap(path: Path, content: bytes) -> None:
        done = []

        def swapping(real):
            def opening(name, *more, **named):
                opened = real(name, *more, **named)
                if not isinstance(name, int) and os.fspath(name) == str(path) and not done:
                    done.append(True)
                    other = path.with_name("other")
                    other.write_bytes(content)
                    os.replace(other, path)
                return opened

            return opening

        monkeypatch.setattr(builtins, "open", swapping(builtins.open))
        monkeypatch.setattr("io.open", builtins.open)
        monkeypatch.setattr(os, "open", swapping(os.open))

    return swap


# A reader's file, another's bytes, and whether what is read is what was there first.
Reader = tuple[Path, bytes, Callable[[], bool]]


def a_checkpoint(folder: Path) -> Reader:
    first, second = saved(folder / "a", 1), saved(folder / "b", 2)
    wanted = checkpoint.load_model(first).state_dict()

    def holds() -> bool:
        model, card = checkpoint.load(first)
        assert checkpoint.weights_sha256(model) == card.weights_sha256
        with pytest.raises(InvalidInput, match="sha256 differs"):  # the other one came
            checkpoint.load(first)
        return all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())

    return first / checkpoint.WEIGHTS, (second / checkpoint.WEIGHTS).read_bytes(), holds


def some_evidence(folder: Path) -> Reader:
    path, shape = folder / "a.evidence.npz", (1, 2, 2)
    one = Perturbations(
        np.arange(1, dtype=np.int32), np.ones((1, *shape), np.int8), np.ones(1, np.float32),
        np.zeros((0, *shape), np.float32),
    )  # fmt: skip
    path.write_bytes(evidence.to_bytes({"fgsm": one}))
    named = type("Named", (), {"evidence_sha256": sha256_of(path), "n": 1})
    other = evidence.to_bytes({"fgsm": Perturbations.none(shape)})
    return path, other, lambda: len(evidence_of(named, path, path)["fgsm"].index) == 1


def a_zoo_model(folder: Path) -> Reader:
    entry = zoo.Entry("cifar10", "Linf", "Nobody2020", None, root=folder)
    entry.path.parent.mkdir(parents=True)
    raws = []
    for shift in (1.0, 0.0):
        state = {k: v + shift for k, v in zoo.build(entry).state_dict().items()}
        torch.save(state, entry.path)
        raws.append(entry.path.read_bytes())
    other, first = raws

    def holds() -> bool:
        model, card = zoo.load(entry)
        assert card.weights_sha256 == hashlib.sha256(first).hexdigest()
        loaded = torch.load(io.BytesIO(first))
        return all(torch.equal(v, loaded[k]) for k, v in model.state_dict().items())

    return entry.path, other, holds


def extra_images(folder: Path) -> tuple[Path, bytes, ExtraData]:
    path = folder / "extra.npz"
    extra.save_extra(path, torch.ones(2, 1, 8, 8), torch.tensor([1, 1]), source="others")
    other = path.read_bytes()
    path.unlink()
    extra.save_extra(path, torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]), source="these")
    return path, other, extra.describe_extra(path)


def extra_data(folder: Path) -> Reader:
    path, other, described = extra_images(folder)
    config = TrainConfig(dataset="digits", extra=described, n_validation=0)

    def holds() -> bool:
        found = extra.load_extra(path, config)
        return bool((found.images == 0).all()) and found.labels.tolist() == [0, 1, 2]

    return path, other, holds


def a_description_of_extra_data(folder: Path) -> Reader:
    path, other, described = extra_images(folder)
    return path, other, lambda: extra.describe_extra(path) == described


def the_state_of_a_run(folder: Path) -> Reader:
    save_state(folder, RunState(epoch=7))
    other = (folder / STATE).read_bytes()
    save_state(folder, RunState(epoch=3))
    return folder / STATE, other[:-1], lambda: load_state(folder).epoch == 3


@pytest.mark.parametrize(
    "reader",
    [
        a_checkpoint, some_evidence, a_zoo_model, extra_data, a_description_of_extra_data,
        the_state_of_a_run,
    ],
)  # fmt: skip
def test_what_is_swapped_once_it_was_opened_is_what_was_hashed(
    reader, tmp_path, swapped_once_read, monkeypatch
):
    monkeypatch.setattr(zoo, "build", lambda entry: nn.Linear(2, 2))
    path, other, holds = reader(tmp_path)
    swapped_once_read(path, other)
    assert holds()


def test_a_starting_point_replaced_between_its_card_and_its_weights_is_refused(
    tmp_path, monkeypatch
):
    first, second = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    card = checkpoint.read_card(first)
    config = TrainConfig(
        dataset="digits", arch_args=ARGS, n_validation=0,
        start=StartingPoint(name="a", weights_sha256=card.weights_sha256),
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_cut_short_while_it_is_read_is_refused_and_kills_nothing(tmp_path):
    """Another process cuts it as soon as it is open, or mapped: then SIGBUS would end this one."""
    path = saved(tmp_path / "a", 1) / checkpoint.WEIGHTS
    process = multiprocessing.get_context("fork").Process(target=_cut_short, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0  # -7 is SIGBUS


def _cut_short(path: Path) -> None:
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
    with pytest.raises(InvalidInput, match="changed while it was read"):
        checkpoint.load(path.parent)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"12345")
    for name, words in [("pipe", "regular"), ("folder", "a folder"), ("none", "no file")]:
        with pytest.raises(InvalidInput, match=words):
            read_whole(tmp_path / name)
    with pytest.raises(InvalidInput, match="at most 4"):
        read_whole(tmp_path / "large", largest=4)
    assert read_whole(tmp_path / "large", largest=5) == b"12345"


def test_what_fails_while_a_file_is_open_is_no_fault_of_the_file(tmp_path):
    (tmp_path / "whole").write_bytes(b"12345")
    with pytest.raises(FileNotFoundError, match="elsewhere"), opened(tmp_path / "whole"):
        (tmp_path / "elsewhere").read_bytes()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_larger_files_than_can_be_weights_are_not_read(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"file{suffix}"
    with path.open("wb") as file:
        file.truncate(one_read.LARGEST + 1)  # sparse: takes no room on the disk
    with pytest.raises(InvalidInput, match="at most"):
        checkpoint.read_state_dict(path)
