"""What others state of a model stands in every table, file and page; what contradicts it is marked."""

from __future__ import annotations

import csv
import io
import json

import pytest

from bench import table
from bench.exports.boards import hugging_face_files, robustbench_files
from bench.exports.data import csv_text, json_text, parquet_bytes
from bench.exports.page import page
from bench.exports.papers import latex
from bench.exports.render import markdown, terminal_table
from bench.exports.view import View
from bench.reliability import figures
from bench.schema import Figure, ThreatModel
from tests.board.board_pages import assert_harmless, columns, headers, html, methods, opener
from tests.board.board_records import HOSTILE, make_card, make_record, write_all

BALL = ThreatModel.parse("linf:0.15")
DENIED = "120 of 200 images stand here, but 125 of 200 (arXiv 1) are proven to"
CELL = "contradicted: proven ≥ 125; attacked ≤ 131"


def figure(what, source="arXiv 1", **value):
    return Figure(what=what, n=200, dataset="digits", threat=BALL, source=source, **value)


@pytest.fixture
def root(tmp_path):
    """A network of which others state something, and one of which nobody does."""
    figures = (
        figure("attacked", share="0.65", attack="PGD-20"),
        figure("proven", count=125),
        figure("proven", count=1, source=HOSTILE[:400]),
        Figure(what="clean", n=9, count=9, dataset="mnist", source="elsewhere"),
    )
    card = make_card("theirs", figures=figures, declared=("figures",), file_sha256="f" * 64)
    records = [make_record(card, robust=0.6), make_record(make_card("ours"), robust=0.5)]
    write_all(tmp_path / "r", records)
    return tmp_path / "r"


@pytest.fixture
def board(root):
    return table.build(root)


def test_every_file_says_what_is_stated_and_what_is_denied(board):
    view = View(board)
    lines = {line["model"]: line for line in csv.DictReader(io.StringIO(csv_text(board.groups)))}
    assert lines["theirs"]["stated"].startswith(CELL)
    assert lines["theirs"]["contradictions"].startswith(DENIED)
    assert (lines["ours"]["stated"], lines["ours"]["contradictions"]) == ("", "")
    (group,) = json.loads(json_text(board.groups))
    stated = group["rows"][0]["stated"]
    assert [each["measured"] for each in stated] == [120, 120, 120, None]
    assert [bool(each["contradiction"]) for each in stated] == [False, True, False, False]
    assert (stated[1]["count"], stated[1]["n"], stated[1]["threat"]) == (125, 200, "linf:0.15")
    assert "stated" not in group["rows"][1]
    text = terminal_table(board)
    assert "theirs, stated: robust at most under PGD-20 129 to 131 of 200, digits linf:0.15" in text
    for whole in (text, markdown(board).replace("\\", ""), page(view)):
        assert DENIED in whole
    assert f"Contradicted: {DENIED}" in str(robustbench_files(view))
    assert DENIED in hugging_face_files(view)["theirs.yaml"]
    assert DENIED not in hugging_face_files(view)["ours.yaml"]
    assert "<script>alert(1)" not in page(view)
    marked = [line for line in latex(view).splitlines() if "contradicted" in line]
    assert len(marked) == 1 and "theirs" in marked[0]
    assert parquet_bytes(board.groups)


def test_a_table_of_which_nobody_states_anything_has_no_such_columns(tmp_path):
    card = make_card(figures=(Figure(what="clean", n=9, count=9, dataset="mnist", source="x"),))
    write_all(tmp_path / "r", [make_record(card)])
    board = table.build(tmp_path / "r")
    assert "stated" not in csv_text(board.groups).splitlines()[0]
    assert "stated by others" not in page(View(board))
    assert figures.lines(board.groups[0]) == ()


def test_the_page_of_the_model_and_the_row_of_the_table_say_it(root, monkeypatch):
    open_app = opener(monkeypatch)
    model = open_app(root, "model", name="theirs")
    shown = html(model)
    assert DENIED in shown
    assert "f" * 64 in shown
    assert_harmless(model)
    assert columns(model, "remark") == [
        ["agrees", "contradicted", "agrees", "other images or another threat: not compared"]
    ]
    ((first, second, *_),) = columns(model, "measured here")
    assert (first, second) == (120, 120)
    landing = open_app(root, "leaderboard")
    assert DENIED in html(landing)
    said = [f"stated by others: {CELL}" in row["all"] for row in methods(landing)]
    assert sorted(said) == [False, True]
    assert "Stated by others" in headers(model)
    assert "Stated by others" not in headers(open_app(root, "model", name="ours"))
