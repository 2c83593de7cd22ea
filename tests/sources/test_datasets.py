"""Data sets: order, hashes, layouts read, and errors that say which file is wanted."""

from __future__ import annotations

import gzip
import io
import pkgutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench import digits_split
from bench.catalogue import DATASETS
from bench.datasets import drawn_parts, load, training_split
from bench.schema import InvalidInput, ThreatModel, TrainConfig


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_every_entry_has_a_threat_and_a_reader(info):
    ThreatModel.parse(info.default_threat)
    assert callable(pkgutil.resolve_name(info.reader))


def test_digits_split_is_fixed_stratified_and_disjoint():
    test, pool = load("digits"), load("digits", "train")
    where = [*digits_split.test_indices(), *digits_split.pool_indices()]
    assert (len(test), len(pool), sorted(where)) == (1000, 797, list(range(1797)))
    share = np.bincount([*test.labels, *pool.labels]) / 1797
    assert abs(np.bincount(test.labels) / 1000 - share).max() < 0.002
    assert abs(np.bincount(test.labels[:200]) / 200 - share).max() < 0.02
    assert load("digits", n=1000).sha256 == test.sha256
    assert test.sha256.startswith("1a39c7ce")


@pytest.mark.parametrize("name", ["digits-0to4", "digits-5to9", "fashion_mnist-5to9"])
def test_half_of_a_data_set_keeps_order_and_renumbers_labels(name):
    whole, _, part = name.partition("-")
    first = int(part[0])
    info = DATASETS[name]
    assert info.classes == DATASETS[whole].classes[first : first + 5]
    assert info.default_threat == DATASETS[whole].default_threat
    assert info.note.startswith("demo") == (whole == "digits")
    for split, n in (("train", info.n_train), ("test", info.n_test)):
        if split == "train" and whole != "digits":
            continue  # 60,000 images say no more
        try:
            everything = load(whole, split, download=False)
        except InvalidInput:
            pytest.skip(f"{whole} is not on this machine")
        half = load(name, split, download=False)
        kept = (everything.labels >= first) & (everything.labels < first + 5)
        assert len(half) == n
        assert torch.equal(half.images, everything.images[kept])
        assert torch.equal(half.labels + first, everything.labels[kept])
        assert set(half.labels.tolist()) == set(range(half.class_count)) == set(range(5))


def test_training_split_is_disjoint_and_depends_on_the_seed():
    config = TrainConfig(dataset="digits", n_train=200, n_validation=200)
    train, validation = training_split(config)
    assert len(train) == len(validation) == 200
    pool = load("digits", "train").images.flatten(1)
    places = [
        {int((pool == image).all(1).nonzero()[0]) for image in part.images.flatten(1)}
        for part in (train, validation)
    ]
    assert not places[0] & places[1]
    *same, unused = drawn_parts(config)
    assert [part.sha256 for part in same] == [train.sha256, validation.sha256]
    every = torch.cat([train.images, validation.images, unused.images]).flatten(1)
    assert len(every) == len(pool)
    assert torch.equal(every.unique(dim=0), pool.unique(dim=0))
    smaller = config.model_copy(update={"n_train": 150, "n_validation": 250})
    assert drawn_parts(smaller)[2].sha256 == unused.sha256
    again, _ = training_split(config)
    other, _ = training_split(config.model_copy(update={"seed": 1}))
    assert again.sha256 == train.sha256 != other.sha256
    with pytest.raises(InvalidInput, match="797 training images"):
        training_split(config.model_copy(update={"n_train": 700}))


def test_a_range_of_a_split():
    part = load("digits", "test[100:300]", n=50)
    assert part.split == "test[100:150]"
    assert torch.equal(part.images, load("digits").images[100:150])


@pytest.mark.parametrize(
    ("split", "n", "words"),
    [
        ("test[900:1100]", None, "has 1000"),
        ("tset", None, "split must be"),
        ("test[5:5]", None, "has 1000"),
        ("test", 1001, "n = 1001"),
    ],
)
def test_images_that_are_not_there_are_refused(split, n, words):
    with pytest.raises(InvalidInput, match=words):
        load("digits", split, n=n)


@pytest.fixture
def arrays(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(12) % 3)
    return tmp_path


def test_arrays_folder_keeps_uint8(arrays):
    data = load(f"arrays:{arrays}", name="mine")
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (12, 3, 5, 4)
    assert data.x.max() <= 1
    assert data.class_count == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("images", np.zeros((12, 5, 4), np.uint8), "must be"),
        ("images", np.full((12, 5, 4, 3), 7.0), r"must lie in \[0, 1\]"),
        ("images", np.full((12, 5, 4, 3), np.nan), r"must lie in \[0, 1\]"),
        ("labels", np.full(12, -1), "labels must lie"),
        ("labels", np.zeros(3, int), "expected a label for each of 12 images, got 3"),
        ("labels", np.zeros(12), "whole numbers"),
        ("images", np.array([{"a": 1}], dtype=object), "no plain .npy array"),
    ],
)
def test_bad_arrays_are_refused(arrays, name, content, words):
    np.save(arrays / f"{name}.npy", content, allow_pickle=True)
    with pytest.raises(InvalidInput, match=words):
        load(f"arrays:{arrays}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("arrays:none", "no data folder at"),
        ("arrays:.", r"images\.npy"),
        ("parquet:.", "test-.*parquet"),
    ],
)
def test_missing_folder_and_files_are_named(source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=words):
        load(source)


def test_parquet_in_the_hugging_face_layout(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    rows = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(
        pa.table({"img": rows, "label": [0, 1, 2, 1]}), tmp_path / "test-00000-of-00001.parquet"
    )
    data = load(f"parquet:{tmp_path}", name="mine")
    assert torch.equal(data.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert data.labels.tolist() == [0, 1, 2, 1]


def _idx(array: np.ndarray) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim])
    return head + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


def test_idx_files_gzipped_or_not(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(images)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.array([1, 2, 3], np.uint8)))
    data = load("mnist", root=tmp_path, download=False)
    assert torch.equal(data.images[:, 0], torch.from_numpy(images.copy()))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.array([1, 2, 3], np.uint8))[:-1])
    with pytest.raises(InvalidInput, match="not a complete IDX file"):
        load("mnist", root=tmp_path, download=False)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_without_network_the_files_and_their_place_are_named(name, tmp_path):
    with pytest.raises(InvalidInput, match=rf"{name} is not on this machine.*Put .* into") as error:
        load(name, root=tmp_path, download=False)
    assert str(tmp_path) in str(error.value)


def test_real_cifar10_images(shared: Path):
    data = load(f"parquet:{shared}/data/cifar10-first1017", n=1000, name="cifar10")
    assert data.images.shape == (1000, 3, 32, 32)
    assert data.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # CIFAR-10's test order
