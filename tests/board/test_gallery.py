"""The adversarial images on the page of a model, and the clean ones they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import digits_split
from bench.board import gallery
from bench.readers import idx
from bench.records.store import sha256_of
from bench.schema import EvaluationRecord
from bench.schema.packing import pack_ints
from tests.board.board_pages import Open, html
from tests.board.board_records import (
    make_card,
    make_record,
    sha,
    with_id,
    write_all,
)


@pytest.fixture
def shown(tmp_path: Path) -> tuple[EvaluationRecord, Path, np.ndarray]:
    """A record on the first real digits, with evidence of its FGSM column, and those images."""
    images, labels = (each[:60] for each in digits_split.read("test"))
    record = make_record(make_card("a"), n=60)
    right = record.clean_correct
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    fields |= {
        "labels": pack_ints(labels),
        "clean_predictions": pack_ints(np.where(right, labels, (labels + 1) % 10)),
        "examples_sha256": gallery.examples_sha256(images, labels),
    }
    broken = np.flatnonzero(record.adversarial_predictions("fgsm") >= 0).astype(np.int32)
    steps = np.full((len(broken) - 1, 1, 8, 8), 127, dtype=np.int8)
    scale = np.full(len(steps), 0.15 / 127, dtype=np.float32)
    adversarial = (images[broken] + np.float32(0.15)).clip(0, 1)
    (path,) = write_all(tmp_path, [with_id(fields)])
    evidence = path.with_suffix(".evidence.npz")
    np.savez_compressed(
        evidence,
        **{"fgsm/index": broken, "fgsm/steps": steps, "fgsm/scale": scale},
        **{"fgsm/exact": adversarial[-1:]},
    )
    path.unlink()
    record = with_id({**fields, "evidence_sha256": sha256_of(evidence)})
    write_all(tmp_path, [record])
    return record, evidence, adversarial


def test_the_gallery_decodes_what_the_evidence_holds(
    open_app: Open, tmp_path: Path, shown: tuple[EvaluationRecord, Path, np.ndarray]
) -> None:
    record, evidence, adversarial = shown
    found = gallery.read_examples(evidence, "fgsm", record, most=1000)
    assert not isinstance(found, str)
    broken = list(np.flatnonzero(record.adversarial_predictions("fgsm") >= 0))
    assert sorted(e.index for e in found) == broken
    for example in found:
        expected = adversarial[broken.index(example.index)]
        assert example.adversarial == pytest.approx(expected, abs=1e-6)
        assert np.abs(example.adversarial - example.clean).max() <= 0.15 + 1e-6
        assert example.after == record.adversarial_predictions("fgsm")[example.index]
        assert example.label == record.label_array[example.index]
    classes = [example.label for example in found]
    first = len(set(classes))
    assert len(set(classes[:first])) == first  # every class once before any twice
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert len(app.get("image")) == 3 * 6
    assert any("python -m bench verify" in code.value for code in app.code)


def test_other_evidence_than_the_record_names_is_not_shown(
    open_app: Open, tmp_path: Path, shown: tuple[EvaluationRecord, Path, np.ndarray]
) -> None:
    record, evidence, _ = shown
    other = record.model_copy(update={"evidence_sha256": sha("other")})
    assert "not the one that it names" in str(gallery.read_examples(evidence, "fgsm", other))
    assert "cannot be read" in str(gallery.read_examples(evidence, "cw", record))
    evidence.write_bytes(b"PK\x03\x04 not an archive")
    broken = record.model_copy(update={"evidence_sha256": sha256_of(evidence)})
    assert "cannot be read" in str(gallery.read_examples(evidence, "fgsm", broken))
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert "not the one that it names" in html(app)


@pytest.mark.parametrize(
    ("dataset", "first", "kept"),
    [("mnist", 0, 10), ("fashion_mnist", 0, 10), ("fashion_mnist-5to9", 5, 5)],
)
def test_the_clean_images_are_those_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, first: int, kept: int
) -> None:
    """By the hash in the record; other images, a damaged file or none give no picture at all."""
    name = dataset.split("-")[0]
    monkeypatch.setattr(idx, "DATA_ROOT", tmp_path)
    monkeypatch.setattr(idx, "DEBIAN", {})
    gallery.images_here.clear()
    blank = make_record(make_card("a", dataset=dataset, class_count=kept), n=4, split="test[1:5]")
    assert gallery.clean_images(blank) is None
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    (tmp_path / name).mkdir()
    for file, array in zip(idx.names("test"), (images, labels), strict=True):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4) for n in array.shape)
        (tmp_path / name / file).write_bytes(head + array.tobytes())
    gallery.images_here.clear()
    chosen = np.flatnonzero((labels >= first) & (labels < first + kept))[1:5]
    wanted = images[chosen][:, None]
    sha256 = gallery.examples_sha256(wanted, labels[chosen].astype(np.int64) - first)
    record = blank.model_copy(update={"examples_sha256": sha256})
    found = gallery.clean_images(record)
    assert found is not None and found.dtype == np.float32
    assert (found == wanted.astype(np.float32) / 255).all()
    assert gallery.clean_images(blank) is None  # which names other images
    (tmp_path / name / idx.names("test")[0]).write_bytes(b"damaged")
    gallery.images_here.clear()
    assert gallery.clean_images(record) is None
    gallery.images_here.clear()
