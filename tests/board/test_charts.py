"""Pictures: bands over seeds, bars in cells, Pareto fronts, and what a record's own charts show."""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.board import charts, curves, scatter, tables
from bench.board.curves import band
from bench.board.points import CLEAN_AXIS, Point, front
from bench.schema.packing import pack_floats
from bench.stats.intervals import Interval, wilson
from bench.training_log import Line
from tests.board.board_records import make_card, make_record, with_id

ACCURACY, LOSS = "robust accuracy, %", "robust loss, nats"


def log(rates: dict[int, float], *, part: str = "validation", losses: bool = True) -> list[Line]:
    """Robust accuracy by epoch on 200 images of a part and, a little higher, of training."""
    return [
        {"epoch": epoch, f"{part}_n": 200, f"{part}_robust_correct": round(200 * rate),
         "train_n": 100, "train_robust_correct": round(100 * min(1, rate + 0.2))}
        | ({f"{part}_robust_loss": 2 - rate, "train_robust_loss": 1 - rate} if losses else {})
        for epoch, rate in rates.items()
    ]  # fmt: skip


# ---------------------------------------------------------------- training curves


@given(
    st.lists(
        st.dictionaries(st.integers(1, 9), st.integers(0, 200), min_size=1), min_size=1, max_size=4
    )
)
def test_a_band_holds_every_run_at_the_epochs_they_share(runs):
    logs = [log({epoch: right / 200 for epoch, right in run.items()}) for run in runs]
    shared = sorted(set.intersection(*map(set, runs)))
    found = band(logs, "validation", ACCURACY)
    if not shared:
        assert found is None
        return
    assert found is not None
    assert found.epochs == shared
    rates = np.array([[run[epoch] / 2 for epoch in shared] for run in runs])
    assert found.mean == pytest.approx(rates.mean(0))
    assert found.low == pytest.approx(rates.min(0))
    assert found.high == pytest.approx(rates.max(0))
    assert found.runs == len(runs)


def test_a_value_that_no_log_holds_has_no_band():
    assert band([log({1: 0.5}, losses=False)], "validation", LOSS) is None
    assert band([], "validation", ACCURACY) is None
    assert band([log({1: 0.5})], "test", ACCURACY) is None


VANILLA = [log({1: 0.3, 2: 0.5, 3: 0.45}), log({1: 0.32, 2: 0.48, 3: 0.41})]
AWP = [log({1: 0.3, 2: 0.49, 3: 0.52}), log({1: 0.31, 2: 0.5, 3: 0.53})]


def test_vanilla_and_awp_share_a_plot_and_differ_in_more_than_colour():
    figure = curves.training_curves({"AT": VANILLA, "AT-AWP": AWP})
    assert figure is not None
    lines = [trace for trace in figure.data if trace.name]
    accuracy = {line.name: line for line in lines if line.showlegend}
    assert list(accuracy) == [
        "AT, train", "AT, validation", "AT-AWP, train", "AT-AWP, validation",
    ]  # fmt: skip
    assert list(accuracy["AT, validation"].y) == pytest.approx([31, 49, 43])
    assert len({line.line.color for line in accuracy.values()}) == 2
    for one, other in itertools.combinations(accuracy.values(), 2):  # without any colour too
        assert (one.line.dash, one.marker.symbol) != (other.line.dash, other.marker.symbol)
    shaded = [trace for trace in figure.data if trace.fill == "tonexty"]
    assert len(shaded) == len(lines) == 8
    titles = {axis.title.text for axis in (figure.layout.yaxis, figure.layout.yaxis2)}
    assert titles == {ACCURACY, LOSS}


def test_one_run_has_no_band_and_old_logs_no_loss():
    figure = curves.training_curves({"AT": [log({1: 0.3, 5: 0.5}, losses=False)]}, kept=5)
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["training images", "validation images"]
    assert not any(trace.fill for trace in figure.data)
    assert "yaxis2" not in figure.layout
    assert curves.training_curves({"AT": [[]]}) is None
    assert curves.training_curves({}) is None


def test_test_images_are_drawn_where_every_run_logged_them():
    tested = {"AT": [log({1: 0.3}, part="test")], "AT-AWP": [log({1: 0.4}, part="test")]}
    assert curves.shown_parts(tested) == ("train", "test")
    assert "200 test images" in "".join(curves.behind(tested))
    mixed = {**tested, "AT": VANILLA}
    assert curves.shown_parts(mixed) == ("train", "validation")


# ---------------------------------------------------------------- bars

TRAINED = ("yes", "no", "random", "unknown")


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=20))
@example([(0, 1), (1, 4)])  # far below, and with the highest end
def test_bars_share_an_axis_and_stay_on_it(counts: list[tuple[int, int]]) -> None:
    intervals = [wilson(min(right, n), n) for right, n in counts]
    axis = tables.bar_axis(intervals)
    assert 0 <= axis[0] < axis[1] <= 1
    assert max(interval.high for interval in intervals) <= axis[1] + 1e-9
    for interval, trained in zip(intervals, [*TRAINED] * 20, strict=False):
        address = tables.bar(interval, axis, trained)
        picture = ElementTree.fromstring(unquote(address.removeprefix("data:image/svg+xml,")))
        line = picture[1].attrib["d"]
        low, high = (float(x) for x in re.findall(r"[\d.]+", line)[::2])
        assert 0 <= low <= high <= float(picture.attrib["width"])
    best = max(intervals, key=lambda i: i.estimate)
    assert axis[0] <= best.low + 1e-9


def test_an_axis_is_there_without_rows_and_what_is_off_it_is_an_arrow() -> None:
    assert tables.bar_axis([]) == (0.0, 1.0)
    assert tables.bar_heading((0.2, 0.75)) == "20 – 75 %"
    looks = [tables.bar(Interval(0.6, 0.5, 0.7), (0.5, 0.7), trained) for trained in TRAINED]
    looks.append(tables.bar(Interval(0.01, 0.0, 0.02), (0.5, 0.7), "yes"))
    assert len({re.sub("%23[0-9a-f]{6}", "", look) for look in looks}) == 5  # in shape


# ---------------------------------------------------------------- fronts

coordinates = st.integers(0, 12).map(float)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=30), st.booleans())
def test_nothing_beats_the_front_and_it_beats_everything_else(
    drawn: list[tuple[float, float]], more_is_better: bool
) -> None:
    points = [Point(x, Interval(y, y, y), str(k), "unknown", k) for k, (x, y) in enumerate(drawn)]

    def beats(a: Point, b: Point) -> bool:
        (ax, ay), (bx, by) = drawn[a.place], drawn[b.place]
        as_good = (ax >= bx if more_is_better else ax <= bx) and ay >= by
        return as_good and (ax, ay) != (bx, by)

    kept = front(points, more_is_better=more_is_better)
    expected = [p for p in points if not any(beats(q, p) for q in points)]
    assert sorted(kept, key=lambda p: p.place) == expected


def test_likely_awp_is_drawn_as_neither_awp_nor_not_stated() -> None:
    at = Interval(0.5, 0.5, 0.5)
    points = [
        Point(90.0, at, "awp", "yes", -1),
        Point(91.0, at, "likely", "likely", -1),
        Point(92.0, at, "unknown", "unknown", -1),
    ]
    figure = scatter.trade_off([], points, "clean accuracy, %", more_is_better=True)
    drawn = {trace.name: trace.text for trace in figure.data if trace.mode == "markers"}
    assert drawn == {
        "published, with AWP": ("awp",),
        "published, AWP likely: its code's default": ("likely",),
        "published, AWP not stated": ("unknown",),
    }


def test_twins_are_joined_by_arrows_towards_awp() -> None:
    low, high = Interval(0.5, 0.4, 0.6), Interval(0.6, 0.5, 0.7)
    points = [
        Point(90.0, low, "AT", "no", 0),
        Point(88.0, high, "AT-AWP", "yes", 1),
        Point(80.0, low, "AT-RWP", "random", 2),
    ]
    figure = scatter.trade_off(points, [], CLEAN_AXIS, more_is_better=True, joined=[(0, 1)])
    (arrow,) = (each for each in figure.layout.annotations if not each.text)
    assert (arrow.ax, arrow.ay, arrow.x, arrow.y) == (90.0, 50.0, 88.0, 60.0)
    named = {each.text for each in figure.layout.annotations if each.text}
    assert named == {"AT", "AT-AWP"}  # the front, and nothing that is beaten
    marks = {trace.name: trace.marker for trace in figure.data if trace.mode == "markers"}
    assert len({mark.color for mark in marks.values()}) == 3
    assert len({mark.symbol for mark in marks.values()}) == 3
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    assert 75 < left < 80 and 90 < right < 95  # the data with a margin, not 0 to 100
    assert 35 < bottom < 40 and 70 < top < 80  # with the intervals, which are drawn


@pytest.mark.parametrize("count", [1, 12, 60])
@pytest.mark.parametrize("more_is_better", [True, False])
def test_every_point_is_on_the_axes_and_names_do_not_lie_on_each_other(
    count: int, more_is_better: bool
) -> None:
    drawn = np.random.default_rng(count).integers(0, 13, (count, 2)).astype(float).tolist()
    points = [
        Point(x + 1, Interval(y / 12, y / 12, y / 12), f"method {k}", "yes", k)
        for k, (x, y) in enumerate(drawn)
    ]
    figure = scatter.trade_off(points, [], "cost", more_is_better=more_is_better)
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for point in points:
        x = point.x if more_is_better else np.log10(point.x)
        assert left < x < right and bottom < 100 * point.robust.estimate < top
    names = [each for each in figure.layout.annotations if each.text]
    assert len(names) <= 8
    size = (320, 380)  # the plot of a phone
    boxes = []
    for name in names:
        across = size[0] * (name.x - left) / (right - left) + (name.ax or name.xshift)
        up = size[1] * (name.y - bottom) / (top - bottom) + (-(name.ay or 0) or name.yshift or 0)
        start = across if name.xanchor == "left" else across - 6.5 * len(name.text)
        boxes.append((start, up - 8, start + 6.5 * len(name.text), up + 8))
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


# ---------------------------------------------------------------- one record


def test_answers_under_attack_are_those_of_the_record() -> None:
    record = make_record(make_card("a"), n=300)
    for column in record.columns:
        counts = charts.confusion(record, column)
        assert counts.sum() == record.n
        assert np.trace(counts) == record.standing(column).sum()
        assert list(counts.sum(axis=1)) == list(np.bincount(record.label_array, minlength=10))


def test_the_security_curve_meets_the_record_at_its_radius() -> None:
    record = make_record(make_card("a"), protocol="curve")
    assert charts.security_curve(record) is None
    near = np.where(record.worst_case_standing, 0.2, 0.1) * record.clean_correct
    column = record.columns["curve"].model_copy(update={"distances": pack_floats(near)})
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    measured = with_id({**fields, "columns": {**record.columns, "curve": column}})
    figure = charts.security_curve(measured)
    assert figure is not None
    line = figure.data[-1]
    at = {round(x, 6): y for x, y in zip(line.x, line.y, strict=True)}
    assert at[0.0] == pytest.approx(100 * measured.clean_accuracy)
    assert at[0.15] == pytest.approx(100 * measured.worst_case)
    assert all(a >= b for a, b in itertools.pairwise(line.y))
