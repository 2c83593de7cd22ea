"""The page of one model: attacks, security curve, gallery, and another model beside it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench import table
from bench.board import comparison, confusions, gallery, security, withstood
from bench.records.store import sha256_of
from bench.schema import EvaluationRecord
from bench.schema.packing import pack_floats, pack_ints
from bench.stats.intervals import compare_paired
from bench.table import WORST_CASE
from tests.board.board_pages import Open, html, opener
from tests.board.board_records import make_card, make_record, matched_pair, sha, with_id, write_all


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


def test_two_models_are_compared_on_the_same_images(open_app: Open, tmp_path: Path) -> None:
    records = matched_pair(0)
    write_all(tmp_path, records)
    (group,) = table.build(tmp_path).groups
    a, b = group.rows
    app = open_app(tmp_path, "model", name=a.card.name, versus=b.card.name)
    shown = next(f.value for f in app.dataframe if "only this" in f.value)
    expected = comparison.compare(a, b, group.measures)
    assert list(shown["only this"]) == [c.only_a for c in expected.values()]
    assert list(shown["neither"]) == [c.neither for c in expected.values()]
    assert expected[WORST_CASE] == compare_paired(a.standing[WORST_CASE], b.standing[WORST_CASE])
    wrong = open_app(tmp_path, "model", name=a.card.name, versus="nobody", column="nothing")
    assert {"model that is not in this table", "column that this table"} <= {
        said for said in ("model that is not in this table", "column that this table")
        if any(said in info.value for info in wrong.info)
    }  # fmt: skip


def test_answers_under_attack_are_those_of_the_record() -> None:
    record = make_record(make_card("a"), n=300)
    for column in record.columns:
        answered = confusions.answers(record, column)
        counts = confusions.confusion(record.label_array, answered, 10)
        assert counts.sum() == record.n
        assert np.trace(counts) == record.standing(column).sum()
        assert list(counts.sum(axis=1)) == list(np.bincount(record.label_array, minlength=10))


def test_the_security_curve_meets_the_record_at_its_radius(open_app: Open, tmp_path: Path) -> None:
    record = make_record(make_card("a"), protocol="curve")
    assert security.distances(record) is None
    stands = record.worst_case_standing
    near = np.where(stands, 0.2, 0.1) * record.clean_correct
    column = record.columns["curve"].model_copy(update={"distances": pack_floats(near)})
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    measured = with_id({**fields, "columns": {**record.columns, "curve": column}})
    found = security.distances(measured)
    assert found is not None
    line = security.figure(measured, found).data[-1]
    at = {round(x, 6): y for x, y in zip(line.x, line.y, strict=True)}
    assert at[0.0] == pytest.approx(100 * measured.clean_accuracy)
    assert at[0.15] == pytest.approx(100 * measured.worst_case)
    assert all(a >= b for a, b in pairwise(line.y))
    write_all(tmp_path, [measured])
    app = open_app(tmp_path, "model", name="a")
    assert "upper bound at every radius" in html(app)


def with_evidence(root: Path) -> tuple[EvaluationRecord, Path, np.ndarray]:
    """A record on the first real digits, with evidence of its FGSM column, and those images."""
    images, labels = gallery._digits()
    images, labels = images[:60], labels[:60]
    record = make_record(make_card("a"), n=60)
    right = record.clean_correct
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    fields |= {
        "labels": pack_ints(labels),
        "clean_predictions": pack_ints(np.where(right, labels, (labels + 1) % 10)),
        "examples_sha256": gallery._sha256(images, labels),
    }
    broken = np.flatnonzero(record.adversarial_predictions("fgsm") >= 0).astype(np.int32)
    steps = np.full((len(broken) - 1, 1, 8, 8), 127, dtype=np.int8)
    scale = np.full(len(steps), 0.15 / 127, dtype=np.float32)
    adversarial = (images[broken] + np.float32(0.15)).clip(0, 1)
    (path,) = write_all(root, [with_id(fields)])
    evidence = path.with_suffix(".evidence.npz")
    np.savez_compressed(
        evidence,
        **{"fgsm/index": broken, "fgsm/steps": steps, "fgsm/scale": scale},
        **{"fgsm/exact": adversarial[-1:]},
    )
    path.unlink()
    record = with_id({**fields, "evidence_sha256": sha256_of(evidence)})
    (path,) = write_all(root, [record])
    return record, path, adversarial


def test_the_gallery_decodes_what_the_evidence_holds(open_app: Open, tmp_path: Path) -> None:
    record, path, adversarial = with_evidence(tmp_path)
    evidence = path.with_suffix(".evidence.npz")
    found = gallery.read_examples(evidence, "fgsm", record, most=1000)
    assert not isinstance(found, str)
    broken = np.flatnonzero(record.adversarial_predictions("fgsm") >= 0)
    assert sorted(e.index for e in found) == list(broken)
    for example in found:
        assert example.adversarial == pytest.approx(
            adversarial[list(broken).index(example.index)], abs=1e-6
        )
        assert np.abs(example.adversarial - example.clean).max() <= 0.15 + 1e-6
        assert example.after == record.adversarial_predictions("fgsm")[example.index]
        assert example.label == record.label_array[example.index]
    classes = [example.label for example in found]
    first = len(set(classes))
    assert len(set(classes[:first])) == first  # every class once before any twice
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert len(app.get("image")) == 3 * 6
    assert "python -m bench verify" in html(app)


def test_other_evidence_than_the_record_names_is_not_shown(open_app: Open, tmp_path: Path) -> None:
    record, path, _ = with_evidence(tmp_path)
    evidence = path.with_suffix(".evidence.npz")
    other = record.model_copy(update={"evidence_sha256": sha("other")})
    assert "not the one that it names" in str(gallery.read_examples(evidence, "fgsm", other))
    assert "cannot be read" in str(gallery.read_examples(evidence, "cw", record))
    evidence.write_bytes(b"PK\x03\x04 not an archive")
    broken = record.model_copy(update={"evidence_sha256": sha256_of(evidence)})
    assert "cannot be read" in str(gallery.read_examples(evidence, "fgsm", broken))
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert "not the one that it names" in html(app)


def test_every_attack_has_its_line_in_the_order_of_the_columns(tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("a"))])
    (group,) = table.build(tmp_path).groups
    record = group.rows[0].record.whole
    shown = withstood.attack_table(group, record).to_pydict()
    assert shown["attack"] == ["fgsm", "pgd", "pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert [a - b for a, b in zip(shown["attacked"], shown["broken"], strict=True)][-1] == int(
        record.standing("autoattack").sum()
    )
