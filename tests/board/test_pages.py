"""Every page: it opens on all that is recorded, stays kind to bad input, shows hostile text as text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from bench import table
from bench.board import article, live, records
from bench.records.store import pretty_json, write_atomic
from bench.reliability.flags import FLAGS
from bench.schema import AwpConfig, Flag
from bench.stats.contrasts import controls, pairs
from bench.table import Group
from tests.board.board_pages import (
    APP,
    PAGES,
    Open,
    assert_harmless,
    build_now,
    checked,
    columns,
    filters,
    headers,
    html,
    methods,
)
from tests.board.board_records import (
    HOSTILE,
    make_card,
    make_record,
    matched_pair,
    publish,
    study_file,
    write_all,
)

COMMITTED = APP.parent / "results"


# ---------------------------------------------------------------- what is recorded


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what was read and ranked is kept, for all tests of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def open_alone(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., AppTest]:
    """Opens a page of the committed results at an address, as a link to it does.

    Through app.py only the page that opens first takes its table from the address here.
    """
    monkeypatch.setattr("sys.argv", ["app.py", "--results", str(COMMITTED)])
    monkeypatch.setattr(records, "CACHE", cache)

    def opened(page: str, **address: str) -> AppTest:
        app = AppTest.from_file(APP.parent / f"bench/board/{page}.py", default_timeout=60)
        for key, value in address.items():
            app.query_params[key] = value
        return checked(app.run())

    return opened


@pytest.fixture(scope="module")
def tables(cache: Path) -> tuple[Group, ...]:
    return table.build(COMMITTED, cache=cache).groups


TABLES = ("leaderboard", "awp", "tradeoffs", "model")  # pages that show one


@pytest.mark.parametrize(
    ("page", "every"),
    [
        *((page, False) for page in TABLES),
        *(pytest.param(p, True, marks=pytest.mark.slow) for p in TABLES),
    ],
)
def test_a_page_opens_on_the_committed_tables(
    open_alone: Callable[..., AppTest], tables: tuple[Group, ...], page: str, every: bool
) -> None:
    """Every table on some page; slowly, every table on every other page too."""
    assert len(tables) > 4
    mine = tables[TABLES.index(page) :: len(TABLES)]
    for group in [group for group in tables if group not in mine] if every else mine:
        asked = article.table_address(group)
        if page == "awp" and not pairs(group):
            continue  # nothing to compare: no table of that page
        if page == "model":
            asked = article.model_address(group, group.rows[0])
        app = open_alone(page, **asked)
        shown = {key: value for key, value in filters(app).items() if key in asked}
        assert shown == {key: asked[key] for key in shown}
        assert len(shown) >= (1 if page == "model" else 3)  # no box where there is one choice
        if page != "model":
            assert not app.info  # an address that no record here has is answered so
        if page == "awp":
            assert headers(app)[-1] == "Studies"
            compared = [len(names) for names in columns(app, "twin")]
            each = [len(control.pairs) for control in controls(group)]
            assert compared == [len(pairs(group)), *each]


def test_how_it_is_measured_needs_no_records(open_app: Open, tmp_path: Path) -> None:
    app = open_app(tmp_path, "measured")
    page = html(app)
    for text in ("can only lower it", "CW-inf (margin PGD-100)", "square(queries=5000", *FLAGS):
        assert text in page
    checked(app.selectbox(key="norm").select("l1").run())
    assert "large_steps=True" in html(app)


def test_links_to_how_it_is_measured_lead_to_one_of_its_words(
    open_app: Open, tmp_path: Path
) -> None:
    app = open_app(tmp_path, "measured")
    anchors = [element.anchor for kind in ("header", "subheader") for element in app.get(kind)]
    named = [anchor for anchor in anchors if anchor]
    assert len(named) == len(set(named))
    assert {"rank-range", "interval", "twin", "verdict", "checks", "published"} <= {*named}
    board = "".join(path.read_text() for path in (APP.parent / "bench" / "board").glob("*.py"))
    assert {*re.findall("how-it-is-measured#([a-z-]+)", board)} <= {*named}


def test_another_page_shows_the_table_chosen_before(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(20)))
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    assert filters(app)["dataset"] == "digits"
    checked(app.button_group(key="dataset").set_value("cifar10").run())
    checked(app.switch_page("bench/board/tradeoffs.py").run())
    assert filters(app)["dataset"] == "cifar10"
    checked(app.button_group(key="dataset").set_value("digits").run())
    assert "Demo data" in html(app)


def test_trade_offs_show_ours_and_the_published(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One", dataset="digits", eps="0.15")
    (_, path) = write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path, "tradeoffs")
    names = {trace["name"] for trace in json.loads(app.get("plotly_chart")[0].proto.spec)["data"]}
    assert {"published, AWP not stated", "measured here, with AWP", "front of ours"} <= names
    assert "On the front" in headers(app)
    assert "name=digits-at" in html(app)
    for axis in ("parameters", "evaluation, passes a standing image", "evaluation, seconds"):
        checked(app.selectbox(key="against").select(axis).run())
        assert len(app.get("plotly_chart")) == 1
    nothing = open_app(tmp_path, "tradeoffs", against="training, seconds")
    assert "nothing to draw" in nothing.info[0].value
    (path.parent / "train.jsonl").write_text(
        '{"seconds": 7}\n{"seconds": true}\n{"seconds": 9e99}\n'
    )
    timed = open_app(tmp_path, "tradeoffs", against="training, seconds")
    assert "training, seconds: 7;" in html(timed)
    assert len(open_app(tmp_path, "tradeoffs", against="colour").info) == 1


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("page", ["", *PAGES[1:]])
def test_every_part_of_a_page_shows_however_little_there_is(
    open_app: Open, tmp_path: Path, page: str, count: int
) -> None:
    write_all(tmp_path, [make_record(make_card(f"net-{k}", train=None)) for k in range(count)])
    app = open_app(tmp_path, page)
    assert "could not be shown" not in html(app)
    assert not count or all("no records" not in info.value for info in app.info)


@pytest.mark.parametrize("page", ["", "model", "tradeoffs"])
def test_no_records_is_a_kind_page(open_app: Open, tmp_path: Path, page: str) -> None:
    app = open_app(tmp_path / "not there", page)
    assert "no records here yet" in app.info[0].value
    assert all(word in app.code[0].value for word in ("make demo", "make train-all", "evaluate"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_raises_tells_the_visitor_kindly_and_the_operator_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path, matched_pair(0))
    monkeypatch.setattr("streamlit.title", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("bench.board.article.title", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("sys.argv", ["app.py", "--results", str(tmp_path)])
    app = AppTest.from_file(APP, default_timeout=20).run()
    if page != "leaderboard":
        app.switch_page(f"bench/board/{page}.py").run()
    assert not app.exception
    assert "could not be shown" in app.error[0].value
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert "ZeroDivisionError" not in html(app) + app.error[0].value


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records, published numbers and a study that try to run."""
    root = tmp_path_factory.mktemp("hostile")
    common: dict[str, Any] = {
        **dict.fromkeys(("arch", "authors", "licence", "extra_data", "commit"), HOSTILE),
        "link": "javascript:alert(4)",
        "selected_on": None,
    }
    vanilla = make_card("a._b_www.evil.com", **common)
    perturbed = make_card("a-awp", awp=AwpConfig(gamma=0.01), pair=vanilla.name, **common)
    said = {
        "split": HOSTILE,
        "engine_version": HOSTILE,
        "created": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
        "flags": (Flag(name="x", message=HOSTILE, values={HOSTILE: HOSTILE}),),
    }
    failed = make_record(make_card("failed"), failure=HOSTILE)
    made = [make_record(vanilla, **said), make_record(perturbed, robust=0.7, **said), failed]
    write_all(root, made)
    publish(root, HOSTILE, "'=1+1", dataset="digits", eps="0.15")
    write_atomic(root / "studies" / "one.json", pretty_json(study_file(contrast=HOSTILE[:1500])))
    return root


@pytest.mark.parametrize("page", PAGES)
def test_hostile_text_is_shown_and_cannot_run(open_app: Open, hostile: Path, page: str) -> None:
    name = {"name": "a._b_www.evil.com"} if page == "model" else {}
    app = open_app(hostile, "" if page == "leaderboard" else page, **name)
    assert_harmless(app)
    assert ("&lt;script&gt;" in html(app)) == (page in ("leaderboard", "model", "awp", "compare"))


@pytest.mark.parametrize(
    ("url", "leads"),
    [
        ("https://example.org/a?b=1", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)//https://example.org", False),
        ("data:text/html,<script>", False),
        ("https:///no-host", False),
        ("//example.org", False),
        ("https://[broken", False),
        ('https://a.org/"onmouseover="alert(1)', True),
        ("", False),
    ],
)
def test_only_web_addresses_become_links(url: str, leads: bool) -> None:
    shown = str(article.link(url))
    assert ("<a href=" in shown) == leads
    assert '"onmouseover' not in shown
    assert "<script" not in shown


# ---------------------------------------------------------------- a folder that changes


def test_a_new_record_shows_without_a_restart(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("first"))])
    app = open_app(tmp_path, runs="true")
    write_all(tmp_path, [make_record(make_card("second"), robust=0.7)])
    checked(app.run())
    assert columns(app, "model") == [["first"]]  # the last finished view, at once
    build_now(tmp_path)
    checked(app.run())
    assert columns(app, "model") == [["second", "first"]]
    # Seconds until an open page asks, with some left to read and draw.
    assert live.LOOK + records.LOOK_AGAIN < 10


def test_a_page_is_made_from_one_view(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    title, swapped = article.paragraph, list[int]()

    def paragraph(*said: Any) -> None:
        if not swapped:  # the builder ends another view while the page is drawn
            swapped.append(len(records.leaderboard().groups[0].rows))
            write_all(tmp_path, matched_pair(1))
            build_now(tmp_path)
            swapped.append(len(records.leaderboard().groups[0].rows))
        title(*said)

    monkeypatch.setattr("bench.board.article.paragraph", paragraph)
    assert len(columns(checked(app.switch_page("bench/board/tradeoffs.py").run()), "model")) == 0
    assert swapped == [2, 2]
    checked(app.switch_page("bench/board/leaderboard.py").run())
    assert [row["all"].count("<tr><th") - 1 for row in methods(app)] == [2, 2]


def test_a_record_that_goes_meanwhile_is_a_kind_page(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    app = open_app(tmp_path, "model", name="a")
    path.unlink()
    checked(app.run())
    assert "gone" in app.info[0].value


@pytest.mark.slow
def test_no_chart_is_drawn_beside_a_half_imported_pandas() -> None:
    code = "import sys; from bench.board import charts; sys.modules['pandas'].Series"
    subprocess.run([sys.executable, "-c", code], cwd=APP.parent, check=True)
    for path in (APP.parent / "bench" / "board").glob("*.py"):
        text = path.read_text()
        if "import plotly" in text and path.name != "charts.py":
            assert "from bench.board.charts import" in text, path
