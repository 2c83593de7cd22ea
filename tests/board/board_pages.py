"""Opens the board's pages headless, at an address, and reads what they show."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from bench.board import records

APP = Path(__file__).parents[2] / "app.py"
PAGES = ("leaderboard", "awp", "compare", "model", "tradeoffs", "measured", "submit", "ticket")
Open = Callable[..., AppTest]


def opener(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the board on a results folder, at a page, with an address."""

    def opened(root: Path, page: str = "", **address: str) -> AppTest:
        monkeypatch.setattr("sys.argv", ["app.py", "--results", str(root)])
        monkeypatch.setattr(records, "CACHE", root.parent / "cache")
        build_now(root)
        app = AppTest.from_file(APP, default_timeout=20)
        for key, value in address.items():
            app.query_params[key] = value
        if page:
            app.run()  # the page that opens first; a table chosen there stays chosen
            app.switch_page(f"bench/board/{page}.py")
        for key, value in address.items():
            app.query_params[key] = value
        return checked(app.run())

    return opened


def build_now(root: Path) -> None:
    """What the builder does next, without its thread and its rests."""
    records.builder(str(root)).step(at_once=True)


def checked(app: AppTest) -> AppTest:
    assert not app.exception, [e.value for e in app.exception]
    assert not app.error, "the reason is on stderr"  # what app.py says where a page raises
    return app


def html(app: AppTest) -> str:
    """All that the page shows through st.html, but for its style."""
    shown = (element.proto.body for element in app.get("html"))
    return "\n".join(body for body in shown if not body.startswith("<style>"))


def columns(app: AppTest, name: str) -> list[list[object]]:
    """A column of every data frame that has it."""
    return [list(frame.value[name]) for frame in app.dataframe if name in frame.value]


def methods(app: AppTest) -> list[dict[str, str]]:
    """What the table of methods says: name, rank, minus twin, clean, robust, checks, and all of it."""
    found = []
    for body in re.findall(
        r'<tbody class="(?:awp|vanilla|random|unknown)">.*?</td></tr></tbody>', html(app)
    ):
        cells = re.findall(r'<td (?:class|data-label)="([^"]+)"[^>]*>(.*?)</td>', body)
        said = {name: _text(cell) for name, cell in cells}
        (name,) = re.findall(r'<a class="name"[^>]*>(.*?)</a>', body)
        found.append({**said, "name": unescape(name), "all": body})
    return found


def _text(markup: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", markup)).strip()


def filters(app: AppTest) -> dict[str, str]:
    """What is chosen by the pills and boxes of a page."""
    return {widget.key: widget.value for widget in (*app.button_group, *app.selectbox)}


def headers(app: AppTest) -> list[str]:
    return [header.value for header in app.header]


def assert_harmless(app: AppTest) -> None:
    """Nothing foreign runs, is a link to a script, turns the writing, or is read as Markdown."""
    page = html(app)
    assert not set(re.findall(r"<\s*(\w+)", page)) & {"script", "img", "iframe", "svg", "object"}
    assert not re.search(r"""href\s*=\s*["']?\s*javascript""", page)
    cells = "".join(str(frame.value.to_dict()) for frame in app.dataframe)
    assert "\u202e" not in page + cells
    for kind in ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error"):
        for element in app.get(kind):
            assert "alert" not in element.value
            assert "evil" not in element.value
