"""Differences on one axis, as HTML: where each lies, what is cut off, and what is said in words."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from markupsafe import Markup

from bench import table
from bench.board.forest import Line, forest, line_of
from bench.stats.comparisons import comparisons
from bench.stats.intervals import Interval
from bench.stats.verdicts import Effect, Verdict, judge
from tests.board.board_records import HOSTILE, matched_pair, write_all

UP = (0.03, 0.02, 0.025, 0.03, 0.022, 0.021)


def verdict(*each: float, clear: bool = True) -> Verdict:
    mean = sum(each) / len(each)
    width = abs(mean) / 2 if clear else 2 * abs(mean)
    return judge([Effect(each, Interval(mean, mean - width, mean + width))], "here")[0]


BETTER, WORSE = verdict(*UP), verdict(*(-x for x in UP))
PERHAPS, NOTHING = verdict(*UP[:3]), verdict(*UP, clear=False)


def line(low: float, at: float, high: float, of: Verdict = NOTHING, label: str = "a − b") -> Line:
    return Line(label, Interval(at, low, high), of, "6 seeds, n = 1,000")


def places(drawn: str) -> list[tuple[float, ...]]:
    """Where every interval starts, lies and ends, in percent of the axis."""
    found = re.findall(r"--at:([\d.]+)%;--low:([\d.]+)%;--high:([\d.]+)%", drawn)
    return [(float(low), float(at), float(high)) for at, low, high in found]


def zero(drawn: str) -> set[float]:
    return {float(x) for x in re.findall(r"--zero:([\d.]+)%", drawn)}


def test_all_lie_on_one_axis_with_zero_marked_and_numbers() -> None:
    drawn = forest([line(-0.02, 0.0, 0.02), "A heading", line(0.01, 0.03, 0.06, BETTER)])
    assert zero(drawn) == {25.0}  # from -2 to +6 points
    assert places(drawn) == [(0.0, 25.0, 50.0), (37.5, 62.5, 100.0)]
    assert re.findall(r"%\">([^<]+)</i>", drawn) == ["-2", "0", "+2", "+4", "+6"]
    assert "A heading" in drawn
    assert drawn.count('role="row"') == 1 + 3


@pytest.mark.parametrize(
    ("of", "kind", "said"),
    [
        (BETTER, "better", "better"),
        (WORSE, "worse", "worse"),
        (PERHAPS, "better indication", "indication: better"),
        (NOTHING, "open", "nothing shown"),
    ],
)
def test_a_line_says_in_words_what_its_colour_and_shape_say(
    of: Verdict, kind: str, said: str
) -> None:
    drawn = forest([line(0.005, 0.029, 0.053, of)])
    assert f'class="board-interval {kind} "' in drawn
    assert f'class="board-said {kind}">{said}</span>' in drawn
    assert "+2.9 [+0.5, +5.3]" in drawn and "6 seeds, n = 1,000" in drawn
    assert 'aria-label="Differences in percentage points' in drawn


def test_one_far_beyond_the_others_is_cut_off_and_says_so() -> None:
    near = [line(-0.01, 0.0, 0.02)] * 4
    drawn = forest([*near, line(-0.5, -0.4, -0.3), line(-0.03, 0.0, 0.7)])
    assert re.findall(r"board-interval open ([\w -]*)\"", drawn) == [
        *[""] * 4, "cut-low cut-high", "cut-high",
    ]  # fmt: skip
    assert places(drawn)[4] == (0.0, 0.0, 0.0)
    assert places(drawn)[5][2] == 100.0
    assert "[-50.0, -30.0]" in drawn  # the figures are whole


@pytest.mark.parametrize("value", [0.0, 0.004, -0.3])
def test_one_seed_has_a_point_and_no_interval(value: float) -> None:
    drawn = forest([line(-math.inf, value, math.inf)])
    ((low, at, high),) = places(drawn)
    assert low == at == high
    assert 0 < min(zero(drawn)) < 100
    assert "[no interval]" in drawn


def test_folded_lines_share_the_axis_and_an_empty_fold_is_left_out() -> None:
    drawn = forest(
        [line(-0.02, 0.0, 0.02)], folded={"more": [line(0.0, 0.02, 0.06)], "nothing": []}
    )
    assert zero(drawn) == {25.0} and len(re.findall("--zero", drawn)) == 2
    assert re.findall("<summary>(.*?)</summary>", drawn) == ["more"]
    assert forest([]) == forest(["A heading"]) == ""


def test_foreign_text_is_escaped() -> None:
    drawn = forest([HOSTILE, line(0.0, 0.0, 0.0, label=HOSTILE)])
    assert "<script" not in drawn and "<img" not in drawn
    assert drawn.count("&lt;script&gt;") == 2
    assert "<b>mine</b>" in forest([line(0, 0, 0, label=Markup("<b>mine</b>"))])


def test_a_comparison_leads_to_its_table(tmp_path: Path) -> None:
    for seed in range(2):
        write_all(tmp_path, matched_pair(seed, "best", protocol="gradient"))
    (one,) = comparisons(table.build(tmp_path).groups)
    drawn = forest([line_of(one)])
    assert (
        '<a href="did-awp-help?dataset=digits&amp;threat=linf%3A0.15&amp;protocol=gradient' in drawn
    )
    assert ">AT-AWP − AT, digits</a>" in drawn
    assert "2 seeds, n = 200, gradients alone" in drawn
