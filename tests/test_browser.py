"""The board in a real browser: it loads, filters by URL, opens a model, and hostile text stays text."""

from __future__ import annotations

import csv
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import results
from tests import board_records

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed"),
]
ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "var" / "screenshots"
HOSTILE = "<script>document.title='taken'</script>**bold** [x](javascript:alert(1)) \u202etxt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fixture records, one of them with hostile text."""
    folder = tmp_path_factory.mktemp("results")
    board_records.write_example(folder)
    card = board_records.make_card("hostile", authors=HOSTILE, link="javascript:alert(1)")
    board_records.write_all(folder, [board_records.make_record(card)])
    return folder


@pytest.fixture(scope="module")
def board(folder) -> Iterator[str]:
    """The address of a server that shows the fixture records."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--", "--results", str(folder)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
            break
        except OSError:
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield address
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
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


def visit(browser, address, *, width=1280, dark=False):
    """A page that has settled, with the errors that its console and network showed."""
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("dialog", lambda dialog: page.wrong.append(f"dialog: {dialog.message}"))
    page.on(
        "request",
        lambda r: (
            page.wrong.append(r.url) if "127.0.0.1" not in r.url and r.url[:4] == "http" else 0
        ),
    )
    page.goto(address)
    page.get_by_role("heading", level=1).wait_for(timeout=30_000)
    page.locator('[data-testid="stDataFrame"], [data-testid="stCode"], table').first.wait_for(
        state="attached"
    )
    page.wait_for_load_state("networkidle")
    return page


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(800)
    page.screenshot(path=SHOTS / f"{name}.png")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_leaderboard_loads_and_fits(board, browser, width, dark):
    page = visit(browser, board, width=width, dark=dark)
    assert "leaderboard" in page.get_by_role("heading", level=1).inner_text().lower()
    assert page.locator('[data-testid="stDataFrame"]').count() >= 1
    assert page.locator('[data-testid="stException"]').count() == 0
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 1, "the page scrolls sideways"
    shot(page, f"leaderboard-{width}-{'dark' if dark else 'light'}")
    assert page.wrong == []


def test_a_shared_url_shows_its_view_and_nonsense_falls_back(board, browser):
    page = visit(browser, f"{board}/?dataset=digits")
    assert page.get_by_text("Demo data").count() >= 1
    page = visit(browser, f"{board}/?dataset=%3Cscript%3Ealert(1)%3C/script%3E&threat=nonsense")
    assert page.locator('[data-testid="stAlert"]').count() == 1
    assert page.locator('[data-testid="stDataFrame"]').count() >= 1
    assert page.wrong == []


def test_hostile_text_is_shown_as_text(board, browser):
    page = visit(browser, f"{board}/model?name=hostile")
    text = page.locator("body").inner_text()
    assert "<script>" in text
    assert "**bold**" in text
    assert "\u202e" not in text
    assert page.title() != "taken"
    assert page.locator('a[href^="javascript"]').count() == 0
    assert page.wrong == []


def test_model_page_and_how_it_is_measured(board, browser):
    page = visit(browser, f"{board}/model?name=hostile")
    page.get_by_role("heading", name="Provenance").wait_for()
    code = " ".join(page.locator('[data-testid="stCode"]').all_text_contents())
    assert "bench evaluate" in " ".join(code.split())
    shot(page, "model-1280-light")
    page = visit(browser, f"{board}/how-it-is-measured", width=390)
    assert "PGD-20" in page.locator("body").inner_text()
    shot(page, "measured-390-light")
    assert page.wrong == []


def test_csv_download_holds_the_records(board, folder, browser):
    page = visit(browser, f"{board}/?dataset=digits")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV", exact=True).click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    lines = list(csv.DictReader(io.StringIO(text)))
    recorded = {record.id: record for record in results.collect(folder).records}
    assert len(lines) > 1
    for line in lines:
        record = recorded[line["record"]]
        assert record.card.name == line["model"]
        assert float(line["worst_case"]) == pytest.approx(100 * record.worst_case, abs=0.006)
        assert int(line["n"]) == record.n
