"""What LEADERBOARD.md says first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench import table
from bench.exports import render, summary
from bench.stats.comparisons import answer_in_a_sentence, comparisons
from bench.stats.contrasts import answers
from bench.stats.method_rows import method_table
from bench.table import Group
from tests.board.board_records import (
    HOSTILE,
    make_card,
    make_record,
    matched_pair,
    named,
    write_all,
)


def opening(root: Path) -> str:
    """What stands before the first whole table, as it is read."""
    text = render.markdown(table.build(root))
    assert text.index("# Leaderboard") < 120
    return text.split("\n## ")[0].replace("\\", "")


def test_it_opens_with_the_answer_and_every_verdict_and_agrees_with_the_tables(
    tmp_path: Path,
) -> None:
    for seed in range(3):
        write_all(tmp_path, matched_pair(seed, "best", gain=0.05 + 0.01 * seed, n=400))
        write_all(tmp_path, matched_pair(seed, "best", dataset="mnist", gain=0.0, n=200))
    said = opening(tmp_path)
    groups = table.build(tmp_path).groups
    found = comparisons(groups)
    assert answer_in_a_sentence(found) in said
    for one in found:
        (line,) = re.findall(rf"^\| {re.escape(one.label)} \|.*$", said, re.MULTILINE)
        assert line.endswith(f"| {one.verdict.standing} | {one.group.n:,} | 3 |")
    assert [one.verdict.standing for one in found] != ["nothing shown"] * 2
    for group in groups:
        rows = method_table(group, answers(group), ()).rows
        for row in rows:
            assert f"| {row.name} | {row.range_text} | 3 |" in said


def test_it_names_five_methods_a_table_and_none_without_a_rank(ranked: Any) -> None:
    board = ranked(*(named(f"net{k}", 0.3 + k / 20) for k in range(8)))
    (group,) = board.groups
    (heading, lines) = summary.blocks([group], answers, lambda group: ())[1:]
    assert heading.endswith("the first 5")
    assert re.findall(r"net\d", lines) == ["net7", "net6", "net5", "net4", "net3"]


def test_it_says_nothing_of_nothing(ranked: Any) -> None:
    def fails(group: Group) -> Any:
        raise AssertionError("nothing to compare")

    assert summary.blocks((), fails, fails) == []
    text = "\n".join(summary.blocks(ranked(named("a", 0.5)).groups, answers, lambda group: ()))
    assert "Not measured" not in text and "AWP" not in text


def test_foreign_names_are_text(ranked: Any) -> None:
    board = ranked(make_record(make_card("a", arch=HOSTILE, link="javascript:alert(1)")))
    text = "\n".join(summary.blocks(board.groups, answers, lambda group: ()))
    assert "<script" not in text and "](" not in text
