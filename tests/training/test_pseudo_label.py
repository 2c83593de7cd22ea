"""Pseudo-labels: which images are labelled, that no held-out one is, and that files are the same."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from awp_train.extra import describe_extra, load_extra, read_source, shared_images
from awp_train.pseudo_label import add_arguments, pseudo_label, run
from bench.datasets import load, training_split
from bench.schema import InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint
from models import build

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2}
CONFIG = TrainConfig(dataset="digits", n_train=200, n_validation=200, arch_args=ARGS)


def saved_teacher(folder: Path, config: TrainConfig | None = CONFIG) -> Path:
    card = ModelCard(
        name=folder.name, arch="small_cnn", arch_args=ARGS, dataset="digits", class_count=10,
        weights_sha256="0" * 64, n_parameters=0, train=config,
    )  # fmt: skip
    torch.manual_seed(3)
    checkpoint.save(folder, build("small_cnn", ARGS), card)
    return folder


@pytest.fixture
def teacher(tmp_path) -> Path:
    return saved_teacher(tmp_path / "teacher-s0-last")


@pytest.mark.parametrize("seed", [0, 1])
def test_images_are_those_the_teacher_left(tmp_path, seed):
    config = CONFIG.model_copy(update={"seed": seed})
    folder = saved_teacher(tmp_path / "teacher", config)
    path = pseudo_label(folder, out=tmp_path / "extra")
    assert path == tmp_path / "extra" / "teacher-pseudo.npz"
    pupil = config.model_copy(update={"extra": describe_extra(path)})
    extra = load_extra(path, pupil)
    assert len(extra) == 797 - 400
    pool = load("digits", "train")
    parts = [*training_split(pupil), extra]
    for part in parts[:2]:
        assert shared_images(part.images, extra.images) == 0
    assert shared_images(load("digits").images, extra.images) == 0
    every = torch.cat([part.images for part in parts]).flatten(1)
    assert torch.equal(every.unique(dim=0), pool.images.flatten(1).unique(dim=0))
    model = checkpoint.load_model(folder)
    with torch.no_grad():
        assert torch.equal(extra.labels, model(extra.x).argmax(1))


def test_another_seed_may_not_use_them(teacher, tmp_path):
    path = pseudo_label(teacher, out=tmp_path)
    for change in ({"seed": 1}, {"n_validation": 300}):
        config = CONFIG.model_copy(update={"extra": describe_extra(path)} | change)
        with pytest.raises(InvalidInput, match="validation images of digits"):
            load_extra(path, config)


def test_the_same_call_gives_the_same_file(teacher, tmp_path):
    path = pseudo_label(teacher, out=tmp_path / "a")
    first = path.read_bytes()
    assert pseudo_label(teacher, out=tmp_path / "a").read_bytes() == first
    assert pseudo_label(teacher, out=tmp_path / "b").read_bytes() == first
    fewer = pseudo_label(teacher, out=tmp_path / "c", n=50)
    with np.load(path) as every, np.load(fewer) as some:
        assert np.array_equal(some["images"], every["images"][:50])
        assert np.array_equal(some["labels"], every["labels"][:50])
    with pytest.raises(InvalidInput, match="holds other images or labels"):
        pseudo_label(teacher, out=tmp_path / "a", n=50)
    assert path.read_bytes() == first


def test_images_of_a_file(teacher, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    file = tmp_path / "mine.npz"
    np.savez(file, image=images)
    path = pseudo_label(teacher, out=tmp_path, images=file)
    extra = load_extra(path, CONFIG.model_copy(update={"extra": describe_extra(path)}))
    assert torch.equal(extra.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert "mine.npz" in read_source(path)
    assert "equal the true labels" not in read_source(path)
    np.savez(file, images=load("digits", n=50).images.numpy(), layout="NCHW")
    with pytest.raises(InvalidInput, match="50 of the 1000 test images of digits"):
        pseudo_label(teacher, out=tmp_path / "other", images=file)


def test_without_images_to_label_it_says_what_to_do(teacher, tmp_path):
    for n in (0, 398):
        with pytest.raises(InvalidInput, match=r"n must lie in 1\.\.397"):
            pseudo_label(teacher, out=tmp_path, n=n)
    full = saved_teacher(tmp_path / "full", CONFIG.model_copy(update={"n_train": None}))
    with pytest.raises(InvalidInput, match="took every image of digits"):
        pseudo_label(full, out=tmp_path)
    foreign = saved_teacher(tmp_path / "foreign", None)
    with pytest.raises(InvalidInput, match="was not trained here.*--images"):
        pseudo_label(foreign, out=tmp_path)
    with pytest.raises(InvalidInput, match="no checkpoint at"):
        pseudo_label(tmp_path / "none", out=tmp_path)


def test_the_command_prints_the_file_alone(teacher, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    call = parser.parse_args([str(teacher), "--n", "40", "--out", str(tmp_path / "extra")])
    assert run(call) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path == tmp_path / "extra" / "teacher-s0-last-pseudo.npz"
    pool = {image.numpy().tobytes(): int(y) for image, y in _pairs()}
    with np.load(path) as file:
        pairs = zip(file["images"], file["labels"], strict=True)
        right = sum(pool[image.tobytes()] == label for image, label in pairs)
    assert f"{right} of 40 equal the true labels" in err
    assert "train[397 left by the draw of seed 0]" in err


def _pairs():
    pool = load("digits", "train")
    return zip(pool.images, pool.labels, strict=True)
