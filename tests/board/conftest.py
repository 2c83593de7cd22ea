"""The pages run headless, the records that they show, and one real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.board.board_pages import Open, opener
from tests.board.board_records import write_example


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder such as the project will have; no test writes to it."""
    root = tmp_path_factory.mktemp("example")
    write_example(root)
    return root


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )  # fmt: skip
        yield chromium
        chromium.close()
