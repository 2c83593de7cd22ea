"""Opens the board's pages headless, at an address, and reads what they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from bench.board import records

APP = Path(__file__).parents[2] / "app.py"
Open = Callable[..., AppTest]


def opener(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the board on a results folder, at a page, with an address."""

    def opened(root: Path, page: str = "", **address: str) -> AppTest:
        monkeypatch.setattr("sys.argv", ["app.py", "--results", str(root)])
        monkeypatch.setattr(records, "CACHE", root.parent / "cache")
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


def checked(app: AppTest) -> AppTest:
    assert not app.exception, [e.value for e in app.exception]
    assert not app.error, "the reason is on stderr"  # what app.py says where a page raises
    return app


def html(app: AppTest) -> str:
    """All that the page shows through st.html."""
    return "\n".join(element.proto.body for element in app.get("html"))


def columns(app: AppTest, name: str) -> list[list[object]]:
    """A column of every data frame that has it."""
    return [list(frame.value[name]) for frame in app.dataframe if name in frame.value]
