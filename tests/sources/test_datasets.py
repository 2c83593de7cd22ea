"""Data sets: order, hashes, layouts read, and errors that say which file is wanted."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import pkgutil
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench import cifar10_first, datasets, digits_split
from bench.catalogue import DATASETS
from bench.datasets import Examples, drawn_parts, load, training_split
from bench.schema import InvalidInput, ThreatModel, TrainConfig
from tests.conftest import SHARED


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
        ("test", 1001, r"n must lie in 1\.\.1000, got 1001"),
        ("test", 0, r"n must lie in 1\.\.1000, got 0"),
        ("test[0:10,5:20]", None, "neither overlap nor touch, got 5:20 after one that ends at 10"),
        ("test[0:10,10:20]", None, "neither overlap nor touch"),
        ("test[0:10,990:1010]", None, "has 1000"),
        ("test[0:10,990:]", None, "expected ranges such as"),
        (f"test[0:{10**30}]", None, r"split 'test\[0:10+\]': expected ranges such as"),
        ("test[" + "9" * 5000 + ":]", None, "expected ranges such as"),
        ("test[" + "9" * 5000 + "]", None, "expected ranges such as"),
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
    with pytest.raises(
        InvalidInput, match=rf"{name} is not on this machine.*Put .* into .*from https?://"
    ) as error:
        load(name, root=tmp_path, download=False)
    assert str(tmp_path) in str(error.value)


# ---------------------------------------------------------------- CIFAR-10, whole or its first images

FIRST = cifar10_first.FOLDER
FIVE = "0:1017,10000:11017,20000:21017,30000:31017,40000:41017"
EVERY = f"train[{FIVE}]"
TEST_ONLY = "of the 10,000 test images of cifar10 only test[0:1017] are here"
TRAIN_ONLY = f"of the 50,000 training images of cifar10 only {EVERY} are here"


read_once = functools.cache(datasets.read_cifar10)  # a second of decoding


@pytest.fixture
def first_images(monkeypatch) -> Path:
    """The folder in which the first official images of CIFAR-10 lie; not part of the project."""
    if not (SHARED / "data" / FIRST).is_dir():
        pytest.skip(f"../shared/data/{FIRST} is not here: official images of CIFAR-10 as Parquet")
    monkeypatch.setattr(datasets, "read_cifar10", read_once)
    return SHARED / "data"


def as_torchvisions(folder: Path, monkeypatch, batches: dict[str, Examples]) -> None:
    """A folder as torchvision's: known images first in each batch, black ones in all other places."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)  # of the official files
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    inside = folder / CIFAR10.base_folder
    inside.mkdir(parents=True)
    names = {"label_names": list(DATASETS["cifar10"].classes)}
    (inside / "batches.meta").write_bytes(pickle.dumps(names))
    for name, known in batches.items():
        data, labels = np.zeros((10_000, 3072), np.uint8), [0] * 10_000
        data[:1017], labels[:1017] = known.images.flatten(1).numpy(), known.labels.tolist()
        with (inside / name).open("wb") as file:
            pickle.dump({"data": data, "labels": labels}, file, protocol=4)


def assert_the_same(first: Examples, whole: Examples) -> None:
    assert (first.name, first.sha256, first.split) == (whole.name, whole.sha256, whole.split)
    assert first.images.dtype == whole.images.dtype == torch.uint8


def test_test_images_are_the_same_from_torchvision_and_from_the_first(
    first_images, tmp_path, monkeypatch
):
    """A record of the one is a record of the other: same images, same sha256, same split."""
    known = load("cifar10", root=first_images)
    as_torchvisions(tmp_path, monkeypatch, {"test_batch": known})
    read = functools.partial(load, "cifar10", root=tmp_path, download=False)
    whole = read()
    assert (whole.split, whole.rest) == ("test[0:10000]", "")
    assert_the_same(known, whole.first(1017))
    assert_the_same(load("cifar10", "test[1000:1017]", root=first_images), read("test[1000:1017]"))
    (tmp_path / FIRST).symlink_to(first_images / FIRST)  # both: the whole is read
    assert len(read()) == 10_000


@pytest.mark.slow
def test_training_images_are_the_same_from_torchvision_and_from_the_first(
    first_images, tmp_path, monkeypatch
):
    known = load("cifar10", EVERY, root=first_images)
    batches = {f"data_batch_{k + 1}": known[slice(1017 * k, 1017 * (k + 1))] for k in range(5)}
    as_torchvisions(tmp_path, monkeypatch, batches)
    for split in (EVERY, "train[10000:11017]", "train[5:9,30000:30002]"):
        first = load("cifar10", split, root=first_images)
        assert_the_same(first, load("cifar10", split, root=tmp_path, download=False))
    config = TrainConfig(dataset="cifar10", train_indices=FIVE, n_validation=585)
    for first, whole in zip(
        training_split(config, root=first_images), training_split(config, root=tmp_path),
        strict=True,
    ):  # fmt: skip
        assert_the_same(first, whole)


def test_official_images_are_those_of_cifar10_and_no_others(first_images):
    data = load("cifar10", root=first_images)
    assert (data.split, data.images.dtype, data.images.shape[1:]) == (
        "test[0:1017]", torch.uint8, (3, 32, 32)
    )  # fmt: skip
    assert data.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # CIFAR-10's test order
    # CIFAR-10's training order; a batch begins with another image.
    train = load("cifar10", EVERY, root=first_images)
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    config = TrainConfig(dataset="cifar10", train_indices=FIVE, n_validation=585)
    assert [len(part) for part in training_split(config, root=first_images)] == [4500, 585]
    second = load("cifar10", "train[10000:11017]", root=first_images)
    assert torch.equal(second.images, train.images[1017:2034])
    same = load(f"parquet:{first_images / FIRST}", name="cifar10")
    assert (same.sha256, same.split) == (data.sha256, data.split)


@pytest.mark.parametrize(
    ("split", "n", "words"),
    [
        ("test", 1018, "n must lie in 1..1017, got 1018: " + TEST_ONLY),
        ("test", 10_000, "got 10000: " + TEST_ONLY),
        ("test[1000:2000]", None, "test[1000:2000]: " + TEST_ONLY),
        ("test[1017:]", None, TEST_ONLY),
        ("train", None, "train: " + TRAIN_ONLY),
        ("train", 100, "train: " + TRAIN_ONLY),
        ("train[0:1018]", None, TRAIN_ONLY),
        ("train[:]", None, TRAIN_ONLY),
        ("train[1017:1020]", None, TRAIN_ONLY),
        ("train[0:1017,10000:11018]", None, TRAIN_ONLY),
        ("train[41017:]", None, TRAIN_ONLY),
        ("train[0:1017,10000:11017]", 2035, "n must lie in 1..2034, got 2035"),
    ],
)
def test_of_first_images_no_more_are_read_than_there_are(first_images, split, n, words):
    with pytest.raises(InvalidInput, match=re.escape(words)) as error:
        load("cifar10", split, n=n, root=first_images)
    assert "put cifar-10-python.tar.gz" in str(error.value)
    assert f"into {first_images} (from https://" in str(error.value)


@pytest.mark.parametrize("part", ["test", "train"])
def test_other_images_are_not_taken_for_the_first_ones(first_images, part, tmp_path):
    """Recompressed, shuffled, cut short or of the other part: each is another data set."""
    files = {p: f"{p}-00000-of-00001.parquet" for p in ("test", "train")}
    table = pq.read_table(first_images / FIRST / files[part]).slice(0, 1017)
    relabelled = table.set_column(
        table.schema.get_field_index("label"), "label", pa.array([0] * len(table))
    )
    (tmp_path / FIRST).mkdir()
    for other in (table.slice(0, 1016), table.take([1, 0, *range(2, 1017)]), relabelled):
        pq.write_table(other, tmp_path / FIRST / files[part])
        with pytest.raises(InvalidInput, match=f"{FIRST} does not hold the first {part} images"):
            load("cifar10", f"{part}[0:10]", root=tmp_path)
