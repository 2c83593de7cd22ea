"""What a record's flags amount to: the same for the rank of a row and for everything that shows it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from bench import table
from bench.cli.told import names_of_flags
from bench.exports.details import details
from bench.exports.render import leaderboard_files, terminal_table
from bench.reliability.flags import (
    FLAGS,
    HOW_READ,
    Finding,
    exceeds,
    finding,
    reading,
    unranking,
)
from bench.schema import Flag
from bench.table import Row
from tests.board.board_pages import html, opener
from tests.board.board_records import make_card, make_record, write_all

ROOT = Path(__file__).parents[2]

# Flag -> values within the limit, values beyond it, in every form in which a check records them.
VALUES = {
    "train-mode": [({"modules": 0}, {"modules": 2})],
    "non-finite-logits": [({"images": 0, "of": 64}, {"images": 1, "of": 64})],
    "zero-gradients": [
        ({"share": 0.1, "share_margin": 0.0}, {"share": 0.0, "share_margin": 0.11, "images": 64})
    ],
    "gradients-in-forward": [({"calls": 0}, {"calls": 1})],
    "state-changes": [({"tensors": 0, "of": 0}, {"tensors": 1, "of": 9})],
    "few-classes": [({"classes": 4}, {"classes": 3})],
    "chance-level": [
        ({"clean": 20, "n": 100, "classes": 10}, {"clean": 15, "n": 100, "classes": 10}),
        ({"clean": 60, "majority": 40, "n": 100}, {"clean": 45, "majority": 40, "n": 100}),
        ({"clean": 5, "majority": 5, "n": 10}, {"clean": 300, "majority": 300, "n": 1000}),
    ],
    "constant-answer": [
        (
            {"class": 1, "given": 94, "others": 78, "of_others": 90, "n": 100},
            {"class": 1, "given": 100, "others": 90, "of_others": 90, "n": 100},
        )
    ],
    "one-label": [({"majority": 3, "n": 4}, {"majority": 4, "n": 4})],
    "one-step-stronger": [
        ({"fgsm": 51, "pgd20": 50, "n": 200}, {"fgsm": 52, "pgd20": 50, "n": 200}),
        ({"fgsm": 51, "pgd20-last": 50, "n": 200}, {"fgsm": 52, "pgd20-last": 50, "n": 200}),
        ({"fgsm": 70, "pgd100": 50, "n": 10_000}, {"fgsm": 71, "pgd100": 50, "n": 10_000}),
        ({"one_step": 32, "steps_20": 30, "of": 40}, {"one_step": 33, "steps_20": 30, "of": 40}),
    ],
    "more-steps-weaker": [
        ({"pgd20": 51, "pgd100": 50, "n": 200}, {"pgd20": 52, "pgd100": 50, "n": 200}),
        ({"pgd20-last": 51, "pgd100": 50, "n": 200}, {"pgd20-last": 52, "pgd100": 50, "n": 200}),
        ({"steps_5": 33, "steps_20": 30, "of": 60}, {"steps_5": 34, "steps_20": 30, "of": 60}),
    ],
    "square-breaks-more": [
        ({"n": 200, "square": 1}, {"n": 200, "square": 2}),
        (
            {"column": "autoattack", "square": 20, "n": 10_000},
            {"column": "autoattack", "square": 21, "n": 10_000},
        ),
        (
            {"white_box": 9, "square": 2, "of": 20, "queries": 100},
            {"white_box": 9, "square": 3, "of": 20, "queries": 100},
        ),
    ],
    "not-monotone": [
        (
            {"half_eps": 12, "eps": 10, "double_eps": 20, "of": 40},
            {"half_eps": 9, "eps": 20, "double_eps": 17, "of": 40},
        )
    ],
    "noise-stronger": [({"noise": 5, "attack": 3, "of": 9}, {"noise": 6, "attack": 3, "of": 9})],
    "transfer-stronger": [
        ({"transfer": 5, "attack": 3, "of": 9}, {"transfer": 6, "attack": 3, "of": 9})
    ],
    "restarts-matter": [
        ({"one_start": 9, "more": 4, "of": 40}, {"one_start": 9, "more": 5, "of": 40})
    ],
}
CASES = [(name, *form) for name, forms in VALUES.items() for form in forms]


def flagged(name, values):
    return make_record(flags=(Flag(name=name, message="Seen.", values=values),), robust=0.5)


def row_of(folder, record) -> tuple[table.Leaderboard, Row]:
    """The row of a record that stands below another one."""
    write_all(folder, [record, make_record(make_card("other"), robust=0.6)])
    board = table.build(folder)
    ((row,),) = [[r for r in g.rows if r.record.id == record.id] for g in board.groups]
    return board, row


def shown_everywhere(board, row) -> list[set[str]]:
    """The flags of a row as each place names them: Markdown, CSV, terminal and static page."""
    files = leaderboard_files(board)
    named = []
    lines = files["LEADERBOARD.md"].replace("\\", "").splitlines() + [terminal_table(board)]
    for text in (lines[-1], "\n".join(line for line in lines if f"| {row.card.name} |" in line)):
        named.append({name for name in FLAGS if name in text})
    (line,) = [
        line for line in csv.DictReader(io.StringIO(files["LEADERBOARD.csv"]))
        if line["model"] == row.card.name
    ]  # fmt: skip
    named.append(set(filter(None, line["flags"].split(", "))))
    group = board.groups[0]
    opened = details(group, row)["flags"]
    named.append({f["name"] for f in opened if not f["remedy"].startswith("No reason for doubt")})
    return named


# ---------------------------------------------------------------- a row and its flags


def test_committed_rows_show_an_unranking_flag_exactly_where_they_have_no_rank():
    rows = [row for group in table.build(ROOT / "results").groups for row in group.rows]
    assert len(rows) > 100
    for row in rows:
        shown = [name for name in row.texts["flags"].split(", ") if name]
        doubted = [name for name in shown if FLAGS[name].unrankable]
        assert bool(doubted) == (row.rank is None), (row.card.name, shown)
        assert list(unranking(row.record.whole)) == doubted


def test_a_recorded_flag_counts_where_its_values_are_beyond_the_limit(tmp_path):
    square, (within, beyond) = "square-breaks-more", VALUES["square-breaks-more"][0]
    board, row = row_of(tmp_path / "within", flagged(square, within))
    assert row.rank is not None
    assert shown_everywhere(board, row) == [set()] * 4
    (opened,) = details(board.groups[0], row)["flags"]  # it is not hidden either
    assert (opened["name"], opened["message"]) == (square, "Seen.")
    assert all(str(value) in opened["seen"] for value in within.values())
    for name, values in ((square, beyond), ("restarts-matter", {}), ("randomised", {})):
        board, row = row_of(tmp_path / name, flagged(name, values))
        assert (row.rank is None) == FLAGS[name].unrankable
        assert shown_everywhere(board, row) == [{name}] * 4
        assert row.record.flags[0].values == values  # the record is as it was


@pytest.mark.parametrize(("name", "within", "beyond"), CASES)
def test_the_limit_that_reads_a_flag_is_the_one_that_raises_it(name, within, beyond):
    assert finding(name, within) == Finding(name, False, within)
    assert reading(flagged(name, within)).flags == ()
    assert finding(name, beyond) == Finding(name, True, beyond)
    found = reading(flagged(name, beyond))
    assert [flag.name for flag in found.flags] == [name]
    assert found.unranking == ((name,) if FLAGS[name].unrankable else ())


def test_a_flag_whose_values_do_not_suffice_stands_as_recorded():
    for name in FLAGS:
        assert exceeds(name, {})
        if name not in VALUES:  # its values are not all that decided
            assert exceeds(name, {"largest_difference": 0.0, "of": 64, "n": 64, "right": 9})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("square-breaks-more", {"square": value, "n": 200}) for value in ("1", True, -1, 0.5)),
        *(
            ("square-breaks-more", {"square": 1, "n": n})
            for n in (float("nan"), float("inf"), 1e99)
        ),
        ("chance-level", {"clean": 99, "n": 100, "classes": 0}),
        ("chance-level", {"clean": 101, "n": 100, "classes": 10}),
        ("chance-level", {"clean": 0, "n": 0, "classes": 10}),
        ("one-step-stronger", {"fgsm": 1, "pgd20": 500, "n": 200}),
        ("constant-answer", {"given": 0, "others": 0, "of_others": 0, "n": 0}),
    ],
)
def test_values_that_no_count_can_have_do_not_talk_a_flag_away(name, values):
    assert exceeds(name, values)


def test_a_judge_that_looks_often_settles_randomness(tmp_path):
    record = flagged("randomised", {"largest_difference": 0.3})
    assert reading(record).unranking == ("randomised",)
    often = record.model_copy(
        update={"protocol": record.protocol.model_copy(update={"passes": 20})}
    )
    found = reading(often)
    assert (found.flags, found.unranking) == ((), ())
    ((flag, why),) = found.set_aside
    assert flag == record.flags[0]
    assert "looks 20 times" in why


def test_the_command_line_names_what_the_tables_name():
    record = flagged("square-breaks-more", {"square": 1, "n": 200})
    assert names_of_flags(record) == []
    assert names_of_flags(flagged("square-breaks-more", {"square": 2, "n": 200})) == [
        "square-breaks-more"
    ]


# ---------------------------------------------------------------- the pages


def test_the_pages_say_what_the_ranking_does(tmp_path, monkeypatch):
    record = flagged("square-breaks-more", {"square": 1, "n": 200})
    row_of(tmp_path, record)
    opened = opener(monkeypatch)
    page = html(opened(tmp_path, "model", name=record.card.name))
    assert "No flags." in page
    assert "square = 1" in page
    assert "within the limit of today" in page
    assert "It keeps the row unranked" not in page
    assert HOW_READ[:60] in html(opened(tmp_path, "measured")).replace("&#39;", "'")
