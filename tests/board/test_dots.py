"""Clean against robust as HTML: every point has its place and its link, and no name is markup."""

from __future__ import annotations

import re

import pytest

from bench.board.dots import dots
from bench.board.points import Point
from bench.stats.intervals import Interval

EVIL = '<img src=x onerror=alert(1)>&"'


def made(count: int, name: str = "method") -> list[Point]:
    kinds = ("no", "yes", "random", "unknown")
    return [
        Point(
            80 + 19 * k / count,
            Interval(k / count, k / count, k / count),
            f"{name} {k}",
            kinds[k % 4],
            k,
        )
        for k in range(count)
    ]


def places(html: str, kind: str) -> list[tuple[float, ...]]:
    found = re.findall(rf'class="{kind}[^"]*" style="left:([\d.-]+)%;bottom:([\d.-]+)%', html)
    return [tuple(map(float, each)) for each in found]


@pytest.mark.parametrize("count", [1, 4, 60])
def test_every_point_is_a_link_inside_the_plot(count: int) -> None:
    html = dots(made(count), [], lambda point: f"model?name={point.place}")
    found = places(html, "dot")
    assert len(found) == count and len(set(found)) == count
    assert all(0 <= value <= 100 for place in found for value in place)
    assert [x for x, _ in found] == sorted(
        x for x, _ in found
    )  # more clean accuracy, farther right
    assert html.count('href="model?name=') == count
    assert len(places(html, "name")) <= 8


def test_an_arrow_leads_from_the_twin_to_the_one_with_awp() -> None:
    twin = Point(90.0, Interval(0.5, 0.4, 0.6), "AT", "no", 0)
    awp = Point(88.0, Interval(0.6, 0.5, 0.7), "AT-AWP", "yes", 1)
    html = dots([twin, awp], [(0, 1)], lambda point: "")
    start, end = places(html, "dot")
    assert places(html, "arrow") == [start]
    ((across, up),) = re.findall(r"--dx:([\d.-]+);--dy:([\d.-]+)", html)
    assert 100 * float(across) == pytest.approx(end[0] - start[0], abs=0.03)
    assert 100 * float(up) == pytest.approx(end[1] - start[1], abs=0.03)
    ends = places(html, "range")  # where their intervals begin
    assert [x for x, _ in ends] == [start[0], end[0]] and ends[0][1] < start[1] < end[1]


def test_names_and_addresses_of_others_are_no_markup() -> None:
    html = dots(made(3, EVIL), [], lambda point: f"model?name={EVIL}")
    assert "&lt;img" in html and "<img" not in html and html.count('"') % 2 == 0


def test_the_legend_names_what_is_drawn_and_nothing_else() -> None:
    html = dots(made(2), [], lambda point: "")
    assert "with AWP" in html and "random perturbation" not in html
