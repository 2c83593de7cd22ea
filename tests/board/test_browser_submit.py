"""The whole way of a network in a real browser: file, form, ticket, rank, badge, withdrawn."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import axe_playwright_python
import pytest

from tests.board.conftest import shot
from tests.board.serving import ROOT, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),  # it measures a network besides
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed"),
]
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
PATIENCE = 250_000  # ms: the machine may be busy


@pytest.fixture
def host(tmp_path):
    """The address of a server that takes submissions, with a worker."""
    pytest.importorskip("dbos", reason="the extra host is not installed")
    results = tmp_path / "results"
    results.mkdir()
    settings = tmp_path / "intake.toml"
    settings.write_text(
        f'root = "{tmp_path / "intake"}"\nrecords = "{results}"\nprotocols = ["quick"]\nn = 100\n'
        f'checkpoints = "{tmp_path / "checkpoints"}"\n[limits]\nreserve = 0\n'
    )
    words = [sys.executable, "-m", "bench", "work", "--intake", str(settings)]
    with (
        serving(results, "--intake", str(settings)) as address,
        (tmp_path / "worker.log").open("w") as log,
    ):
        worker = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
        yield address
        worker.terminate()
        worker.wait(20)


def visit(page, address):
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("heading", level=1).wait_for()


def barriers(page):
    """What axe finds of serious barriers on a page, shadow roots and all."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa']}).then(found => found.violations.filter("
        "v => v.impact === 'serious' || v.impact === 'critical')"
        ".map(v => v.id + ': ' + v.nodes.map(n => n.target.join(' ')).join(', ')))"
    )
    return found


def test_a_network_comes_in_is_ranked_and_is_taken_back(host, new_page, weights, tmp_path):
    page = new_page()
    visit(page, f"{host}/submit")
    page.locator("input[type=file]").wait_for(state="attached")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Choose a file of weights first.").wait_for()
    bad = tmp_path / "notes.txt"
    bad.write_text("these are notes")
    page.set_input_files("input[type=file]", bad)
    page.locator(".file.bad", has_text="Save the weights again").wait_for()
    page.set_input_files("input[type=file]", weights)
    page.locator(".file.good", has_text="fits small_cnn, width 4").wait_for()
    assert page.get_by_label("Data set").input_value() == "digits"
    assert page.get_by_label("Threat").input_value() == "linf:0.15"
    name = page.get_by_label("Name *")
    name.press_sequentially("my net")
    page.get_by_text("did you mean my-net?").wait_for()
    name.fill("my-net")
    page.get_by_text("did you mean my-net?").wait_for(state="detached")
    page.get_by_label("AWP").select_option("adversarial")
    page.get_by_label("gamma").fill("lots")
    page.get_by_text("valid number").wait_for()
    page.get_by_label("gamma").fill("0.01")
    page.get_by_label("Claimed clean accuracy, %").fill("54.9")
    page.get_by_label("Authors").fill("<script>document.title='taken'</script>")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("'weights and evidence' or 'hashes only'").or_(
        page.locator('[data-of="consent"]:not(:empty)')
    ).first.wait_for()
    page.get_by_label("Publish weights and evidence").check()
    page.get_by_text("0 of at most 100").wait_for()
    assert barriers(page) == []
    shot(page, "submit-1280")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("heading", name="It has a ticket").wait_for()
    secret = page.locator(".done code").inner_text()
    ticket = page.locator(".done a").get_attribute("href")
    assert ticket.startswith(f"{host}/ticket?id=") and len(secret) > 20

    visit(page, ticket)
    page.get_by_role("heading", level=1, name="my-net").wait_for()
    page.locator(".board-steps .done", has_text="Ranked").wait_for()  # live: nobody reloads it
    page.get_by_role("heading", name="Result").wait_for()
    page.get_by_text("claimed 54.9: inside").wait_for()
    page.locator(".board-pictures img").nth(4).wait_for()
    page.locator("img[alt='badge of my-net']").wait_for()
    assert (
        page.evaluate("document.querySelector('img[alt=\"badge of my-net\"]').naturalWidth") > 100
    )
    assert barriers(page) == [] and page.title() != "taken"
    shot(page, "ticket-1280")
    page.get_by_text("Withdraw or correct").click()
    page.get_by_label("Secret of this ticket").fill(secret)
    page.get_by_role("button", name="Withdraw").click()
    page.locator(".board-verdict", has_text="Withdrawn").wait_for()
    assert [url for url in page.asked if url[:4] == "http" and "127.0.0.1" not in url] == []
