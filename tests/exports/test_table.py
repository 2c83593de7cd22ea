"""The table: who speaks for a model, and who may stand beside whom."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.exports import render
from bench.exports.data import csv_text, json_text
from bench.protocols import protocol
from bench.records import store
from bench.schema import AttackSpec, Column, Flag, Protocol
from bench.stats.contrasts import methods, pairs
from bench.table import WORST_CASE, Leaderboard
from tests.board.board_records import (
    asked_by,
    make_card,
    make_record,
    matched_pair,
    named,
    other_version,
    rewrite,
    sha,
    write_all,
)

# ---------------------------------------------------------------- ranking


def test_rows_are_ranked_by_worst_case_and_ties_share_a_rank(ranked: Any) -> None:
    board = ranked(named("c", 0.5), named("b", 0.6), named("a", 0.6), named("d", 0.7))
    rows = board.groups[0].rows
    assert [(row.rank, row.card.name) for row in rows] == [(1, "d"), (2, "a"), (2, "b"), (4, "c")]


def test_a_doubtful_row_stands_last_without_a_rank_and_says_why(ranked: Any) -> None:
    masked = (Flag(name="zero-gradients", message="."), Flag(name="few-classes", message="."))
    mild = (Flag(name="few-classes", message="."),)
    board = ranked(
        named("masked", 0.8, flags=masked),
        named("a", 0.6, flags=mild),
        named("b", 0.5),
        named("also-masked", 0.9, flags=masked),
    )
    rows = board.groups[0].rows
    assert [(row.rank, row.card.name) for row in rows] == [
        (1, "a"),
        (2, "b"),
        (None, "also-masked"),
        (None, "masked"),
    ]
    assert [row.unranked for row in rows] == ["", "", *2 * ["unranked: zero-gradients"]]
    for text in (render.markdown(board), render.terminal_table(board)):
        assert text.count("unranked: zero-gradients") == 2
        assert text.index("unranked") > text.index("b")
    lines = list(csv.DictReader(io.StringIO(csv_text(board.groups))))
    assert [line["rank"] for line in lines] == ["1", "2", "", ""]
    assert lines[2]["flags"] == "zero-gradients, few-classes"
    shown = json.loads(json_text(board.groups))[0]["rows"]
    assert [row["rank"] for row in shown] == [1, 2, None, None]


def test_a_doubtful_row_proves_nothing_about_a_method(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    doubt = (Flag(name="zero-gradients", message="."),)
    board = ranked(vanilla, make_record(awp.card, robust=0.9, flags=doubt))
    (pair,) = pairs(board.groups[0])
    assert pair.remark == "unranked: zero-gradients"
    assert not pair.matched
    assert methods(board.groups[0]) == ()


def test_a_row_says_what_its_record_says(ranked: Any) -> None:
    record = named("a", 0.6, clean=0.9)
    row = ranked(record).groups[0].rows[0]
    assert row.rates["clean"].estimate == record.clean_accuracy == 0.9
    assert row.rates[WORST_CASE].estimate == record.worst_case
    assert {name: row.rates[name].estimate for name in record.columns} == record.robust_accuracy
    assert row.rates[WORST_CASE].low < record.worst_case < row.rates[WORST_CASE].high


def test_groups_never_mix_what_cannot_be_compared(ranked: Any) -> None:
    kinds = (
        {},
        {"n": 100},
        {"threat": "linf:0.1"},
        {"threat": "l2:0.5"},
        {"protocol": "gradient"},
        {"split": "test[200:400]"},
        {"examples_sha256": sha("other images")},
    )
    board = ranked(*(named(f"m{k}", 0.5, **kind) for k, kind in enumerate(kinds)))
    assert len(board.groups) == len(kinds)
    assert len({group.key for group in board.groups}) == len(kinds)


def test_another_meaning_of_a_protocol_name_is_another_table(ranked: Any) -> None:
    weak = Column(name="pgd20", attacks=(AttackSpec(name="pgd", params={"steps": 2}),))
    foreign = asked_by(named("weak", 0.9), Protocol(name="standard", version=7, columns=(weak,)))
    honest, strange = ranked(named("honest", 0.5), foreign).groups
    assert {honest.protocol_label, strange.protocol_label} == {
        "standard",
        f"standard (id {foreign.protocol.protocol_id})",
    }
    header = next(csv.reader(io.StringIO(csv_text([honest, strange]))))
    pgd20 = protocol("standard").columns[1]
    assert {f"pgd20@{pgd20.column_id}", f"pgd20@{weak.column_id}"} <= set(header)
    assert "pgd20" not in header


@pytest.mark.parametrize(
    ("speaks", "silent"),
    [
        ({"engine": "ours"}, {"engine": "reference"}),
        ({"precision": "float32"}, {"precision": "mixed"}),
        ({"seed": 0}, {"seed": 1}),
        (
            {"engine_version": "2", "created": "2026-11-20T12:00:00Z"},
            {"engine_version": "1", "created": "2026-11-19T12:00:00Z"},
        ),
    ],
    ids=["our engine", "float32", "lowest seed", "newest"],
)
def test_which_record_speaks_for_a_model(ranked: Any, speaks: dict, silent: dict) -> None:
    record = named("a", 0.5)
    first, second = other_version(record, **speaks), other_version(record, **silent)
    (row,) = ranked(second, first).groups[0].rows
    assert row.record.id == first.id
    assert row.record_count == 2


def test_a_rank_range_is_fixed_by_the_whole_group(ranked: Any, tmp_path: Path) -> None:
    masked = (Flag(name="zero-gradients", message="."),)
    shares = {"a": 0.8, "b": 0.6, "c": 0.59, "d": 0.4}
    doubtful = named("doubtful", 0.7, flags=masked)
    group = ranked(*(named(*model) for model in shares.items()), doubtful).groups[0]
    assert [row.range_text for row in group.rows] == ["1", "2-3", "2-3", "4", ""]
    assert [row.rank_range for row in group.rows] == [(1, 1), (2, 3), (2, 3), (4, 4), None]
    (note,) = group.separation_notes
    assert "Holm over 6 pairs at 5 % family-wise" in note
    assert "5 separated, the others not separated; of 3 neighbouring pairs 2 separated" in note
    board = Leaderboard((group,), (), store.Collection())
    lines = list(csv.DictReader(io.StringIO(csv_text(board.groups))))
    assert [(x["rank_best"], x["rank_worst"]) for x in lines[2:]] == [
        ("2", "3"),
        ("4", "4"),
        ("", ""),
    ]
    assert json.loads(json_text(board.groups))[0]["rows"][1]["rank_range"] == [2, 3]
    for text in (render.markdown(board), render.terminal_table(board)):
        assert "2-3" in text
        assert "equal" not in text
    # A page that shows some rows alone shows the places that they have in the whole group.
    assert [row.range_text for row in group.rows[1:3]] == ["2-3", "2-3"]
    cached = table.build(tmp_path, cache=tmp_path / "cache").groups[0]
    again = table.build(tmp_path, cache=tmp_path / "cache").groups[0]
    assert cached.ranks == again.ranks == group.ranks


def test_the_range_over_attack_seeds_is_a_line_of_its_own(ranked: Any) -> None:
    first = named("a", 0.5, noise=0.3)
    again = [named("a", share, noise=0.3, seed=seed) for seed, share in ((1, 0.49), (2, 0.52))]
    other = other_version(first, seed=7, precision="mixed")  # not the same but for the seed
    group = ranked(first, *again, other, named("b", 0.6)).groups[0]
    b, a = group.rows
    assert b.seed_range is None
    assert a.seed_range is not None
    standing = [record.worst_case_standing.sum() for record in (first, *again)]
    assert (a.seed_range.lowest, a.seed_range.highest) == (min(standing), max(standing))
    assert a.seed_range.seeds == (0, 1, 2)
    assert group.seed_lines == ("a: worst case 49.0 – 52.0 over 3 attack seeds",)
    board = Leaderboard((group,), (), store.Collection())
    assert group.seed_lines[0] in render.terminal_table(board)


def test_best_known_is_the_intersection_of_all_standing_bits(ranked: Any) -> None:
    a = named("a", 0.5, noise=0.3)
    b = named("a", 0.5, noise=0.3, seed=1)
    row = ranked(a, b).groups[0].rows[0]
    both = a.worst_case_standing & b.worst_case_standing
    assert (row.best_known == both).all()
    assert both.sum() < a.worst_case_standing.sum()


def test_digits_come_last_and_are_called_a_demo(ranked: Any) -> None:
    other = make_record(make_card("x", dataset="zebra"), robust=0.2)
    board = ranked(named("a", 0.5), other)
    assert [group.dataset for group in board.groups] == ["zebra", "digits"]
    assert [group.heading.startswith("demo: ") for group in board.groups] == [False, True]


# ---------------------------------------------------------------- what is left out


def test_a_withdrawn_record_leaves_the_table_but_not_the_notes(tmp_path: Path) -> None:
    path, _ = write_all(tmp_path, [named("a", 0.5), named("b", 0.6)])
    store.withdraw(path, "wrong normalisation")
    board = table.build(tmp_path)
    assert [row.card.name for row in board.groups[0].rows] == ["b"]
    (note,) = board.notes
    assert "a on digits" in note
    assert "wrong normalisation" in note


def test_corrupt_failed_and_refused_files_are_named(tmp_path: Path) -> None:
    good, corrupt, edited = write_all(tmp_path, [named(k, 0.5) for k in ("a", "b", "c")])
    corrupt.write_text("{ truncated")
    rewrite(edited, n=7)
    write_all(tmp_path, [named("d", 0.5, failure="out of\nmemory")])
    good.with_suffix(".refused.json").write_text("{}")
    board = table.build(tmp_path)
    assert [row.card.name for row in board.groups[0].rows] == ["a"]
    text = "\n".join(board.notes)
    assert len(board.notes) == 4
    for path in (corrupt, edited):
        assert path.relative_to(tmp_path).as_posix() in text
        assert str(tmp_path) not in text
    assert "out of memory" in text
    assert "refused" in text


def test_a_copied_record_counts_once_and_a_forged_copy_is_named(tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [named("a", 0.5)])
    copy = path.parent.parent / "copy" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    board = table.build(tmp_path)
    assert (len(board.groups[0].rows), board.notes) == (1, ())
    rewrite(copy, split="another")
    board = table.build(tmp_path)
    assert len(board.groups[0].rows) == 1
    assert "same id" in board.notes[0]


def test_no_folder_and_an_empty_folder_have_no_rows(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        board = table.build(root)
        assert (board.groups, board.notes) == ((), ())
        assert "No records yet" in render.terminal_table(board)
        assert "No records yet" in render.markdown(board)
        assert (csv_text(board.groups), json.loads(json_text(board.groups))) == ("", [])
