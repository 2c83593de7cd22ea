"""The simulation of many workers: right on sums that can be done by hand."""

from __future__ import annotations

import pytest

from bench.schema import InvalidInput
from tests.speed import scaling

COLUMNS = {"dear": [4.0, 6.0], "cheap": [1.0, 1.0]}
UNITS = [1.0, 1.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("way", "walls"),
    [
        (lambda n: scaling.longest_first(UNITS, n), {1: 12, 2: 6, 3: 6, 4: 6, 100: 6}),
        (lambda n: scaling.in_order(UNITS, n), {1: 12, 2: 7, 3: 7, 4: 6, 100: 6}),
        (lambda n: scaling.by_share(COLUMNS, n), {1: 12, 2: 7, 4: 6, 100: 6}),
    ],
    ids=["longest first", "in order", "by share"],
)
def test_the_wall_is_that_of_the_last_worker(way, walls):
    assert {n: way(n) for n in walls} == walls


def test_the_table_says_where_it_ends():
    said = scaling.table(COLUMNS, 2.0)
    assert "| 1 | 14 s | 100% |" in said and "| 100 | 8 s | 2% |" in said
    assert "longest first: more than 2 workers save less than 5%" in said
    assert "No number of workers is faster than the longest unit: 8 s." in said


def test_measured_shards_are_repeated_and_none_are_refused(tmp_path):
    assert scaling.repeated({"a": [1.0, 2.0]}, 5) == {"a": [1.0, 2.0, 1.0, 2.0, 1.0]}
    with pytest.raises(InvalidInput, match="no parts in"):
        scaling.seconds_of(tmp_path)
