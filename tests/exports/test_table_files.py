"""What is written of a table: Markdown, CSV, JSON and the terminal's."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.exports import render
from bench.exports.data import csv_text, json_text
from bench.notation import percent, plain, points
from bench.protocols import protocol
from bench.schema import Protocol
from bench.schema.packing import pack_bits
from bench.table import WORST_CASE
from tests.board import board_records
from tests.board.board_records import (
    make_card,
    make_record,
    matched_pair,
    named,
    other_version,
    with_differences,
    write_all,
)


def test_the_generated_files_are_the_same_wherever_and_whenever(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list(recorded.rglob("*.json"))
    random.Random(0).shuffle(files)
    for path in files:
        target = tmp_path / "elsewhere" / path.relative_to(recorded)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    first = render.leaderboard_files(table.build(recorded))
    assert first == render.leaderboard_files(table.build(tmp_path / "elsewhere"))
    assert first == render.leaderboard_files(table.build(Path("elsewhere")))
    assert set(first) == {"LEADERBOARD.md", "LEADERBOARD.csv"}


def test_stale_files_are_found(tmp_path: Path) -> None:
    write_all(tmp_path, [named("a", 0.5)])
    assert len(render.stale(tmp_path)) == 2
    written = render.write_leaderboard(tmp_path)
    assert render.stale(tmp_path) == []
    bytes_before = [path.read_bytes() for path in written]
    render.write_leaderboard(tmp_path)
    assert [path.read_bytes() for path in written] == bytes_before
    write_all(tmp_path, [named("b", 0.6)])
    assert all("stale" in sentence for sentence in render.stale(tmp_path))


def test_markdown_says_how_it_was_made_and_holds_every_row(recorded: Path) -> None:
    board = table.build(recorded)
    lines = render.markdown(board).splitlines()
    assert "python -m bench table" in lines[0]
    headings = [line for line in lines if line.startswith("## ")]
    assert ["demo: " in line for line in headings[:-1]] == [False, True, True, True]
    rows = [line for line in lines if line.startswith("|") and "| ours 0.1.0 |" in line]
    assert len(rows) == sum(len(group.rows) for group in board.groups)
    assert all("n = " in line for line in headings[:-1])
    assert sum("failed: the logits are NaN" in line for line in lines) == 2


def test_a_spreadsheet_runs_nothing(ranked: Any) -> None:
    card = make_card("a", authors='=cmd|"/c calc"!A1', arch="@SUM(A1)")
    board = ranked(make_record(card, split="+1+1", created="-2"))
    (line,) = csv.DictReader(io.StringIO(csv_text(board.groups)))
    assert (line["authors"], line["arch"]) == ('\'=cmd|"/c calc"!A1', "'@SUM(A1)")
    assert (line["split"], line["date"]) == ("'+1+1", "'-2")


def test_json_is_strict_and_in_unit_rates(ranked: Any) -> None:
    text = json_text(ranked(*matched_pair(0)).groups)
    (group,) = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert 0 < group["rows"][0]["rates"][WORST_CASE]["estimate"] < 1
    assert group["methods"][0]["differences"][WORST_CASE]["low"] is None


def test_the_terminal_table_can_be_pasted(ranked: Any) -> None:
    text = render.terminal_table(ranked(*with_differences(0.03, 0.02)))
    heading, unit, header, *rows = text.splitlines()
    assert heading == "demo: digits, linf:0.15, standard, n = 1,000, test[0:1000]"
    assert "percent" in unit
    assert header.split()[:4] == ["rank", "range", "model", "method"]
    assert sum("digits-at-awp-seed" in row for row in rows) == 2
    assert rows[-1].startswith("AT-AWP minus AT")
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb\u200b", "ab"),
        ("a\nb\tc\x00d", "a b c d"),
        ("\u2067x\ue000", "x"),
        ("x" * 10_000, "x" * 199 + "…"),
    ],
)
def test_foreign_text_becomes_one_plain_line(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_markdown_shows_hostile_text_as_text(ranked: Any) -> None:
    card = make_card("a", arch="<script>|[x](javascript:1)`www.evil.com")
    text = render.markdown(ranked(make_record(card, failure=None)))
    row = next(line for line in text.splitlines() if "script" in line)
    assert "\\<script\\>\\|\\[x\\](javascript:1)\\`www\\.evil.com" in row


def test_a_rate_is_written_with_the_digits_that_n_carries() -> None:
    assert (percent(0.5617, 1000), percent(0.5617, 10_000)) == ("56.2", "56.17")
    assert points(-0.0001) == "+0.0"


def test_column_names_that_would_overwrite_a_rate_are_refused(ranked: Any) -> None:
    record = named("a", 0.5)
    column = protocol("standard").columns[0].model_copy(update={"name": "clean"})
    outcome = record.columns["fgsm"].outcomes[0]
    bits = pack_bits(record.standing("fgsm"))
    assert outcome.standing == bits
    strange = other_version(
        record,
        protocol=Protocol(name="odd", version=1, columns=(column,)),
        columns={"clean": record.columns["fgsm"]},
    )
    board = ranked(strange)
    assert board.groups == ()
    assert "may not be named" in board.notes[0]


def test_equal_weights_under_two_names_are_two_rows(tmp_path):
    """A run whose best epoch is its last: both checkpoints keep their row, and their twins."""
    shared = board_records.sha("the same weights")
    records = [
        board_records.make_record(board_records.make_card(name, weights_sha256=shared))
        for name in ("run-best", "run-last")
    ]
    assert records[0].id == records[1].id
    board_records.write_all(tmp_path, records)
    (group,) = table.build(tmp_path).groups
    assert {row.card.name for row in group.rows} == {"run-best", "run-last"}
    assert [row.rank for row in group.rows] == [1, 1]
