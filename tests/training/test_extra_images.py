"""Extra images and pseudo-labels: every layout is read, and nothing held out or misfitting slips in."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from awp_train.__main__ import main
from awp_train.extra_images import (
    describe_extra,
    load_extra,
    pseudo_label,
    read_images,
    read_source,
    save_extra,
    shared_images,
)
from bench.datasets import load, training_split
from bench.models import build
from bench.schema import InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2}
CONFIG = TrainConfig(dataset="digits", n_train=200, n_validation=200, arch_args=ARGS)
N = 30


def loaded(path: Path, **changes: object):
    """As a run does that names the file as it is now."""
    entry = describe_extra(path)
    return load_extra(path, CONFIG.model_copy(update={"extra": entry, **changes}))


def some(n: int = N, *, channels: int = 1, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, size, size, channels) uint8 and labels 0..9 of no data set."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    return images, np.arange(n) % 10


def in_order(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) as (N, C, H, W)."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(("layout", "axes"), [("NHWC", (0, 1, 2, 3)), ("NCHW", (0, 3, 1, 2))])
def test_our_layout_both_ways_round(tmp_path, layout, axes):
    images, labels = some()
    path = tmp_path / "extra.npz"
    np.savez(path, images=images.transpose(axes), labels=labels, layout=layout)
    extra = loaded(path)
    assert extra.images.dtype == torch.uint8
    assert torch.equal(extra.images, in_order(images))
    assert extra.labels.tolist() == labels.tolist()
    assert (extra.name, extra.class_count, extra.split) == ("digits", 10, f"extra[{N}]")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_images_of_diffusion_models(tmp_path, write):
    """Keys and axes of the published .npz files; compressed ones are read too."""
    images, labels = some(channels=3, size=32)
    path = tmp_path / "cifar10.npz"
    write(path, image=images, label=labels.astype(np.int32))
    assert torch.equal(read_images(path, "cifar10")[0], in_order(images))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("numpy", ["numpy 1", "numpy 2"])
def test_the_pickle_of_rst(tmp_path, protocol, numpy):
    images, labels = some(channels=3, size=32)
    targets = labels if protocol % 2 else labels.tolist()
    raw = pickle.dumps({"data": images, "extrapolated_targets": targets}, protocol=protocol)
    if numpy == "numpy 1":  # the names as it wrote them
        for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
            old = name.replace(b"_core", b"core")
            raw = raw.replace(bytes([len(name)]) + name, bytes([len(old)]) + old)
            raw = raw.replace(name, old)
    path = tmp_path / "ti_500K_pseudo_labeled.pickle"
    path.write_bytes(raw)
    found, classes, sha256 = read_images(path, "cifar10")
    assert torch.equal(found, in_order(images))
    assert classes is not None and classes.tolist() == labels.tolist()
    entry = describe_extra(path)
    assert (entry.file, entry.n, entry.fraction) == (path.name, N, 0.5)
    assert entry.sha256 == sha256 == hashlib.sha256(raw).hexdigest()


def test_saved_images_are_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    for name, now in (("a", 1e9), ("b", 1.5e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        save_extra(tmp_path / f"{name}.npz", images, labels, source="a test")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    extra = loaded(tmp_path / "a.npz")
    assert torch.equal(extra.images, images)
    assert torch.equal(extra.labels, labels)


# ---------------------------------------------------------------- files that do not fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": some(size=7)[0]}, r"shape .*7, 7.* but digits has \(C, H, W\) = \(1, 8, 8\)"),
        ({"images": some(channels=3)[0]}, "but digits has"),
        ({"layout": "NCHW"}, "but digits has"),
        ({"layout": "CHWN"}, "layout must be NCHW or NHWC, got 'CHWN'"),
        ({"images": some()[0] / 255}, "must be uint8 or float32, got float64"),
        ({"images": some()[0].astype(np.float32)}, r"must lie in \[0, 1\]"),
        ({"images": np.full((N, 8, 8, 1), np.nan, np.float32)}, r"must lie in \[0, 1\]"),
        ({"labels": np.arange(N)}, r"20 labels are no class of digits.*0\.\.9; the first, at 10"),
        ({"labels": np.arange(N) % 10 - 1}, "the first, at 0, is -1"),
        ({"labels": np.zeros(N)}, r"whole numbers \(N,\), got float64"),
        ({"labels": np.zeros((N, 1), int)}, "whole numbers"),
        ({"labels": np.zeros(N - 1, int)}, "has 30 images, but 29 labels"),
        ({"images": np.array([{}] * N, dtype=object)}, "an array of objects.*left in place"),
        ({"labels": np.zeros(0, int)}, "is empty"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, words):
    images, labels = some()
    path = tmp_path / "extra.npz"
    np.savez(path, **({"images": images, "labels": labels, "layout": "NHWC"} | change))
    with pytest.raises(InvalidInput, match=words) as error:
        loaded(path)
    assert str(path) in str(error.value)
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, r"extra\.npz is not the file.*left in place"),
        ({"n": N + 1}, "has 30 images, this run names 31"),
        (None, "names no extra data"),
    ],
)
def test_another_file_than_the_run_names_is_refused(tmp_path, change, words):
    path = tmp_path / "extra.npz"
    np.savez(path, image=some()[0], label=some()[1])
    entry = change and describe_extra(path).model_copy(update=change)
    with pytest.raises(InvalidInput, match=words):
        loaded(path, extra=entry)
    assert path.exists()
    with pytest.raises(InvalidInput, match="no extra data at"):
        describe_extra(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected an .npz with images"),
        (b"<html>", "expected an .npz with images"),
        (b"PK\x03\x04 and so on", "truncated or damaged"),
        (b"\x80\x04", "truncated or damaged"),
        (pickle.dumps([1, 2]), "has no labels"),
        (pickle.dumps({"data": some()[0]}), "has no labels"),
        (pickle.dumps({"extrapolated_targets": "abc"}), "no array of numbers"),
        (pickle.dumps({"extrapolated_targets": [1, None]}), "no array of numbers"),
        (pickle.dumps({"extrapolated_targets": [2**70]}), "no array of numbers"),
    ],
)
def test_other_files_are_named_and_left(tmp_path, content, words):
    path = tmp_path / "extra.pickle"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words) as error:
        describe_extra(path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == content


def test_test_and_validation_images_are_refused(tmp_path):
    training, validation = training_split(CONFIG)
    path, labels = tmp_path / "extra.npz", torch.zeros(225, dtype=torch.int64)
    for part, words in ((load("digits"), "1000 test"), (validation, "200 validation")):
        few = torch.cat([training.images, part.images[:25]])
        save_extra(path, few, labels, source="a test")
        with pytest.raises(InvalidInput, match=f"of the {words} images of digits, which are never"):
            loaded(path)
        path.unlink()
    save_extra(path, training.images, training.labels, source="a test")
    assert len(loaded(path)) == 200


def test_shared_images_are_counted_once_in_any_type():
    images = load("digits", n=40).images
    many = torch.cat([images[:10], images[:10], images[30:]])
    expected = len({row.numpy().tobytes() for row in torch.cat([images[:10], images[30:]])})
    assert shared_images(images, many) == expected
    assert shared_images(images, (many * 255).round().to(torch.uint8)) == expected
    assert shared_images(images[10:30], 1 - images) == 0


# ---------------------------------------------------------------- pseudo-labels


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
    extra = loaded(path, seed=seed)
    assert len(extra) == 797 - 400
    parts = [part.images for part in (*training_split(config), extra)]
    everything = torch.cat(parts).flatten(1)
    pool = load("digits", "train").images.flatten(1)
    assert torch.equal(everything.unique(dim=0), pool.unique(dim=0))
    assert shared_images(torch.cat([*parts[:2], load("digits").images]), extra.images) == 0
    with torch.no_grad():
        answers = checkpoint.load_model(folder)(extra.x)
    assert torch.equal(extra.labels, answers.argmax(1))
    for change in ({"seed": 2}, {"n_validation": 300}):  # who may not use them
        with pytest.raises(InvalidInput, match="validation images of digits"):
            loaded(path, **change)


def test_the_same_call_gives_the_same_file(teacher, tmp_path):
    path = pseudo_label(teacher, out=tmp_path / "a")
    first = path.read_bytes()
    for folder in "ab":
        assert pseudo_label(teacher, out=tmp_path / folder).read_bytes() == first
    with pytest.raises(InvalidInput, match="holds other images or labels"):
        pseudo_label(teacher, out=tmp_path / "a", n=50)
    assert path.read_bytes() == first


def test_images_of_a_file(teacher, tmp_path):
    images, file = some()[0], tmp_path / "mine.npz"
    np.savez(file, image=images)
    path = pseudo_label(teacher, out=tmp_path, images=file)
    assert torch.equal(loaded(path).images, in_order(images))
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
    words = ["pseudo-label", str(teacher), "--n", "40", "--out", str(tmp_path / "extra")]
    assert main(words) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path == tmp_path / "extra" / "teacher-s0-last-pseudo.npz"
    pool = load("digits", "train")
    true = {x.numpy().tobytes(): int(y) for x, y in zip(pool.images, pool.labels, strict=True)}
    found = loaded(path)
    pairs = zip(found.images, found.labels.tolist(), strict=True)
    right = sum(true[x.numpy().tobytes()] == y for x, y in pairs)
    assert f"{right} of 40 equal the true labels" in err
    assert "train[397 left by the draw of seed 0]" in err
