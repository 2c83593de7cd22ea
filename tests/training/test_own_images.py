"""Networks trained on images of one's own, and what measures them finding those images again."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from awp_train import plan
from awp_train.__main__ import main
from awp_train.flags import configured
from awp_train.presets import find
from awp_train.run_files import Places, read_run
from bench.datasets import load, own_images, training_split
from bench.measure import sweep
from bench.measure.gap import gap_of_checkpoint
from bench.schema import InvalidInput
from bench.sources import checkpoint

COUNTS = {"train": 30, "test": 9}


def pictures(part: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8, C) uint8 and labels of three classes."""
    n = COUNTS[part]
    rng = np.random.default_rng(n)
    labels = np.arange(n) % 3
    images = rng.integers(0, 100, (n, 8, 8, channels), dtype=np.uint8)
    return images + (70 * labels).astype(np.uint8)[:, None, None, None], labels


def write_folder(folder: Path) -> None:
    for part in COUNTS:
        for k, (image, label) in enumerate(zip(*pictures(part, 1), strict=True)):
            (folder / part / f"class {label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / part / f"class {label}" / f"{k:03}.png")


def write_arrays(folder: Path) -> None:
    for part in COUNTS:
        images, labels = pictures(part, 2)  # as few have them, and no picture
        (folder / part).mkdir(parents=True)
        np.save(folder / part / "images.npy", images / 255)
        np.save(folder / part / "labels.npy", labels)


def write_parquet(folder: Path) -> None:
    folder.mkdir()
    for part in COUNTS:
        images, labels = pictures(part, 3)
        raw = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG")
            raw.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pa.table({"image": raw, "label": labels}), folder / f"{part}-0.parquet")


WRITERS = {"imagefolder": write_folder, "arrays": write_arrays, "parquet": write_parquet}
CHANNELS = {"imagefolder": 1, "arrays": 2, "parquet": 3}
SETTINGS = "--epochs 1 --batch 8 --arch_args width=2 --attack_steps 1 --log_attack_steps 1"


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    """Form -> a folder with the images in `my pets`, and a network that was trained on them."""
    made = {}
    for form, write in WRITERS.items():
        home = made[form] = tmp_path_factory.mktemp(form)
        write(home / "my pets")
    return made


def call(home: Path, *words: str) -> int:
    return main([*words, "--out", str(home / "out"), "--runs", str(home / "runs")])


def trained(form: str, home: Path) -> Path:
    """The network of the last epoch; trained where it is not there."""
    source = f"{form}:{home / 'my pets'}"
    words = ["run", "digits-at", "--dataset", source, "--name", "net", *SETTINGS.split()]
    assert call(home, *words) == 0
    return home / "out" / "net-last"


@pytest.mark.parametrize("form", WRITERS)
def test_a_network_is_trained_and_its_test_images_found_again(form, homes, capsys):
    home = homes[form]
    source = f"{form}:{home / 'my pets'}"
    folder = trained(form, home)
    card = checkpoint.read_card(folder)
    training, test = (load(source, part) for part in COUNTS)
    assert card.dataset == f"my-pets-{training.sha256[:8]}"
    own = card.train.own
    assert (own.sha256, own.test_sha256) == (training.sha256, test.sha256)
    assert (own.channels, own.image_size, own.class_count) == (CHANNELS[form], 8, 3)
    assert (own.n_train, own.n_test) == (30, 9)
    assert (card.class_count, card.arch_args["in_channels"]) == (3, CHANNELS[form])
    assert (card.train.n_train, card.train.n_validation) == (None, 6)

    job = sweep.make_job(folder, dataset=source, protocol="quick")
    assert job.dataset_name == card.dataset
    found = sweep.examples(job)
    assert (found.sha256, found.name) == (test.sha256, card.dataset)
    model, _ = checkpoint.load(folder)
    assert model(test.x).shape == (9, 3)

    capsys.readouterr()
    assert trained(form, home) == folder  # and is not trained again
    assert "is finished" in capsys.readouterr().err
    assert read_run(home / "runs", "net").places.data == source
    assert call(home, "resume", "net") == 0


def test_the_gap_is_measured_on_the_images_it_was_trained_on(homes):
    home = homes["imagefolder"]
    folder, source = trained("imagefolder", home), f"imagefolder:{home / 'my pets'}"
    gap, card = gap_of_checkpoint(folder, source=source)
    assert (gap.training.n, gap.test.n) == (24, 9)
    assert gap.training.examples_sha256 == training_split(card.train, source=source)[0].sha256
    with pytest.raises(InvalidInput, match="say where they lie with --dataset"):
        gap_of_checkpoint(folder)


def test_other_images_are_not_taken_for_those_of_the_card(homes):
    folder = trained("imagefolder", homes["imagefolder"])
    with pytest.raises(InvalidInput, match="say where they lie with --dataset FORM:FOLDER"):
        sweep.make_job(folder)
    other = f"arrays:{homes['arrays'] / 'my pets'}"
    with pytest.raises(InvalidInput, match="does not hold the test images of my-pets-"):
        sweep.make_job(folder, dataset=other)
    assert sweep.make_job(folder, dataset=other, dataset_name="others").dataset_name == "others"
    card = checkpoint.read_card(folder)
    with pytest.raises(InvalidInput, match="does not hold the train images of my-pets-"):
        training_split(card.train, source=other)


def test_images_in_no_parts_are_trained_on_and_never_measured_as_test_images(tmp_path):
    source = f"imagefolder:{tmp_path / 'pets'}"
    write_folder(tmp_path / "both")
    (tmp_path / "both" / "train").rename(tmp_path / "pets")
    name, own = own_images(source)
    assert (own.n_train, own.n_test, own.test_sha256) == (30, 0, None)
    folder = trained_on(source, tmp_path)
    with pytest.raises(InvalidInput, match="holds the training images of net-last"):
        sweep.make_job(folder, dataset=source)
    job = sweep.make_job(folder, dataset=source, split="train[0:5]")
    assert (job.dataset_name, len(sweep.examples(job))) == (name, 5)


def trained_on(source: str, home: Path) -> Path:
    words = ["run", "digits-natural", "--dataset", source, "--name", "net", *SETTINGS.split()]
    assert call(home, *words) == 0
    return home / "out" / "net-last"


@pytest.mark.parametrize(
    ("shape", "words"),
    [((30, 8, 6, 1), "as high as wide to train on, got 6 x 8"), ((30, 8, 8, 1), r"\(1, 7, 7\)")],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, shape, words):
    for part, sides in (("train", shape), ("test", (9, 7, 7, 1))):
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "images.npy", np.zeros(sides, np.uint8))
        np.save(tmp_path / part / "labels.npy", np.arange(sides[0]) % 3)
    with pytest.raises(InvalidInput, match=words):
        own_images(f"arrays:{tmp_path}")


def test_what_a_run_needs_is_trained_on_the_same_images(homes):
    source = f"parquet:{homes['parquet'] / 'my pets'}"
    name, own = own_images(source)
    texts = {"dataset": name, "n_train": "12", "batch": "8"}
    config = configured(find("digits-rst").config, texts, own)
    job = plan.job_of(
        "digits-rst", config, out=Path("o"), runs=Path("r"), places=Places(data=source)
    )
    needed = job.teacher
    assert (needed.config.dataset, needed.config.own, needed.places.data) == (name, own, source)
    assert needed.config.arch_args == config.arch_args
    assert plan.left_over(needed.config) == 30 - 12 - 6
    normalised = configured(find("cifar10-at").config, {"dataset": "x"}, own)
    assert normalised.mean == find("cifar10-at").config.mean
    grey = own.model_copy(update={"channels": 1})
    assert configured(find("cifar10-at").config, {"dataset": "x"}, grey).mean is None


def test_a_family_is_trained_on_a_data_set_without_presets(homes, monkeypatch):
    seen = []
    monkeypatch.setattr(plan, "train_jobs", lambda jobs, **named: seen.extend(jobs) or jobs)
    source = f"imagefolder:{homes['imagefolder'] / 'my pets'}"
    words = ["all", "--family", "digits", "--only", "at", "--seeds", "2", "--dataset"]
    assert main([*words, source]) == 0
    assert len(seen) == 4  # with and without AWP
    assert {job.config.dataset for job in seen} == {own_images(source)[0]}
    assert {job.places.data for job in seen} == {source}
    assert all(re.match(r"digits-at(-awp)?-dataset=my-pets-\w{8}", job.name) for job in seen)
    seen.clear()
    assert main([*words, "mnist"]) == 0
    assert {job.config.dataset for job in seen} == {"mnist"}
    assert {job.config.arch_args["image_size"] for job in seen} == {28}


def test_configurations_of_named_data_sets_keep_their_text():
    config = find("digits-at").config
    assert "own" not in json.loads(config.model_dump_json())
    assert config.own is None
