"""Pages with published numbers, filters and trade-offs: what they show, and how they bear bad input."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from bench import table
from bench.board import bars
from bench.board.article import MOST_ON_A_PHONE
from bench.board.pareto import Point, front
from bench.published import MARK
from bench.schema import AwpConfig
from bench.stats.intervals import Interval, wilson
from bench.table import WORST_CASE
from tests.board.board_pages import Open, checked, columns, html, opener
from tests.board.board_records import make_card, make_record, matched_pair, write_all

HOSTILE = "<script>alert(1)</script>[x](javascript:alert(3)) \u202e=1+1" + "A" * 10_000
_HEADINGS = (
    "model_id,title,authors_short,venue,year,architecture,eps,additional_data,clean_acc,"
    "reported_acc,autoattack_acc,external_acc,best_known_robust_acc,unreliable,link"
)


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


def publish(root: Path, *models: str, dataset: str = "cifar10", eps: str = "8/255") -> None:
    """A table of published numbers: each model one point below the one before."""
    lines = [
        f"{name},A title,Someone et al.,ICML 2024,2024,WideResNet-{k},{eps},{k % 2 == 0},"
        f"90.{k:02d},{60 - k}.00,{60 - k}.00,,{60 - k}.00,False,https://example.org/{k}"
        for k, name in enumerate(models)
    ]
    folder = root / "published"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([_HEADINGS, *lines]) + "\n"
    (folder / f"robustbench_{dataset}_linf.csv").write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- published numbers


def test_published_rows_stand_alone_where_nothing_is_measured(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", "Three")
    write_all(tmp_path, [make_record(make_card("ours"))])  # digits: a demo, never the landing page
    app = open_app(tmp_path)
    assert {box.key: box.value for box in app.selectbox} == {
        "dataset": "cifar10",
        "threat": "linf:8/255",
        "attack": "AutoAttack",
    }
    (shown,) = [frame.value for frame in app.dataframe]
    assert list(shown["model"]) == ["One", "Two", "Three"]
    assert set(shown["status"]) == {MARK}
    assert "rank" not in shown
    page = html(app)
    assert "Nothing is measured here yet on cifar10" in page
    assert "demo: digits, linf:0.15" in page  # where ours are
    assert MARK in page


def test_published_rows_stand_beside_ours_until_the_address_says_no(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", dataset="digits", eps="0.15")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    assert len(app.dataframe) == 2
    assert columns(app, "status") == [[MARK, MARK]]
    assert len(columns(app, "rank")) == 1
    ours_alone = open_app(tmp_path, published="false")
    assert len(ours_alone.dataframe) == 1
    assert MARK not in "".join(map(str, columns(ours_alone, "model")))
    assert not ours_alone.info
    checked(app.toggle(key="published").set_value(False).run())
    assert len(app.dataframe) == 1


def test_a_folder_of_published_numbers_alone_says_how_to_measure(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One")
    app = open_app(tmp_path)
    assert columns(app, "model") == [["One"]]
    assert "no records here yet" in app.info[0].value


def test_hostile_published_names_are_text(open_app: Open, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>[x](javascript:alert(3)) \u202e"
    publish(tmp_path, hostile, "'=1+1")
    app = open_app(tmp_path)
    page = html(app)
    assert not set(re.findall(r"<\s*(\w+)", page)) & {"script", "img", "iframe"}
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page + "".join(map(str, columns(app, "model")))
    assert not re.search(r"""href\s*=\s*["']?\s*javascript""", page)


# ---------------------------------------------------------------- filters


def test_filters_hide_rows_and_change_no_rank(open_app: Open, tmp_path: Path) -> None:
    for seed in range(3):
        write_all(tmp_path, matched_pair(seed, gain=0.1))
    (group,) = table.build(tmp_path).groups
    app = open_app(tmp_path)
    assert not app.info
    whole = app.dataframe[0].value.set_index("model")
    filtered = open_app(tmp_path, awp="no")
    some = filtered.dataframe[0].value.set_index("model")
    assert set(some["AWP"]) == {"no"} != set(whole["AWP"])
    for column in ("rank", "range", WORST_CASE):
        assert list(some[column]) == list(whole.loc[some.index, column])
    assert list(some["range"]) == [
        row.range_text for row in group.rows if row.card.name in some.index
    ]
    assert "hide 3 of 6 models" in html(filtered)
    checked(filtered.multiselect(key="awp").set_value([]).run())
    assert len(filtered.dataframe[0].value) == 6


def test_a_nonsense_filter_of_rows_falls_back_with_a_note(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("a"))])
    app = open_app(tmp_path, arch="<b>none</b>", attack="x" * 5000, published="perhaps")
    assert all(name in app.info[0].value for name in ("arch", "attack", "published"))
    assert "<b>" not in app.info[0].value
    assert columns(app, "model") == [["a"]]


def test_filters_that_leave_nothing_say_so(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One", dataset="digits", eps="0.15")
    write_all(tmp_path, [make_record(make_card("a"))])
    app = open_app(tmp_path, arch="WideResNet-0")
    assert "leave no model that is measured here" in app.info[0].value
    assert columns(app, "status") == [[MARK]]


# ---------------------------------------------------------------- bars


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=20))
def test_bars_share_an_axis_and_stay_on_it(counts: list[tuple[int, int]]) -> None:
    intervals = [wilson(min(right, n), n) for right, n in counts]
    ends = bars.axis(intervals)
    assert 0 <= ends[0] < ends[1] <= 1
    assert max(interval.high for interval in intervals) <= ends[1] + 1e-9
    for interval, perturbed in zip(intervals, [True, False, None] * 20, strict=False):
        address = bars.bar(interval, ends, perturbed=perturbed)
        picture = ElementTree.fromstring(unquote(address.removeprefix("data:image/svg+xml,")))
        line = picture[1].attrib["d"]
        low, high = (float(x) for x in re.findall(r"[\d.]+", line)[::2])
        assert 0 <= low <= high <= float(picture.attrib["width"])
    best = max(intervals, key=lambda i: i.estimate)
    assert ends[0] <= best.low + 1e-9


# ---------------------------------------------------------------- trade-offs

coordinates = st.integers(0, 12).map(float)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=30), st.booleans())
def test_nothing_beats_the_front_and_it_beats_everything_else(
    drawn: list[tuple[float, float]], more_is_better: bool
) -> None:
    points = [Point(x, y, str(k), None, k, None) for k, (x, y) in enumerate(drawn)]

    def beats(a: Point, b: Point) -> bool:
        as_good = (a.x >= b.x if more_is_better else a.x <= b.x) and a.y >= b.y
        return as_good and (a.x, a.y) != (b.x, b.y)

    kept = front(points, more_is_better=more_is_better)
    expected = [p for p in points if not any(beats(q, p) for q in points)]
    assert sorted(kept, key=lambda p: p.place) == expected


def test_trade_offs_show_ours_and_the_published(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One", dataset="digits", eps="0.15")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path, "tradeoffs")
    assert len(app.get("plotly_chart")) == 1
    page = html(app)
    assert "On the front" in [h.value for h in app.header]
    assert "name=digits-at" in page
    for axis in ("parameters", "evaluation, passes an image", "evaluation, seconds"):
        shown = open_app(tmp_path, "tradeoffs", against=axis)
        assert shown.selectbox(key="against").value == axis
        assert len(shown.get("plotly_chart")) == 1
    nothing = open_app(tmp_path, "tradeoffs", against="training, seconds")
    assert "nothing to draw" in nothing.info[0].value
    assert len(open_app(tmp_path, "tradeoffs", against="colour").info) == 1


# ---------------------------------------------------------------- every page


@pytest.mark.parametrize("page", ["", "awp", "model", "tradeoffs", "measured"])
def test_a_page_that_raises_tells_the_visitor_kindly_and_the_operator_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path, matched_pair(0))
    monkeypatch.setattr("streamlit.title", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("bench.board.article.title", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("sys.argv", ["app.py", "--results", str(tmp_path)])
    app = AppTest.from_file(Path(__file__).parents[2] / "app.py", default_timeout=20)
    app.run()
    if page:
        app.switch_page(f"bench/board/{page}.py").run()
    assert not app.exception
    assert "could not be shown" in app.error[0].value
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert "ZeroDivisionError" not in html(app) + app.error[0].value


@pytest.mark.parametrize("page", ["", "awp", "model", "tradeoffs", "measured"])
def test_hostile_cards_are_text_on_every_page(open_app: Open, tmp_path: Path, page: str) -> None:
    text = HOSTILE[:2000]
    common = {"arch": text, "authors": text, "licence": text, "link": "javascript:alert(4)"}
    vanilla = make_card("a-last", **common)
    perturbed = make_card("a-awp-last", awp=AwpConfig(gamma=0.01), pair="a-last", **common)
    write_all(tmp_path, [make_record(vanilla), make_record(perturbed, robust=0.7)])
    app = open_app(tmp_path, page, **({"name": "a-last"} if page == "model" else {}))
    shown = html(app)
    assert not set(re.findall(r"<\s*(\w+)", shown)) & {"script", "img", "iframe", "svg", "object"}
    assert not re.search(r"""href\s*=\s*["']?\s*javascript""", shown)
    assert "\u202e" not in shown


def test_a_phone_lists_no_more_than_it_can_bear(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(MOST_ON_A_PHONE + 5)))
    page = html(open_app(tmp_path))
    assert page.count("<li>") == MOST_ON_A_PHONE
    assert "and 5 more" in page


def test_an_interval_is_drawn_without_rows() -> None:
    assert bars.axis([]) == (0.0, 1.0)
    assert bars.heading((0.2, 0.75)) == "20 – 75 %"
    assert "svg" in bars.bar(Interval(0.01, 0.0, 0.02), (0.5, 0.7), perturbed=True)


def test_another_page_shows_the_table_chosen_before(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(20)))
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    assert app.selectbox(key="dataset").value == "cifar10"
    checked(app.selectbox(key="dataset").select("digits").run())
    checked(app.switch_page("bench/board/tradeoffs.py").run())
    assert app.selectbox(key="dataset").value == "digits"
    assert "Demo data" in html(app)


def test_no_chart_is_drawn_beside_a_half_imported_pandas() -> None:
    code = "import sys; from bench.board import charts; sys.modules['pandas'].Series"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    for path in (root / "bench" / "board").glob("*.py"):
        text = path.read_text()
        if "import plotly" in text and path.name != "charts.py":
            assert "from bench.board.charts import" in text, path
