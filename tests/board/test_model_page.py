"""The page of a model: its numbers, where they come from, its curves."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest

from bench import table
from bench.board import charts
from bench.board.article import measurement_label
from bench.contamination import NAME as CHECK
from bench.gap import NAME
from bench.notation import points_interval
from bench.records import store
from bench.records.store import pretty_json
from bench.schema.packing import pack_floats
from bench.stats import contrasts
from bench.table import WORST_CASE
from tests.board.board_pages import Open, checked, headers, html
from tests.board.board_records import (
    a_gap,
    make_card,
    make_record,
    matched_pair,
    prove,
    sha,
    write_all,
    write_curve,
)
from tests.contamination.toy import checked as checked_for


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
    each_way = 20 * int(after_each["attacked"].sum())
    assert f"<span>passes an image</span><b>{2 * each_way / record.n:,.0f}</b>" in page
    said = f"{each_way / record.n:,.0f} forward + {each_way / record.n:,.0f} backward"
    whole = 2 * each_way / record.worst_case_count
    assert f"{said}, {whole:,.0f} a standing image, 42 s" in page
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
    assert "Measured on digits, linf:0.15, gradient" in page
    assert "./?dataset=digits&threat=linf%3A0.15&protocol=gradient" in page
    app = open_app(recorded, "model", name=name, measurement="nonsense")
    assert "no such measurement" in app.info[0].value


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


def linked(page: str, text: str) -> dict[str, list[str]]:
    """What the address of the link with a text says."""
    (address,) = re.findall(rf'href="compare\?([^"]*)"[^>]*>{re.escape(text)}</a>', page)
    return parse_qs(unescape(address))


def test_it_leads_to_the_page_that_compares(open_app: Open, tmp_path: Path) -> None:
    """A twin in a sentence; any other model by choice, which old addresses made with `versus`."""
    write_all(tmp_path, [*matched_pair(0), make_record(make_card("third"))])
    (group,) = table.build(tmp_path).groups
    (pair,) = contrasts.pairs(group)
    vanilla, awp = pair.vanilla.card.name, pair.awp.card.name
    for name in (awp, vanilla):
        app = open_app(tmp_path, "model", name=name)
        page = html(app)
        worst = pair.comparisons[WORST_CASE]
        assert f"<strong>{points_interval(worst.difference)}</strong>" in page
        asked = {"measurement": [measurement_label(group)], "row": [awp, vanilla]}
        assert linked(page, "compare the two image by image") == asked
        assert "Compare with" not in page  # nothing chosen yet: no link
        checked(app.selectbox(key="versus").select("third").run())
        asked["row"] = [name, "third"]
        assert linked(html(app), "Compare with third") == asked
    old = open_app(tmp_path, "model", name=awp, versus=vanilla)
    assert linked(html(old), f"Compare with {vanilla}")["row"] == [awp, vanilla]
    checked(old.switch_page("bench/board/compare.py").run())
    wrong = open_app(tmp_path, "model", name=awp, versus="nobody", column="nothing")
    said = " ".join(info.value for info in wrong.info)
    assert "model that is not in this table" in said
    assert "column that this table does not have" in said


# ---------------------------------------------------------------- the security curve


@pytest.mark.parametrize(
    ("written", "known", "expected"),
    [
        ([{}], True, 0),
        ([{"threat": "linf:0.1"}, {}], True, 1),  # of two the one at the radius of the row
        ([{"threat": "linf:0.1"}], True, 0),
        ([{"split": "test[200:400]"}], True, None),  # other images
        ([{"threat": "l2:0.15"}], True, None),  # another norm
        ([{}], False, None),  # one that was handed in says nothing of a row measured here
        ([], True, None),
    ],
)
def test_a_curve_record_speaks_for_the_same_weights_and_images(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    written: list[dict[str, Any]], known: bool, expected: int | None,
) -> None:  # fmt: skip
    row = make_record(make_card("a"))
    curves = [make_record(row.card, protocol="curve", **fields) for fields in written]
    other = make_record(make_card("b"), protocol="curve")
    write_all(tmp_path, [row, other, *curves])
    prove(tmp_path, row, other, *(curves if known else []), how="measured")
    drawn: list[str] = []
    monkeypatch.setattr(charts, "security_curve", lambda record: drawn.append(record.id))
    open_app(tmp_path, "model", name="a")  # which opens on the table, not on the curve
    assert drawn == [row.id if expected is None else curves[expected].id]


# ---------------------------------------------------------------- training


def test_a_broken_gap_is_named_and_the_rest_shown(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    (path.parent / NAME).write_text('{"weights_sha256": "<script>"}')
    page = html(open_app(tmp_path, "model", name="a"))
    assert "is not a valid gap" in page
    assert "<script>" not in page


# ---------------------------------------------------------------- trained on test images?


@pytest.mark.parametrize(
    ("learnt", "changed", "said"),
    [
        (0, {}, "No sign of contamination (p "),
        (0, {}, "% of the test images, trained on, would show)."),
        (1000, {}, "Sign of contamination: test images are easier"),
        (1000, {"trained_on": "declared"}, "What it was trained on is self-declared."),
        (0, {}, "Accuracy on 1,000 test images minus 1,000 that it never saw: "),
        (0, {"dataset": "other"}, "Trained on test images: not checked."),
        (0, {"weights_sha256": sha("other")}, "Trained on test images: not checked."),
        (None, {}, "Trained on test images: not checked."),
    ],
)
def test_it_says_whether_test_images_were_learnt(
    open_app: Open, tmp_path: Path, learnt: int | None, changed: dict[str, object], said: str
) -> None:
    record = make_record(make_card("a"))
    (path,) = write_all(tmp_path, [record])
    if learnt is not None:
        own = {"dataset": record.dataset, "weights_sha256": record.card.weights_sha256}
        found = checked_for(learnt).model_copy(update={**own, **changed})
        (path.parent / CHECK).write_text(pretty_json(found))
    assert said in html(open_app(tmp_path, "model", name="a"))


def test_a_broken_check_is_named_and_the_rest_shown(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    (path.parent / CHECK).write_text('{"weights_sha256": "<script>"}')
    page = html(open_app(tmp_path, "model", name="a"))
    assert "is not a valid contamination check" in page
    assert "<script>" not in page


def test_a_gap_of_other_weights_is_not_shown(open_app: Open, tmp_path: Path) -> None:
    record = make_record(make_card("a"))
    (path,) = write_all(tmp_path, [record])
    other = a_gap(record.card).model_copy(update={"weights_sha256": sha("other")})
    (path.parent / NAME).write_text(pretty_json(other))
    assert "Training" not in headers(open_app(tmp_path, "model", name="a"))
