"""What tables, files and pages say of an audit."""

from __future__ import annotations

import csv
import io

import pytest

from bench import table
from bench.exports import data, render
from bench.exports.details import details
from bench.exports.formats import text_of
from bench.exports.view import View
from bench.records import store
from bench.stats.audit import audit_bound
from tests.board.board_records import make_card, make_record


@pytest.fixture
def board(tmp_path):
    for name, hits in (("a", 0), ("b", 2), ("not-audited", 0)):
        more = {"audit": "none"} if name == "not-audited" else {}
        card = make_card(name, dataset="digits")
        store.write(make_record(card, protocol="fast", n=400, hits=hits, **more), tmp_path)
    return table.build(tmp_path)


def test_a_row_says_its_audit_and_its_bound(board):
    (group,) = board.groups
    rows = {row.card.name: row for row in group.rows}
    standing = rows["b"].record.audits[0].standing
    bound = audit_bound(standing, 60, 2)
    assert rows["b"].audit_text == f"2 of 60 broken, at most {bound.others} of {standing - 2} more"
    assert rows["a"].audit_text.startswith("0 of 60 broken, at most ")
    assert rows["not-audited"].audit_text == "not audited"
    (line,) = [each for each in group.audit_lines if each.startswith("b, audit")]
    assert line.endswith(
        f"of the other {standing - 2} (95 %), {100 * bound.others / 400:.1f} points of n = 400"
    )


def test_square_within_follows_no_gradient(board, tmp_path):
    assert not board.groups[0].gradients_alone
    store.write(make_record(make_card("a"), protocol="gradient"), tmp_path / "other")
    assert table.build(tmp_path / "other").groups[0].gradients_alone


def test_hits_lower_best_known_and_no_rank(board):
    (group,) = board.groups
    b = next(row for row in group.rows if row.card.name == "b")
    assert b.best_known.sum() == b.standing["worst_case"].sum() - 2
    assert b.standing["cascade"].sum() == b.record.audits[0].standing


def test_every_file_says_it(board):
    (group,) = board.groups
    lines = {line["model"]: line for line in csv.DictReader(io.StringIO(data.csv_text([group])))}
    assert (lines["b"]["audited"], lines["b"]["audit_hits"]) == ("60", "2")
    b = next(row for row in group.rows if row.card.name == "b")
    assert (
        int(lines["b"]["audit_at_most_more"])
        == audit_bound(b.record.audits[0].standing, 60, 2).others
    )
    assert lines["not-audited"]["audit_at_most_more"] == ""
    said = "AutoAttack broke 2 of 60 drawn at random"
    assert said in render.terminal_table(board)
    assert said in " ".join(details(group, b)["audits"])
    for name in ("text", "md", "html", "json"):
        assert said in text_of(name, View(board)), name


def test_tables_without_an_audited_column_say_nothing_of_it(tmp_path):
    store.write(make_record(make_card("a", dataset="digits")), tmp_path)
    board = table.build(tmp_path)
    assert "audit" not in data.csv_text(board.groups)
    assert board.groups[0].audit_lines == () and not board.groups[0].audited
