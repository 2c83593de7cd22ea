"""The page of one model: where its numbers come from, its gallery, and another model beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import table
from bench.board import gallery
from bench.board.article import measurement_label
from bench.gap import NAME
from bench.records import store
from bench.records.store import pretty_json, sha256_of
from bench.schema import EvaluationRecord
from bench.schema.packing import pack_floats, pack_ints
from bench.stats.intervals import compare_paired
from tests.board.board_pages import Open, headers, html
from tests.board.board_records import (
    a_gap,
    make_card,
    make_record,
    matched_pair,
    prove,
    sha,
    with_id,
    write_all,
    write_curve,
)


def test_it_shows_where_numbers_come_from(open_app: Open, tmp_path: Path) -> None:
    vanilla, awp = matched_pair(0, "best", split="test[1000:1200]", environment={"batch": "256"})
    column = awp.columns["fgsm"].model_copy(update={"distances": pack_floats(np.ones(awp.n))})
    columns = {**awp.columns, "fgsm": column}
    paths = write_all(tmp_path, [vanilla, awp.model_copy(update={"columns": columns})])
    write_curve(paths[1].parent)
    (paths[0].parent / "weights.safetensors").write_bytes(b"")
    app = open_app(tmp_path, "model", name=awp.card.name)
    record = store.read(paths[1])
    page = html(app)
    for text in (
        f'<h1 class="board-title">{awp.card.name}</h1>',
        record.id,
        record.card.weights_sha256,
        record.examples_sha256,
        "best (83 of 100)",
        f"name={vanilla.card.name}",  # a link to the twin
        "upper bound at every radius",
    ):
        assert text in page
    command = next(code.value for code in app.code if "bench evaluate" in code.value)
    said = "--dataset digits --split 'test[1000:1200]' --threat linf:0.15 --protocol standard"
    assert f"bench evaluate var/checkpoints/{awp.card.name} {said} --n 200 --seed 0" in command
    assert "--batch 256" in command
    assert len(app.get("plotly_chart")) == 5  # attacks, radii, classes, confusion, training
    after_each = app.dataframe[0].value
    steps = ["fgsm", "pgd", "pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(after_each["attack"]) == steps
    left = after_each["attacked"] - after_each["broken"]
    assert list(left)[-1] == record.standing("autoattack").sum()
    each = after_each["attacked"] * 40 / left  # the fixture's attacks go 20 times there and back
    assert list(after_each["passes a standing image"]) == [round(one) for one in each]
    whole = 40 * int(after_each["attacked"].sum()) / record.worst_case_count
    assert f"passes an image, {whole:,.0f} a standing image, " in page
    app = open_app(tmp_path, "model", name=vanilla.card.name)
    command = next(code.value for code in app.code if "bench evaluate" in code.value)
    assert str(paths[0].parent) in command  # where its weights are


def test_history_keeps_withdrawn_and_superseded_records(open_app: Open, tmp_path: Path) -> None:
    card = make_card("a")
    records = [make_record(card, seed=seed) for seed in range(3)]
    paths = write_all(tmp_path, [*records, make_record(make_card("b"), failure="NaN logits")])
    prove(tmp_path, *records)
    store.withdraw(paths[0], "wrong eps")
    app = open_app(tmp_path, "model", name="a")
    history = app.dataframe[-1].value.set_index("record")["state"]
    said = ["withdrawn: wrong eps", "in the table", "another record speaks for the model"]
    assert [history[record.id] for record in records] == said
    app = open_app(tmp_path, "model", name="b")
    assert "in no table" in app.info[0].value
    assert list(app.dataframe[0].value["state"]) == ["failed: NaN logits"]


def test_a_model_in_two_tables_can_be_switched(open_app: Open, recorded: Path) -> None:
    name, measurement = "digits-at-seed0-last", "digits linf:0.15 gradient n=1000"
    app = open_app(recorded, "model", name=name, measurement=measurement)
    assert app.selectbox(key="measurement").value == measurement
    page = html(app).replace("&amp;", "&")
    assert "gradient protocol" in page
    assert "./?dataset=digits&threat=linf%3A0.15&protocol=gradient" in page
    app = open_app(recorded, "model", name=name, measurement="nonsense")
    assert "no such measurement" in app.info[0].value
    app = open_app(recorded, "model", name="<b>nobody</b>")
    assert "no record here has" in app.info[0].value
    assert not app.dataframe


def test_a_name_means_the_known_row(open_app: Open, tmp_path: Path) -> None:
    """Also where another of the name stands above it and is newer: its page is one choice further."""
    records = matched_pair(0)
    awp, other = (record.card for record in records[::-1])
    forged = make_record(
        awp.model_copy(update={"weights_sha256": sha("x")}), robust=0.9, created="2099"
    )
    write_all(tmp_path, [*records, forged])
    prove(tmp_path, *records, how="measured")
    (group,) = table.build(tmp_path).groups
    measurement = measurement_label(group)
    app = open_app(tmp_path, "model", name=awp.name, measurement=measurement)
    assert records[1].id in html(app) and forged.id not in html(app)
    assert app.selectbox(key="measurement").options == [
        measurement, f"{measurement} record={forged.id}"
    ]  # fmt: skip
    app = open_app(tmp_path, "model", name=other.name, versus=awp.name)
    shown = next(f.value for f in app.dataframe if "only this" in f.value)
    ours = {row.record.id: row for row in group.rows}
    a, b = (ours[record.id] for record in records)
    expected = [compare_paired(a.standing[m], b.standing[m]) for m in group.measures]
    assert list(shown["only this"]) == [c.only_a for c in expected]


def test_two_models_are_compared_on_the_same_images(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, matched_pair(0))
    (group,) = table.build(tmp_path).groups
    a, b = group.rows
    app = open_app(tmp_path, "model", name=a.card.name, versus=b.card.name)
    shown = next(f.value for f in app.dataframe if "only this" in f.value)
    expected = [compare_paired(a.standing[m], b.standing[m]) for m in group.measures]
    assert list(shown["only this"]) == [c.only_a for c in expected]
    assert list(shown["neither"]) == [c.neither for c in expected]
    wrong = open_app(tmp_path, "model", name=a.card.name, versus="nobody", column="nothing")
    said = " ".join(info.value for info in wrong.info)
    assert "model that is not in this table" in said
    assert "column that this table does not have" in said


# ---------------------------------------------------------------- adversarial examples


@pytest.fixture
def shown(tmp_path: Path) -> tuple[EvaluationRecord, Path, np.ndarray]:
    """A record on the first real digits, with evidence of its FGSM column, and those images."""
    images, labels = (each[:60] for each in gallery.digits())
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
    assert "python -m bench verify" in html(app)


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


# ---------------------------------------------------------------- training


def test_a_broken_gap_is_named_and_the_rest_shown(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    (path.parent / NAME).write_text('{"weights_sha256": "<script>"}')
    page = html(open_app(tmp_path, "model", name="a"))
    assert "is not a valid gap" in page
    assert "<script>" not in page


def test_a_gap_of_other_weights_is_not_shown(open_app: Open, tmp_path: Path) -> None:
    record = make_record(make_card("a"))
    (path,) = write_all(tmp_path, [record])
    other = a_gap(record.card).model_copy(update={"weights_sha256": sha("other")})
    (path.parent / NAME).write_text(pretty_json(other))
    assert "Training" not in headers(open_app(tmp_path, "model", name="a"))
